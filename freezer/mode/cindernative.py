"""Backups that Cinder makes itself: nothing here is read, so nothing is quiesced."""

from freezer.mode.fs import FsMode


class CindernativeMode(FsMode):
    """Its actions are those of :mod:`freezer.job.native`."""

    name = 'cindernative'
