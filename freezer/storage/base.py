"""The contract of a storage.

A driver subclasses :class:`Storage`, or :class:`paths.PathStorage` if it stores files
under paths. Its class is registered under the entry point ``freezer.storage``, and its
options apart from it under ``freezer.storage.options`` (``utils/plugin_options.py``).

The rest is written once, above every driver: finding levels (``levels.py``), retention,
reports, verification, several storages at once (``repository.py``). Paths are the
container joined with a path of ``layout.py``.
"""

import abc
import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from freezer.storage import manifest
from freezer.storage.backup import Backup, PendingBackup, Stat, StoredLevel
from freezer.storage.check import CheckReport
from freezer.storage.housekeeping import CleanUpReport
from freezer.utils.progress import Progress
from freezer.utils.rate import UNLIMITED, Rate


@dataclass(frozen=True)
class StorageSettings:
    """What a driver is built from.

    :param container: as typed: a directory, or ``bucket/prefix``
    :param max_segment_size: bytes of a segment or part
    :param options: the driver's own options by name, with ``-`` as ``_`` and options of
        a group prefixed with it (``s3_region``); every declared option has a key
    :param section: what an error calls these settings
    :param name: of a storage among several
    :param sending: rate limit of all storages of this process together
    :param receiving: the same for what they receive
    :param progress: gets parts and retries reported
    :param others_wait: whether other storages, with the same backup, wait for this one
    """

    container: str
    max_segment_size: int
    insecure: bool = False
    proxy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    section: str = 'the main settings'
    name: str = ''
    sending: Rate = UNLIMITED
    receiving: Rate = UNLIMITED
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)
    others_wait: Callable[[], bool] = field(default=bool, repr=False, compare=False)


class Storage(abc.ABC):
    """Files by path, and backups that become visible all at once.

    Obligations of every driver:

    * A backup is a commit: the marker is written last, and only it makes a backup
      visible.
    * Whatever goes wrong raises; nothing is swallowed. An error of a listing is never
      an empty listing.
    * No byte is yielded unchecked where its digest is known.
    * Data is sent and received no faster than the settings' rates.

    Safe to share between threads, but for :meth:`housekeeping`.

    :ivar storage_path: the container, which every path begins with
    """

    #: the name of its entry point
    _type: ClassVar[str]
    #: whether container, host name and backup name must be UTF-8
    needs_utf8: ClassVar[bool] = False

    storage_path: str

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        """Build the driver without touching the store.

        :raises StorageConfigError: options are missing or malformed
        """

    @classmethod
    def local_paths(cls, settings: StorageSettings) -> Sequence[str]:
        """Directories of this machine that hold the backups: no restore may change
        them. Absolute; none by default."""
        return ()

    @abc.abstractmethod
    def prepare(self) -> None:
        """Create the container if it is missing; before the first backup."""

    def location(self, path: str) -> str:
        """A path as errors show it."""
        return path

    @abc.abstractmethod
    def begin(self, backup: Backup) -> PendingBackup:
        """Claim the level's place, before the source is read.

        Fails where the store cannot be written, and where another agent of the same
        name has claimed the same place: two of them never interleave.

        :raises Conflict: the place is taken
        """

    @abc.abstractmethod
    def remove_unfinished(self, backup: Backup) -> None:
        """Remove a level whose writer is dead, and its claim; a level that has a marker
        stays.

        Only for a caller who knows that nobody writes it.
        """

    @abc.abstractmethod
    def add_index(
        self, stored: StoredLevel, index: Path, marker: Mapping[str, Any]
    ) -> None:
        """Give a committed level an index, or another one if it has one.

        * The index is stored first. Then the marker is replaced by
          :func:`manifest.indexed_marker`. Both are atomic and durable. A failure in
          between leaves the level as it was, and a file that no marker names.
        * The marker is replaced only while it is still the one of ``stored``. A level
          that another agent removes meanwhile does not appear again, and no file of it
          remains.

        :param index: a local file of up to 64 GiB, never in memory as a whole
        :param marker: the engine's content of the new marker
        :raises NotFound: the level was removed meanwhile
        :raises Conflict: its marker was replaced meanwhile
        :raises Rejected: the store has locked it
        """

    @abc.abstractmethod
    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        """Every file below a path, as (path relative to it, bytes), in any order.

        Nothing there is an empty listing; a failure to list raises.
        """

    @abc.abstractmethod
    def stat(self, path: str) -> Stat:
        """A file's size, and what the store reports of it.

        :raises NotFound: there is none
        """

    @abc.abstractmethod
    def read_file(self, path: str, limit: int | None = None) -> bytes:
        """A small file's content.

        :param limit: bytes; a larger file is an IntegrityError
        :raises NotFound: there is none
        """

    @abc.abstractmethod
    def write_file(self, path: str, content: bytes) -> None:
        """Write a small file, in place of one that is there; atomic and durable."""

    @abc.abstractmethod
    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        """Pieces of a file, in order, each checked.

        A damaged piece is yielded as an error; iteration continues. Holds a bounded
        number of pieces in memory.

        :param etag: of the file to read, where the store has ETags; None for any
        """

    @abc.abstractmethod
    def delete_files(self, paths: Sequence[str]) -> None:
        """Delete in this order; a file that is missing is no error.

        :raises PartialDelete: some are still there
        """

    @abc.abstractmethod
    def check(self) -> CheckReport:
        """Test all that a backup and a restore need, and what else the store offers.

        The check makes the calls of a backup, in a folder of its own below
        :data:`layout.CHECK`. It removes everything, however it ends, and a container
        that it had to create; the report or a notice names what remains.

        A problem is something without which backups cannot be made or restored. A
        request without an answer is never reported as a missing feature.

        :raises StorageException: the store is unreachable, or nothing can be written
        """

    def time(self) -> float | None:
        """The store's own clock, epoch seconds; None if it has none."""
        return None

    @property
    def needs_cleanup(self) -> bool:
        """Whether the options ask for :meth:`clean_up` in particular."""
        return False

    def clean_up(self, dry_run: bool = False) -> CleanUpReport:
        """Remove the leftovers of failed backups; never of one that is being written.

        :param dry_run: remove nothing
        """
        return CleanUpReport()

    def housekeeping(self) -> contextlib.AbstractContextManager[None]:
        """A block in which retention and :meth:`clean_up` share one listing.

        Files removed in the block may still be listed; files that others wrote
        meanwhile may be missing.
        """
        return contextlib.nullcontext()

    def close(self) -> None:
        """Release connections and threads. May be called more than once."""
