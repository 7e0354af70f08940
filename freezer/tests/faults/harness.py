"""Faults, declared as data: which request, what happens to it, and how often.

A fault that was declared and did not happen fails its test: what was then tested is
another thing.
"""

import contextlib
import dataclasses
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freezer.tests import trees
from freezer.tests.agent import Agent, Result, S3Store, missed
from freezer.tests.proxy import (
    Act,
    Answered,
    Changed,
    Ending,
    Proxy,
    Reply,
    Request,
    Rest,
    error,
)

#: of :attr:`Fault.times`: every such request from the first one on
EVER = 0


# What may happen. To a request on its way, and the server has not seen it:


@dataclasses.dataclass(frozen=True)
class Broken:
    """Its connection ends after so many bytes of its body."""

    ending: Ending
    after: int = 0

    def __call__(self, rest: Rest) -> None:
        rest.read(self.after)
        rest.end(self.ending)


@dataclasses.dataclass(frozen=True)
class Flipped(Act):
    """One bit of its body, or of the answer's, is another one.

    :param at: byte; from the end if negative
    """

    at: int
    answer: bool = False

    def request(self, request: Request) -> bytes | None:
        return None if self.answer else self._flip(request.body)

    def reply(self, reply: Reply) -> Reply:
        return reply.but(body=self._flip(reply.body)) if self.answer else reply

    def _flip(self, body: bytes) -> bytes:
        flipped = bytearray(body)
        flipped[self.at] ^= 0x10
        return bytes(flipped)


def refused(
    status: int, code: str = '', body: bytes | None = None, **headers: str
) -> Answered:
    """It is answered in the server's place."""
    answer = error(status, code, **headers)
    return Answered(
        dataclasses.replace(answer, body=answer.body if body is None else body)
    )


# To the answer, when the server has done what it was asked:


class Lost(Act):
    """The connection is closed in its place."""

    def reply(self, _reply: Reply) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Late(Act):
    """It comes so many seconds later."""

    seconds: float

    def reply(self, reply: Reply) -> Reply:
        time.sleep(self.seconds)
        return reply


@dataclasses.dataclass(frozen=True)
class Cut(Act):
    """It ends after so many bytes of its body.

    :param told: whether its length had been told
    """

    after: int
    ending: Ending = Ending.CLOSE
    told: bool = True

    def reply(self, reply: Reply) -> Reply:
        return dataclasses.replace(
            reply, cut=self.after, ending=self.ending, told_length=self.told
        )


def without(*headers: str) -> Changed:
    """It lacks headers."""

    def change(reply: Reply) -> Reply:
        left = {n: value for n, value in reply.headers.items() if n not in headers}
        return dataclasses.replace(reply, headers=left)

    return Changed(change)


def says(status: int, body: bytes, **headers: str) -> Changed:
    """It is another one altogether."""
    return Changed(lambda reply: reply.but(status, body, **headers))


# Which request


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of request, and what happens to some of them.

    :param operation: S3's name of it
    :param first: the first that it happens to, counted from 1
    :param times: to so many in a row; :data:`EVER`: to all from there
    :param key: how the keys end that it is about
    :param header: one that the requests have
    """

    operation: str
    happens: Act | Broken
    first: int = 1
    times: int = 1
    key: str = ''
    header: str = ''


class _Counted:
    """A fault, and how often it came to happen."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.fired = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> bool:
        fault = self.fault
        if request.operation != fault.operation or not request.key.endswith(fault.key):
            return False
        if fault.header and fault.header not in request.headers:
            return False
        with self._lock:
            self.seen += 1
            past = self.seen - fault.first
            fires = past >= 0 and (fault.times == EVER or past < fault.times)
            self.fired += fires
        return fires

    def check(self) -> None:
        wanted = self.fault.times or 'some'
        happened = self.fired == self.fault.times if self.fault.times else self.fired
        assert happened, (
            f'{self.fault} happened {self.fired} times, not {wanted}; there were '
            f'{self.seen} such requests'
        )


def declare(proxy: Proxy, fault: Fault) -> _Counted:
    """From now on it happens."""
    counted = _Counted(fault)
    if isinstance(fault.happens, Broken):
        proxy.interrupt(counted, fault.happens)
    else:
        proxy.act(counted, fault.happens)
    return counted


@contextlib.contextmanager
def faults(proxy: Proxy, *declared: Fault) -> Iterator[None]:
    """A block in which they happen; and they have to. Afterwards there are none."""
    counted = [declare(proxy, fault) for fault in declared]
    yield
    for each in counted:
        each.check()
    proxy.clear()


# What has to come of it


def impatient(agent: Agent) -> Agent:
    """The same, with little time for repetitions."""
    return agent.told('--s3-retry-budget', '1.5')


def unprotected(agent: Agent, patch: str) -> Agent:
    """The same without a protection, to see that a fault does harm.

    :param patch: Python that takes it away
    """
    made = agent.told()
    run = 'import sys; from freezer.main import main; sys.exit(main())'
    made.program = (sys.executable, '-c', f'{patch}\n{run}')
    return made


def restores(agent: Agent, expected: Mapping[bytes, trees.Entry], target: Path) -> None:
    """A restore, byte for byte."""
    agent.restore(target).check()
    assert missed(expected, target) == []


def listed(agent: Agent) -> list[dict[str, Any]]:
    """What ``info`` tells of: all that is there."""
    document = agent.nameless.run('info', '--metadata-out', '-').check().document
    found: list[dict[str, Any]] = document['backups']
    return found


def fails(agent: Agent, result: Result, *said: str, rubbish: bool = False) -> str:
    """A backup that failed: one line says why, and nothing is listed.

    :param said: what the line has to say
    :param rubbish: it could not clean up: the next one does
    """
    store = agent.store
    assert isinstance(store, S3Store)
    line = result.error
    for text in said:
        assert text in line, line
    secret = store.server.secret_key
    assert secret not in result.err + result.out
    assert store.markers() == []
    assert store.is_untouched() != rubbish, (store.sizes(), store.open_uploads())
    return line


def survives(agent: Agent, proxy: Proxy, path: Path, *declared: Fault) -> list[Request]:
    """A backup that succeeds all the same, and restores; what was asked for."""
    store = agent.store
    with faults(proxy, *declared):
        agent.backup(path).check()
        requests = list(proxy.requests)
    assert len(store.markers()) == 1
    assert store.open_uploads() == []
    with tempfile.TemporaryDirectory() as folder:
        restores(agent, trees.describe(path), Path(folder, 'target'))
    return requests
