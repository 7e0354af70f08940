"""The version of this package."""

import importlib.metadata


def version() -> str:
    """The installed version, from the package's metadata."""
    return importlib.metadata.version('freezer')
