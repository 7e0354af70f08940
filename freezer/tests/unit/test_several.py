"""Several storages, of which one fails in a way that no driver should."""

import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from freezer.storage import exceptions as e
from freezer.storage import several
from freezer.storage.backup import Backup, PendingBackup, WrittenBackup
from freezer.storage.base import Storage
from freezer.storage.repository import Repository
from freezer.storage.several import Members, PendingOnAll
from freezer.utils.blocks import Block, PartStart

BACKUP = Backup('tar', 'host_name', 1_700_000_000, 1_700_000_000, 0)
ODD = ValueError('invalid literal for int()')


def succeed(*_arguments: object) -> None:
    pass


def fail(*_arguments: object) -> None:
    raise ODD


class Pending(PendingBackup, WrittenBackup):
    """One storage's level, in memory; ``stages`` replaces methods."""

    def __init__(self, **stages: Callable[..., Any]) -> None:
        super().__init__(BACKUP)
        self.stages = stages
        self.events: list[str] = []

    def _do(self, stage: str, *arguments: object) -> None:
        self.stages.get(stage, succeed)(*arguments)
        self.events.append(stage)

    def put_identity(self, identity: bytes) -> None:
        self._do('put_identity', identity)

    def write(self, blocks: Iterable[Block | PartStart]) -> WrittenBackup:
        for block in blocks:
            self._do('write', block)
        return self

    def commit(self, *arguments: Any) -> None:
        self._do('commit')

    def cancel(self) -> None:
        self.stages.get('cancel', succeed)()

    def discard(self) -> None:
        self._do('discard')


def storages(*names: str) -> dict[str, Storage]:
    return {name: cast(Storage, object()) for name in names}


def back_up(members: Members, **begun: Pending) -> None:
    """As the engine does."""
    pending = PendingOnAll(BACKUP, members, begun)
    try:
        pending.put_identity(b'identity')
        pending.write([b'content']).commit(Path('state'), {})
    except BaseException:
        pending.discard()
        raise


@pytest.mark.parametrize('stage', ['put_identity', 'write', 'commit'])
def test_a_defect_in_one_driver_does_not_end_the_others(
    stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    committed = threading.Event()

    def fail_last(*_arguments: object) -> None:
        if stage == 'commit':
            assert committed.wait(60)
        raise ODD

    members = Members(storages('good', 'odd'))
    good = Pending(commit=lambda: committed.set())
    odd = Pending(**{stage: fail_last})
    back_up(members, good=good, odd=odd)
    assert good.events == ['put_identity', 'write', 'commit']
    message = members.failures['odd'].message
    assert message.startswith('[storage:odd]: ValueError: invalid literal for int()')
    assert list(members.live) == ['good']
    assert ODD in [record.exc_info[1] for record in caplog.records if record.exc_info]


def test_the_error_of_all_is_raised() -> None:
    members = Members(storages('a', 'b'))
    a, b = Pending(write=fail), Pending(write=fail)
    with pytest.raises(e.StorageException, match='ValueError'):
        back_up(members, a=a, b=b)
    assert a.events[-1] == b.events[-1] == 'discard'


def test_a_signal_is_raised() -> None:
    class Signal(BaseException):
        pass

    def interrupt() -> None:
        raise Signal

    with pytest.raises(Signal):
        Members(storages('a', 'b')).each({'a': succeed, 'b': interrupt})


def test_a_level_that_is_committed_outlives_a_signal() -> None:
    """The commit of the other storage is interrupted."""

    class Signal(BaseException):
        pass

    def interrupt(*_arguments: object) -> None:
        raise Signal

    def wait_and_signal() -> None:
        assert committed.wait(60)
        signal.raise_signal(signal.SIGUSR1)
        assert cancelled.wait(60)
        raise ODD

    committed, cancelled = threading.Event(), threading.Event()
    good = Pending(commit=committed.set)
    busy = Pending(commit=wait_and_signal, cancel=cancelled.set)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Signal):
            back_up(Members(storages('good', 'busy')), good=good, busy=busy)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert good.events == ['put_identity', 'write', 'commit']
    assert busy.events[-1] == 'discard'


def test_a_level_is_discarded_after_the_commit() -> None:
    """Its base has been removed."""
    a, b = Pending(), Pending()
    pending = PendingOnAll(BACKUP, Members(storages('a', 'b')), {'a': a, 'b': b})
    pending.write([b'content']).commit(Path('state'), {})
    pending.discard()
    assert a.events[-1] == b.events[-1] == 'discard'


def test_a_listing_that_fails_after_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def chains(storage: object, *_arguments: object) -> dict[int, list[str]]:
        if storage is both['odd']:
            raise ODD
        return {BACKUP.timestamp: []}

    both = storages('good', 'odd')
    repository = Repository(both)
    monkeypatch.setattr('freezer.storage.levels.chains', chains)
    assert repository.chains_after_commit('tar', 'host_name') == {BACKUP.timestamp: []}
    failure = repository.failure()
    assert failure is not None
    assert '[storage:odd]: ValueError' in failure.message


def test_a_storage_that_is_slower_than_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have had answers all the time."""
    monkeypatch.setattr(several, 'PATIENCE', 0.0)
    monkeypatch.setattr(several, '_POLL_SECONDS', 0.01)
    released = threading.Event()
    members = Members(storages('fast', 'slow'))
    try:
        results = members.each(
            {'fast': lambda: True, 'slow': lambda: released.wait(60)}
        )
    finally:
        released.set()
    assert results == {'fast': True}
    message = members.failures['slow'].message
    assert '[storage:slow]: took longer than 0 s while the other storages' in message
