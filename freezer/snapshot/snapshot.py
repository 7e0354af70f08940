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
    :param missing: directories and files below the path, relative to it, whose contents
        are not in the view, because they are on another file system
    """

    path: str
    time_ns: int
    missing: Sequence[str] = ()


class Snapshot(abc.ABC):
    """Makes and removes one snapshot.

    The backup job calls ``validate`` before any work, then ``remove_leftovers``,
    ``create``, ``check`` and ``remove`` once each; ``remove`` a second time if a signal
    interrupted it. With ``--dry-run`` it only validates.
    """

    name: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        """Build it without touching the files.

        :raises ConfigError: options are missing or malformed
        """

    def path_problem(self, path: str) -> str | None:
        """Why ``--snapshot auto`` does not choose this plugin for a path, such as ``it
        is on ext4``; None if it does.

        The default is for a plugin that has to be chosen by name.

        :raises FreezerError: that cannot be found out
        """
        return 'it has to be chosen by name'

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

    def check(self) -> None:
        """Check that the view was complete and unchanged until now.

        Called when all of it was read, before the backup is committed. The default is
        for snapshots that cannot become invalid.

        :raises FreezerError: it was not: the backup must not be committed
        """

    @abc.abstractmethod
    def remove(self) -> None:
        """Undo :meth:`create`, also one that failed halfway.

        :raises FreezerError: a part of it remains
        """
