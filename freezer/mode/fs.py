"""Ordinary files: nothing to quiesce."""

from typing import Self

from freezer.mode.mode import Mode, ModeSettings


class FsMode(Mode):
    """Does nothing around the backup."""

    name = 'fs'

    @classmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        return cls()

    def prepare(self) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""
