"""Paths as users write them."""

import os


def absolute(path: str) -> str:
    """The absolute path, with ``~`` replaced; links are not followed."""
    return os.path.abspath(os.path.expanduser(path))
