"""Copies levels from one storage to another, and compares them. Above every driver.

A copy has the bytes of the streams, of the engine's file, of the index and of the key's
file, and the engine's content of the marker. What a storage itself adds is its own: how
streams are cut into volumes, manifests, and the tokens that name them.
"""

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from freezer.storage import layout, levels, manifest, verify
from freezer.storage.backup import Backup, LevelPaths, PendingBackup, StoredLevel
from freezer.storage.base import Storage
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.exceptions import (
    Cancelled,
    Conflict,
    IntegrityError,
    NotFound,
    StorageException,
)
from freezer.storage.housekeeping import Leftover
from freezer.storage.journal import Journal, JournalEntry, Place
from freezer.storage.objects import Upload
from freezer.utils.blocks import Block, PartStart
from freezer.utils.streaming import ConsumerGone, RichQueue

LOG = logging.getLogger(__name__)

_QUEUE_BLOCKS = 4
# Seconds to wait for a read that was cancelled: a storage may still repeat a request.
_PATIENCE = 2.0
# Which levels copies of this machine are writing.
_JOURNAL = '~/.freezer/copies'
# The files of a level by Freezer 19.
_PLAIN = (layout.DATA, layout.ENGINE_METADATA)


class Cancellation:
    """Ends the copies under way, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: set[Callable[[], None]] = set()
        self.is_set = False

    def set(self) -> None:
        with self._lock:
            self.is_set = True
            for callback in self._callbacks:
                callback()

    def check(self) -> None:
        """:raises Cancelled: it is set"""
        if self.is_set:
            raise _cancelled()

    @contextlib.contextmanager
    def calls(self, callback: Callable[[], None]) -> Iterator[None]:
        """A block in which it calls this. If it is set already, at once."""
        with self._lock:
            self._callbacks.add(callback)
            if self.is_set:
                callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.discard(callback)


def _cancelled() -> Cancelled:
    return Cancelled('cancelled because the copy ends')


class Target:
    """The storage that levels are copied to. Safe to share between threads.

    What a killed copy of this machine left is removed by the next one: the folder of a
    level keeps other agents from writing to it.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._journal = Journal(Path(_JOURNAL).expanduser())

    # A store for the journal.

    @property
    def endpoint(self) -> str:
        return 'copy'

    @property
    def name(self) -> str:
        return self.storage.location(self.storage.storage_path)

    def prepare(self) -> None:
        """Create the container if it is missing; remove what killed copies left."""
        self.storage.prepare()
        self._journal.undo(self, self._clear)

    def _clear(self, place: Place, _uploads: list[Upload], _dry_run: bool) -> Leftover:
        below = place.marker.removeprefix(layout.join(self.storage.storage_path, ''))
        found = layout.parse(below)
        if found is not None:
            self.storage.remove_unfinished(levels.backup_at(found))
        return Leftover(place.folder, 0, 0, 0)

    def begin(self, backup: Backup) -> tuple[PendingBackup, JournalEntry]:
        """Claim a level's place; the entry is to be closed once it is empty or full.

        :raises Conflict: another agent writes it, or one was killed
        """
        paths = LevelPaths(self.storage.storage_path, backup)
        place = Place(self.endpoint, self.name, paths.folder, paths.marker)
        # First: a folder that is in no journal would stay after a kill.
        entry = self._journal.begin(place)
        try:
            return self.storage.begin(backup), entry
        except Conflict as error:
            entry.close()
            raise Conflict(
                f'{self.storage.location(paths.folder)} has no marker, and is being '
                f'written by another agent, or was by one that was killed: run the '
                f'copy again later, on the machine where it was killed; if no agent '
                f'writes there any more, remove this folder'
            ) from error
        except BaseException:
            entry.close()
            raise


def content(marker: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's content of a marker, without what a storage added."""
    return {
        key: value for key, value in marker.items() if key not in manifest.STORAGE_KEYS
    }


class LevelCopy:
    """A level on its way to another storage.

    :param chain: all levels of its chain on the source
    :param folder: for its temporary files: the engine's file, and the index
    :param count: is called with the number of bytes that were read
    """

    def __init__(
        self,
        source: StoredLevel,
        chain: Collection[Backup],
        target: Target,
        folder: Path,
        cancellation: Cancellation,
        count: Callable[[int], None],
    ) -> None:
        self._source = source
        self._chain = chain
        self._target = target
        self._folder = folder
        self._cancellation = cancellation
        self._count = count

    def run(self, wait_for_base: Callable[[], None]) -> None:
        """Copy it. Atomic: it is listed when this returns, not if this raises.

        :param wait_for_base: called before the commit: returns once the level that it
            builds on is committed, or raises
        :raises IntegrityError: the source is damaged, and nothing is copied
        :raises Conflict: another agent writes or removes the level, or others of the
            chain
        """
        source = self._source
        marker = self.checked_marker()
        identity = None
        if marker.get(layout.FORMAT_KEY) == layout.AGE:
            identity = self._identity()
        state = self._folder / 'state'
        _write(state, [self._state()])
        index = self.index()
        self._cancellation.check()
        pending, entry = self._target.begin(source.backup)
        try:
            with self._cancellation.calls(pending.cancel):
                if identity is not None:
                    pending.put_identity(identity)
                written = pending.write(self._stream())
                wait_for_base()
                self._cancellation.check()
                written.commit(state, content(marker), index)
            self._check_there()
        except BaseException as error:
            self._discard(pending, entry, error)
            raise
        entry.close()

    def checked_marker(self) -> Mapping[str, Any]:
        """The marker, of which a copy would hide that it is damaged.

        :raises IntegrityError: it is
        """
        source = self._source
        where = source.storage.location(source.paths.marker)
        engine = source.marker.get('engine_name', source.backup.engine)
        if not manifest.is_whole(source.marker) or engine != source.backup.engine:
            raise IntegrityError(f'{where}: was modified or damaged')
        if '' in source.streams and source.streams[''].token is None:
            self._check_plain()
        return source.marker

    def _check_plain(self) -> None:
        """Check a level of Freezer 19, whose marker names no files.

        :raises IntegrityError: it is empty, or has others than are copied
        """
        source = self._source
        where = source.storage.location(source.paths.folder)
        found = dict(source.storage.list_tree(source.paths.folder))
        # On Swift, which shows them as one file.
        segments = [path for path in found if path.startswith(f'{layout.SEGMENTS}/')]
        if surplus := sorted(found.keys() - {*_PLAIN, *segments}):
            raise IntegrityError(
                f'{where}: {surplus[0]} is not a file of a backup by Freezer 19, or '
                f'the marker should name it: only such backups are copied'
            )
        if segments and sum(found[each] for each in segments) != source.size:
            raise IntegrityError(
                f'{where}: the segments are not those of its data: copy it with '
                f'storage swift'
            )
        if not source.size:
            raise IntegrityError(
                f'{source.storage.location(source.paths.data)} is empty: its upload '
                f'failed'
            )

    def _identity(self) -> bytes:
        """The file with the key of the chain.

        :raises IntegrityError: it is missing, or not the one that the marker names
        """
        source = self._source
        where = source.storage.location(source.paths.identity)
        try:
            identity = source.identity
        except NotFound as error:
            raise IntegrityError(
                f'{where} is missing: the backup is damaged'
            ) from error
        if not manifest.is_identity(identity, source.marker):
            raise IntegrityError(f'{where} differs from the file that was written')
        return identity

    def _state(self) -> bytes:
        """:raises IntegrityError: it is missing or damaged"""
        source = self._source
        try:
            return source.checked_engine_metadata()
        except NotFound as error:
            where = source.storage.location(source.paths.engine_metadata)
            raise IntegrityError(
                f'{where} is missing: the backup is damaged'
            ) from error

    def index(self) -> Path | None:
        """A local copy of the index; None for a level without one.

        :raises IntegrityError: it is missing or damaged
        """
        stored = self._source.index
        if stored is None:
            return None
        path = self._folder / 'index'
        try:
            _write(path, manifest.unwrap(stored.pieces()))
        except IntegrityError as error:
            raise IntegrityError(
                f'{error.message}; --action admin --rebuild-index makes a missing '
                f'index again'
            ) from error
        return path

    def _stream(self) -> Iterator[Block | PartStart]:
        """The streams. They are read ahead in another thread, while the blocks before
        are sent.

        :raises Cancelled: the copy ends
        """
        queue = RichQueue(_QUEUE_BLOCKS)

        def read() -> None:
            with contextlib.suppress(ConsumerGone):
                queue.put_messages(self._blocks())

        def cancel() -> None:
            with contextlib.suppress(ConsumerGone):
                queue.end(_cancelled(), stop=lambda: True)

        reader = threading.Thread(target=read, name='copy', daemon=True)
        reader.start()
        try:
            with self._cancellation.calls(cancel):
                yield from queue.get_messages()
        finally:
            queue.close()
            reader.join(_PATIENCE if self._cancellation.is_set else None)

    def _blocks(self) -> Generator[Block | PartStart, None, None]:
        for part, stream in self._source.streams.items():
            if part:
                yield PartStart(part)
            for block in stream.blocks():
                self._cancellation.check()
                self._count(len(block))
                yield block

    def _check_there(self) -> None:
        """Check after the commit that the level restores there. Retention, another copy
        or a clean-up may have removed or added something meanwhile: each looks for
        markers first, so one of the two notices the other.

        :raises Conflict: it does not
        """
        for delay in LISTING_DELAYS:
            # A store may list late.
            time.sleep(delay)
            problem = self._problem_there()
            if not problem:
                return
        raise Conflict(
            f'another agent changed the chain meanwhile on the storage that it is '
            f'copied to: {problem}; run the copy again'
        )

    def _problem_there(self) -> str:
        backup, storage = self._source.backup, self._target.storage
        name = backup.engine, backup.hostname_backup_name
        there = levels.chains(storage, *name).get(backup.level_zero_timestamp, ())
        others = {each.backup for each in there} - {backup}
        if problem := misplaced(backup, self._chain, others):
            return problem
        found = verify.examine(StoredLevel(storage, backup), data=False)
        if found is None:
            return 'its marker is gone'
        return found.problems[0].what if found.problems else ''

    @staticmethod
    def _discard(
        pending: PendingBackup, entry: JournalEntry, error: BaseException
    ) -> None:
        try:
            pending.discard()
        except StorageException as problem:
            # The first error is the one to report; the next copy tries again.
            LOG.error(
                'the leftovers of the copy %r could not be removed: %s (after: %s)',
                pending.backup,
                problem.message,
                error,
            )
            entry.keep()
        entry.close()


def _write(path: Path, blocks: Iterable[Block]) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    with path.open('wb') as file:
        for block in blocks:
            file.write(block)


def difference(source: StoredLevel, there: StoredLevel, data: bool = False) -> str:
    """How the level of this place and time on another storage is another one, in words;
    empty for a copy.

    An index may be missing or made again, on either side, and a seal with it.

    :param data: read both, and compare every byte
    :raises IntegrityError: one of them is damaged
    """
    mine, other = (
        {k: v for k, v in content(each.marker).items() if k != manifest.SEAL_KEY}
        for each in (source, there)
    )
    if keys := sorted(k for k in mine | other if mine.get(k) != other.get(k)):
        return f'its marker has another {keys[0]}'
    if _state_digest(source) != _state_digest(there):
        return 'its engine file is another one'
    if list(source.streams) != list(there.streams):
        return 'it has other parts'
    for part, stream in source.streams.items():
        copied, name = there.streams[part], f'part {part} ' if part else ''
        if stream.size != copied.size:
            return f'{name}has {copied.size} bytes there, and {stream.size} here'
        one, two = stream.manifest, copied.manifest
        # Digests of pieces of another size say nothing.
        same_cut = one and two and _cut(one) == _cut(two)
        if one and two and same_cut and one.digest != two.digest:
            return f'{name}has other contents'
        if data and _digest(stream.views()) != _digest(copied.views()):
            return f'{name}has other contents'
    return ''


def _state_digest(stored: StoredLevel) -> str:
    """Of the engine's file; that of a level by Freezer 19 has to be read."""
    known = stored.marker.get(manifest.STATE_KEY)
    return str(known) if known else _digest([stored.engine_metadata()])


def _cut(found: manifest.Manifest) -> list[tuple[int, int, str]]:
    """How a stream is cut into pieces."""
    return [(each.size, each.part_size, each.algorithm) for each in found.volumes]


def _digest(blocks: Iterable[Block | memoryview]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def misplaced(
    backup: Backup, source: Collection[Backup], there: Collection[Backup]
) -> str:
    """Why a level would not restore in the chain of another storage, or another one
    there would not any more, in words; empty if all do.

    A restore takes the newest existing level below each: on a storage that has other
    levels than the source, that could be one that it was not made on.

    :param source: all levels of the chain
    :param there: those of the same chain on the other storage, with those to be copied
        before this one
    """
    needs = levels.bases(source).get(backup)
    if len(levels.needed(backup, source)) < backup.level:
        return 'a level below it is missing'
    before, after = levels.bases(there), levels.bases({*there, backup})
    if after.get(backup) != needs:
        return (
            f'it builds on {_name(needs)}, and would be restored with '
            f'{_name(after.get(backup))} there, which the source does not have'
        )
    changed = [each for each in there if before.get(each) != after.get(each)]
    if changed:
        return (
            f'{_name(changed[0])} there, which the source does not have, would be '
            f'restored with it'
        )
    return ''


def _name(backup: Backup | None) -> str:
    return (
        'nothing'
        if backup is None
        else layout.level_name(backup.level, backup.timestamp)
    )
