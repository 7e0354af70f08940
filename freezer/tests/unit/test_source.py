"""Mode and snapshot around a backup: in which order, whatever happens."""

import contextlib
import signal
from collections.abc import Sequence
from typing import Self

import pytest

from freezer.exceptions import FreezerError
from freezer.job.source import at_rest
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView
from freezer.utils.signals import Interrupted

VIEW = SnapshotView('/view', 5 * 10**9)


class Calls:
    """What was called; raises where it is told to.

    :param errors: name of a call -> what it raises, the first time
    """

    def __init__(self, errors: dict[str, BaseException]) -> None:
        self.errors = errors
        self.seen: list[str] = []

    def add(self, name: str) -> None:
        self.seen.append(name)
        error = self.errors.pop(name, None)
        if error:
            raise error


class FakeMode(Mode):
    def __init__(self, calls: Calls, when: Release) -> None:
        self.calls = calls
        self.release_when = when

    @classmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        raise NotImplementedError

    def prepare(self) -> None:
        self.calls.add('prepare')

    def release(self) -> None:
        self.calls.add('release')


class FakeSnapshot(Snapshot):
    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    @classmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        raise NotImplementedError

    def validate(self, path: str) -> None:
        raise NotImplementedError

    def remove_leftovers(self, path: str) -> Sequence[str]:
        return []

    def create(self, path: str) -> SnapshotView:
        self.calls.add('create')
        return VIEW

    def remove(self) -> None:
        self.calls.add('remove')


def around(
    when: Release, snapshot: bool, error: str = '', raised: BaseException | None = None
) -> list[str]:
    calls = Calls({error: raised or FreezerError(error)} if error else {})
    mode, copy = FakeMode(calls, when), FakeSnapshot(calls)
    expected = (
        pytest.raises(BaseException, match=str(raised or error))
        if error
        else contextlib.nullcontext()
    )
    with expected:
        with at_rest(mode, copy if snapshot else None, '/path') as (view, _, _):
            assert view == (VIEW if snapshot else None)
            calls.add('backup')
    return calls.seen


HELD = ['prepare', 'create', 'backup', 'release', 'remove']
EARLY = ['prepare', 'create', 'release', 'backup', 'remove']


def test_the_order() -> None:
    assert around(Release.AT_END, snapshot=True) == HELD
    assert around(Release.AFTER_SNAPSHOT, snapshot=True) == EARLY
    for when in Release:
        assert around(when, snapshot=False) == ['prepare', 'backup', 'release']


@pytest.mark.parametrize(
    'raised', [None, Interrupted(signal.SIGTERM), ValueError('a defect')]
)
@pytest.mark.parametrize('when', Release)
@pytest.mark.parametrize('error', ['prepare', 'create', 'backup', 'release', 'remove'])
def test_all_is_undone_once(
    error: str, when: Release, raised: BaseException | None
) -> None:
    seen = around(when, True, error, raised)
    # What a signal interrupts has to be done all the same.
    twice = isinstance(raised, Interrupted) and error in ('release', 'remove')
    assert seen.count('release') == 1 + (twice and error == 'release')
    created = 'create' in seen
    assert seen.count('remove') == created + (twice and error == 'remove')
    undone = [name for name in seen if name in ('release', 'remove')]
    assert undone == sorted(undone)
    assert seen.count('backup') == (
        error in ('backup', 'remove') or (error == 'release' and when is Release.AT_END)
    )


def test_the_first_error_is_the_one_that_is_reported() -> None:
    calls = Calls({'backup': FreezerError('first'), 'release': FreezerError('second')})
    mode = FakeMode(calls, Release.AT_END)
    with pytest.raises(FreezerError, match='first'):
        with at_rest(mode, FakeSnapshot(calls), '/path'):
            calls.add('backup')
    assert calls.seen == HELD
