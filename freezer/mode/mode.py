"""The contract of an application mode: what happens around a backup."""

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self


class Release(enum.Enum):
    """How long the application is held."""

    #: until the snapshot is there; without one, until the end of the backup
    AFTER_SNAPSHOT = enum.auto()
    AT_END = enum.auto()


@dataclass(frozen=True)
class ModeSettings:
    """What a mode is built from.

    :param path: ``--path-to-backup``, if it is given
    :param options: the mode's own options, by the keys of its PluginOptions
    """

    path: str | None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Mode(abc.ABC):
    """Quiesces an application for the backup and resumes it afterwards.

    The backup job calls ``validate`` before any work, then ``prepare`` and ``release``
    once each; ``release`` a second time if a signal interrupted it. With ``--dry-run``
    it only validates.
    """

    name: ClassVar[str]
    #: read after :meth:`prepare`
    release_when: Release = Release.AT_END

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        """Build the mode without touching the application.

        :raises ConfigError: options are missing or malformed
        """

    def validate(self) -> None:
        """Check what can be checked before any work.

        :raises FreezerError: :meth:`prepare` would fail
        """

    @abc.abstractmethod
    def prepare(self) -> None:
        """Bring the application's files to rest.

        :raises FreezerError: the application could not be quiesced
        """

    @abc.abstractmethod
    def release(self) -> None:
        """Undo :meth:`prepare`, also one that failed halfway.

        :raises FreezerError: the application could not be resumed
        """
