"""Applications to test modes on."""

import abc
import contextlib
from pathlib import Path
from typing import ClassVar

from freezer.mode.fs import FsMode
from freezer.mode.mode import Mode, ModeSettings


class ModePlace(abc.ABC):
    """An application that runs.

    :cvar holds: whether it cannot write from ``prepare`` to ``release``. A mode that
        holds nothing cannot fail either: the last two methods are never called
    """

    holds: ClassVar[bool]

    def __init__(self, folder: Path) -> None:
        self.path = folder

    @abc.abstractmethod
    def mode(self) -> Mode:
        """Another object for it."""

    @abc.abstractmethod
    def can_write(self) -> bool:
        """Whether the application can write now."""

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """As long as the block runs, ``prepare`` fails."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove the application."""
        raise NotImplementedError


class FsPlace(ModePlace):
    """A directory."""

    holds = False

    def mode(self) -> FsMode:
        return FsMode.from_settings(ModeSettings(str(self.path)))

    def can_write(self) -> bool:
        (self.path / 'file').write_bytes(b'content')
        return True
