"""Files that belong to nobody in particular."""

from freezer.mode.mode import Mode


class FsMode(Mode):
    """Nothing to do around the backup."""

    name = 'fs'

    def prepare(self) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""
