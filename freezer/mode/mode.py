"""The contract of an application mode: what happens around a backup."""

import abc
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self


class Release(enum.Enum):
    """How long the application is held."""

    #: until the snapshot is there; without one, until the source was read
    AFTER_SNAPSHOT = enum.auto()
    #: until the source was read
    AT_END = enum.auto()


@dataclass(frozen=True)
class ModeSettings:
    """What a mode is built from.

    :param path: ``--path-to-backup``, if one is given
    :param options: the mode's own options, by the keys of its PluginOptions
    :param snapshot: whether a snapshot of the path is backed up
    :param leaves_out: an option that leaves files below the path out of the backup;
        empty if none is given
    """

    path: str | None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    snapshot: bool = False
    leaves_out: str = ''


class Mode(abc.ABC):
    """Quiesces an application for the backup and resumes it afterwards.

    The backup job calls ``validate`` before any work, then ``prepare`` and ``release``
    once each; ``release`` a second time if a signal interrupted it. With ``--dry-run``
    it only validates. ``release`` comes before the commit: if it raises, nothing is
    committed.
    """

    name: ClassVar[str]
    #: read after :meth:`prepare`
    release_when: Release = Release.AT_END

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        """Build the mode without touching the application.

        :raises ConfigError: options are missing or malformed, or a package is
        """

    @classmethod
    def check_target(cls, target: str) -> None:
        """Check that a restore into a directory does not harm a running application.

        :raises RestoreError: it would
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

    def facts(self) -> Mapping[str, str | int]:
        """What the backup records of the application, such as its version; known after
        :meth:`prepare`. No secrets: the marker and the result have it."""
        return {}

    @abc.abstractmethod
    def release(self) -> None:
        """Undo :meth:`prepare`, also one that failed halfway.

        :raises FreezerError: the application could not be resumed, or it was not at
            rest since :meth:`prepare`
        """
