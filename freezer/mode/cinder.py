"""Volumes of Cinder, in jobs of Freezer 19: nothing to quiesce."""

from freezer.mode.fs import FsMode


class CinderMode(FsMode):
    """Does nothing around the backup."""

    name = 'cinder'
