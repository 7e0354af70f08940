"""Images of Glance, in jobs of Freezer 19: nothing to quiesce."""

from freezer.mode.fs import FsMode


class GlanceMode(FsMode):
    """Does nothing around the backup."""

    name = 'glance'
