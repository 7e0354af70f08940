"""The version of this package."""

import importlib.metadata

from freezer.exceptions import FreezerError
from freezer.utils import streams


def version() -> str:
    """The installed version, from the package's metadata."""
    return importlib.metadata.version('freezer')


def show(prog: str) -> int:
    """Print the version of a command; returns the exit code."""
    try:
        streams.show(f'{prog} {version()}\n')
    except FreezerError as error:
        streams.say(f'Error: {error}')
        return 1
    return 0
