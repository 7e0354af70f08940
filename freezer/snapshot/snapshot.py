"""The contract of a snapshot: a view of files that does not change during a backup."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self


@dataclass(frozen=True)
class SnapshotSettings:
    """What a snapshot is built from.

    :param options: the snapshot's own options, by the keys of its PluginOptions
    """

    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


class SnapshotView(NamedTuple):
    """The files as they were.

    :param path: to read instead of the path that the snapshot is of; of a file, with
        the same name
    :param time_ns: epoch nanoseconds; every change that was made before is in the view:
        increments rely on it
    """

    path: str
    time_ns: int


class Snapshot(abc.ABC):
    """Makes and removes one snapshot.

    The backup job calls ``validate`` before any work, then ``remove_leftovers``,
    ``create`` and ``remove`` once each; ``remove`` a second time if a signal
    interrupted it. With ``--dry-run`` it only validates.
    """

    name: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        """Build it without touching the files.

        :raises ConfigError: options are missing or malformed
        """

    @abc.abstractmethod
    def validate(self, path: str) -> None:
        """Check what can be checked before any work.

        :raises FreezerError: no snapshot of this path can be made
        """

    @abc.abstractmethod
    def remove_leftovers(self, path: str) -> Sequence[str]:
        """Remove the snapshots of this path that killed runs left.

        Snapshots of running agents stay.

        :returns: the names of the removed snapshots, for the log
        :raises FreezerError: one could not be removed
        """

    @abc.abstractmethod
    def create(self, path: str) -> SnapshotView:
        """Create the snapshot.

        :raises FreezerError: it could not be created
        """

    @abc.abstractmethod
    def remove(self) -> None:
        """Undo :meth:`create`, also one that failed halfway.

        :raises FreezerError: a part of it remains
        """
