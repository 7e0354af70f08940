"""Servers of Nova, in jobs of Freezer 19: nothing to quiesce."""

from freezer.mode.fs import FsMode


class NovaMode(FsMode):
    """Does nothing around the backup."""

    name = 'nova'
