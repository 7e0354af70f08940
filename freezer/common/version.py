"""Which version this is."""

import importlib.metadata


def version() -> str:
    """As it was installed; read from the package's metadata."""
    return importlib.metadata.version('freezer')
