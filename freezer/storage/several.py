"""Writes a backup to several storages at once.

A storage that fails, or that keeps the others waiting, is set aside: the others finish
and commit. Its level is discarded as soon as its thread ends.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, TypeVar

from freezer.storage.backup import Backup, PendingBackup, WrittenBackup
from freezer.storage.base import Storage
from freezer.storage.exceptions import (
    Cancelled,
    Conflict,
    StorageConfigError,
    StorageException,
    Unreachable,
)
from freezer.utils.blocks import Block, PartStart
from freezer.utils.rate import Rate
from freezer.utils.streaming import ConsumerGone, RichQueue
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)
T = TypeVar('T')

#: seconds for which the others wait for a storage that does nothing
PATIENCE = 90.0
#: the same at the end of the stream: to complete a large upload takes a store minutes
LAST_PATIENCE = 300.0

#: and for a storage that was set aside to discard its level
CLEAN_UP_SECONDS = 30.0

_QUEUE_BLOCKS = 2
_POLL_SECONDS = 0.5
# No storage fails with these alone: the backup is wrong for all of them.
_OF_ALL = (Conflict, StorageConfigError)


class Members:
    """The storages of a run by name; a single one has the empty name.

    :param sent: name -> what the storage sends, which shows that it is at work
    :ivar failures: those that were set aside, and why
    """

    def __init__(
        self, storages: Mapping[str, Storage], sent: Mapping[str, Rate] | None = None
    ) -> None:
        self._storages = storages
        self.sent = sent or {}
        self.failures: dict[str, StorageException] = {}

    @property
    def live(self) -> dict[str, Storage]:
        """Those that were not set aside."""
        return {
            name: storage
            for name, storage in self._storages.items()
            if name not in self.failures
        }

    def set_aside(self, name: str, error: Exception) -> None:
        """:param error: of this storage; an error of this machine, or a defect in its
        driver, does not end the others either"""
        if name in self.failures:
            return
        if not isinstance(error, StorageException):
            LOG.error('unexpected error', exc_info=error)
            reason = str(error)
            if not isinstance(error, OSError):
                reason = f'{type(error).__name__}: {error} (this is a defect)'
            failure = StorageException(
                f'[storage:{name}]: {reason}; the log has the traceback'
            )
            failure.__cause__ = error
            error = failure
        self.failures[name] = error
        LOG.error('set aside: %s', error.message)

    def require_one(self) -> None:
        """:raises StorageException: all failed: the first error"""
        if not self.live:
            raise next(iter(self.failures.values()))

    def each(
        self,
        calls: Mapping[str, Callable[[], T]],
        undo: Callable[[T], None] = lambda _result: None,
        of_all: tuple[type[StorageException], ...] = _OF_ALL,
    ) -> dict[str, T]:
        """The results of calls, one for each storage; sets aside those that fail.

        Once one has succeeded, the others have :data:`PATIENCE` seconds.

        :param undo: is called with results that are not needed any more
        :param of_all: errors that are not those of one storage
        :raises StorageException: such an error, or all failed
        """
        if len(calls) == 1:
            ((name, call),) = calls.items()
            with named(name):
                return {name: call()}
        futures = {name: _in_thread(name, call) for name, call in calls.items()}
        try:
            for _name in _ended(futures, {n: _Patience(PATIENCE) for n in futures}):
                pass
        except BaseException:
            self._undo(futures.values(), undo)
            raise
        results: dict[str, T] = {}
        for name, future in futures.items():
            error = future.exception() if future.done() else _too_slow(name, PATIENCE)
            if error is None:
                results[name] = future.result()
            elif isinstance(error, Exception) and not isinstance(error, of_all):
                self._undo([future], undo)
                self.set_aside(name, error)
            else:
                self._undo(futures.values(), undo)
                raise error
        if not results:
            raise self.failures[next(iter(calls))]
        return results

    def _undo(self, futures: Iterable['Future[T]'], undo: Callable[[T], None]) -> None:
        def ended(future: 'Future[T]') -> None:
            if future.exception() is None:
                try:
                    undo(future.result())
                except Exception as error:  # noqa: BLE001 - only a claim remains
                    LOG.error('a claim remains: %s', error)

        for future in futures:
            # At once, or in its thread when that ends.
            future.add_done_callback(ended)


def _in_thread(name: str, call: Callable[[], T]) -> 'Future[T]':
    """The future result of a call. No exit waits for the thread, which may hang."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            with named(name):
                result = call()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=f'storage {name}', daemon=True).start()
    return future


class _Patience:
    """How long a storage may do nothing.

    :param pulse: changes as long as it is at work
    """

    def __init__(
        self, seconds: float, pulse: Callable[[], object] = lambda: None
    ) -> None:
        self._seconds = seconds
        self._get_pulse = pulse
        self.restart()

    def restart(self) -> None:
        self._pulse = self._get_pulse()
        self._since = time.monotonic()

    def is_over(self) -> bool:
        if self._get_pulse() != self._pulse:
            self.restart()
        return time.monotonic() - self._since > self._seconds


def _ended(
    futures: Mapping[str, 'Future[T]'], patience: Mapping[str, _Patience]
) -> Iterator[str]:
    """The names of all, each when its future is done. Once one has succeeded, the
    patience with the others begins: when it is over, their names follow."""
    waiting = dict(futures)
    has_succeeded = False
    while waiting:
        wait(waiting.values(), _POLL_SECONDS, FIRST_COMPLETED)
        for name, future in list(waiting.items()):
            if future.done():
                if not has_succeeded and future.exception() is None:
                    has_succeeded = True
                    for each in patience.values():
                        each.restart()
            elif not (has_succeeded and patience[name].is_over()):
                continue
            del waiting[name]
            yield name


def _too_slow(name: str, seconds: float) -> StorageException:
    return Unreachable(
        f'[storage:{name}]: took longer than {seconds:.0f} s while the other storages '
        f'waited: check it with --action check'
    )


def _no_answer(name: str, seconds: float) -> StorageException:
    return Unreachable(
        f'[storage:{name}]: nothing happened for {seconds:.0f} s while the other '
        f'storages waited: check it with --action check'
    )


class PendingOnAll(PendingBackup):
    """A level being written to several storages at once.

    :param begun: name -> the same level on that storage
    """

    def __init__(
        self, backup: Backup, members: Members, begun: Mapping[str, PendingBackup]
    ) -> None:
        super().__init__(backup)
        self._members = members
        self._begun = dict(begun)
        # Those of this backup alone are forgotten with it.
        self._failures = dict(members.failures)
        self._writers: dict[str, _Writer] = {}
        self._discards: list[Future[None]] = []
        #: set when the commit has ended, on all storages that were not set aside
        self.is_committed = False

    @property
    def _live(self) -> dict[str, PendingBackup]:
        live = self._members.live
        return {name: each for name, each in self._begun.items() if name in live}

    def put_identity(self, identity: bytes) -> None:
        put = {
            name: functools.partial(pending.put_identity, identity)
            for name, pending in self._live.items()
        }
        self._members.each(put)

    def write(self, blocks: Iterable[Block | PartStart]) -> WrittenBackup:
        """One thread and queue for each storage; the slowest sets the pace."""
        sent = self._members.sent
        self._writers = {
            name: _Writer(name, pending, sent.get(name))
            for name, pending in self._live.items()
        }
        try:
            for block in blocks:
                self._put(lambda queue, stop, block=block: queue.put(block, stop))
            self._put(lambda queue, stop: queue.end(stop=stop))
            self.wait_for(lambda writer: writer.stored)
        except BaseException as error:
            # Possibly a signal. No thread may write any more when the backup is
            # discarded.
            self._stop(error)
            raise
        return _WrittenOnAll(self, self._members, self._writers)

    def _put(self, put: Callable[..., None]) -> None:
        """:raises StorageException: no storage is left"""
        for name, writer in self._writers.items():
            if name in self._members.failures:
                continue
            try:
                put(writer.queue, _Patience(PATIENCE, writer.pulse).is_over)
            except ConsumerGone:
                self.give_up(name, writer, PATIENCE)
        self._members.require_one()

    def wait_for(self, stage: Callable[['_Writer'], 'Future[None]']) -> None:
        """Wait until each storage has come to a stage, but not for one that does
        nothing.

        :raises StorageException: no storage is left
        """
        writers = {
            name: writer
            for name, writer in self._writers.items()
            if name not in self._members.failures
        }
        patience = {
            name: _Patience(LAST_PATIENCE, writer.pulse)
            for name, writer in writers.items()
        }
        stages = {name: stage(writer) for name, writer in writers.items()}
        for name in _ended(stages, patience):
            if not stages[name].done() or writers[name].failure():
                self.give_up(name, writers[name], LAST_PATIENCE)
        self._members.require_one()

    def give_up(self, name: str, writer: '_Writer', seconds: float) -> None:
        """Set aside a storage that has failed, or does nothing; its level is discarded
        when its thread has ended."""
        error = writer.failure() or _no_answer(name, seconds)
        if not isinstance(error, Exception):
            raise error
        self._members.set_aside(name, error)
        writer.stop()
        discard = self._begun.pop(name).discard
        writer.done.add_done_callback(
            lambda _done: self._discards.append(_in_thread(name, discard))
        )

    def wait_for_discards(self) -> None:
        """Wait for the levels of storages that were set aside, for a limited time."""
        wait(self._discards, CLEAN_UP_SECONDS)
        for future in self._discards:
            if not future.done() or future.exception():
                why = future.exception() if future.done() else 'it takes too long'
                LOG.error('the leftovers of a storage may remain: %s', why)

    def _stop(self, error: BaseException | None = None) -> None:
        """End all threads, and wait until they have, but not for one that hangs."""
        for writer in self._writers.values():
            writer.stop(error)
        wait([writer.done for writer in self._writers.values()], PATIENCE)

    def cancel(self) -> None:
        for pending in self._begun.values():
            pending.cancel()

    def discard(self) -> None:
        """On every storage, even after errors; then the first error is raised.

        After a commit that was interrupted, the level stays where it is committed.
        """
        self._stop()
        errors = []
        for name, pending in self._begun.items():
            writer = self._writers.get(name)
            if not self.is_committed and writer is not None and writer.has_committed:
                NOTICES.warning('%r is committed on [storage:%s]', self.backup, name)
                continue
            future = _in_thread(name, pending.discard)
            wait([future], CLEAN_UP_SECONDS)
            done = future.done()
            error = future.exception() if done else _no_answer(name, CLEAN_UP_SECONDS)
            if error is not None:
                errors.append(error)
        self.wait_for_discards()
        self._members.failures = self._failures
        if errors:
            raise errors[0]


class _Writer:
    """The thread of one storage: writes the level, and commits it when it may."""

    def __init__(self, name: str, pending: PendingBackup, sent: Rate | None) -> None:
        self.stored: Future[None] = Future()
        self.queue = RichQueue(_QUEUE_BLOCKS)
        self._name = name
        self._pending = pending
        self._sent = sent
        self._blocks = 0
        self._decided = threading.Event()
        self._stopped = False
        self._arguments: tuple[Any, ...] | None = None
        self.done = _in_thread(name, self._run)

    def pulse(self) -> tuple[int, int]:
        """Changes as long as the storage is at work."""
        return self._blocks, self._sent.passed if self._sent else 0

    def commit(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._decided.set()

    def stop(self, error: BaseException | None = None) -> None:
        """Make the thread end soon.

        :param error: of the stream
        """
        self._stopped = True
        self._pending.cancel()
        self._decided.set()
        # For a thread that waits for a block; none does if the queue is full.
        with contextlib.suppress(ConsumerGone):
            self.queue.end(error or _cancelled(), stop=lambda: True)

    def failure(self) -> BaseException | None:
        if self.done.done() or (self.stored.done() and self.stored.exception()):
            # The thread ends now, and puts the name of the storage into its error.
            return self.done.exception()
        return None

    @property
    def has_committed(self) -> bool:
        return self.done.done() and self.done.exception() is None

    def _run(self) -> None:
        try:
            self._write_and_commit()
        except BaseException as error:
            if not self.stored.done():
                self.stored.set_exception(error)
            raise
        finally:
            self.queue.close()

    def _write_and_commit(self) -> None:
        written = self._pending.write(self._taken())
        if not self.queue.drained:
            raise StorageException(
                'the storage stopped reading before the end: run the backup again'
            )
        self.stored.set_result(None)
        self._decided.wait()
        if self._arguments is None:
            raise _cancelled()
        written.commit(*self._arguments)

    def _taken(self) -> Iterator[Block | PartStart]:
        for block in self.queue.get_messages():
            self._blocks += 1
            if self._stopped:
                raise _cancelled()
            yield block


def _cancelled() -> Cancelled:
    return Cancelled('cancelled because another part of the backup failed')


class _WrittenOnAll(WrittenBackup):
    def __init__(
        self, pending: PendingOnAll, members: Members, writers: Mapping[str, _Writer]
    ) -> None:
        self._pending = pending
        self._members = members
        self._writers = writers

    def commit(
        self,
        engine_metadata: Path,
        marker: Mapping[str, Any],
        index: Path | None = None,
    ) -> None:
        """On all at once; waits for those that do something."""
        for name, writer in self._writers.items():
            if name not in self._members.failures:
                writer.commit(engine_metadata, marker, index)
        self._pending.wait_for(lambda writer: writer.done)
        self._pending.wait_for_discards()
        self._pending.is_committed = True


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of the storage, if it has one, in front of its errors."""
    try:
        yield
    except StorageException as error:
        if not name:
            raise
        raise type(error)(f'[storage:{name}]: {error.message}') from error
