"""The contract of an application mode: what happens around a backup of files."""

import abc
from typing import ClassVar


class Mode(abc.ABC):
    """Makes an application's files fit to be read, and lets it go on afterwards.

    ``release`` is called once whatever happened, after ``prepare`` was called at all.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def prepare(self) -> None:
        """Bring the files to rest. Raises a FreezerError if that cannot be done."""

    @abc.abstractmethod
    def release(self) -> None:
        """Undo :meth:`prepare`. Harmless when called again."""
