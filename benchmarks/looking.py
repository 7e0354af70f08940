"""P11: lists, one file out of many, and a search through all levels."""

import contextlib
import random
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench import MIB, Bench, Check, Result, Row, named
from benchmarks.helpers import helper
from benchmarks.measure import Cost, measure
from benchmarks.peers import Place

_FILE = 6400  # bytes on average, so that 256,000 files have 1.6 GiB
_LEVELS = 30
_LIST_SECONDS, _NEAR_SECONDS, _FAR_SECONDS, _FIND_SECONDS = 1.5, 1.0, 3.0, 3.0
_RECEIVED_MB = 40


class _Counter:
    """Forwards connections to a store, and counts the bytes that it sends."""

    def __init__(self, address: str) -> None:
        host, port = address.split(':')
        self.received = 0
        self._store = host, int(port)
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.address = f'127.0.0.1:{self._listener.getsockname()[1]}'
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                store = socket.create_connection(self._store)
                for source, target, counts in (
                    (client, store, False),
                    (store, client, True),
                ):
                    threading.Thread(
                        target=self._carry, args=(source, target, counts), daemon=True
                    ).start()

    def _carry(
        self, source: socket.socket, target: socket.socket, counts: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(256 * 1024):
                self.received += len(block) * counts
                target.sendall(block)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@dataclass
class _Looking:
    bench: Bench
    near: Place
    far: Place
    counter: _Counter

    def run(self, place: Place, *argv: object) -> Cost:
        environment = self.bench.environment | place.environment()
        return measure([str(one) for one in argv], environment)

    def agent(self, place: Place, *argv: object) -> Cost:
        return self.run(place, *self.bench.agent(*argv))

    def restic(self, place: Place, *argv: object) -> Cost:
        repository = self.near.environment()['RESTIC_REPOSITORY']
        if place is self.far:
            repository = place.environment()['RESTIC_REPOSITORY']
        return self.run(
            place, self.bench.tools['restic'], '-q', '-r', repository, *argv
        )

    def counted(self, act: Callable[[], Cost]) -> tuple[Cost, int]:
        before = self.counter.received
        cost = act()
        return cost, self.counter.received - before


def make_files(root: Path, count: int) -> list[str]:
    """Small files of random bytes, a hundred in a directory; their names."""
    noise = random.Random(0)
    data = noise.randbytes(MIB)
    names = []
    for number in range(count):
        folder = f'{number // 10_000:03}/{number // 100 % 100:02}'
        if not number % 100:
            (root / folder).mkdir(parents=True)
        name = f'{folder}/file-{number:06}'
        size = noise.randrange(2 * _FILE)
        start = noise.randrange(MIB - size)
        (root / name).write_bytes(data[start : start + size])
        names.append(name)
    return names


def p11(bench: Bench) -> Iterator[Result]:
    store = bench.real_store()
    with bench.store(store) as place, contextlib.ExitStack() as stack:
        address = place.endpoint.rpartition('/')[2]
        counter = _Counter(address)
        stack.callback(counter.close)
        near = replace(place, endpoint=f'http://{counter.address}')
        away = stack.enter_context(helper('benchmarks.distance', address))
        far = replace(place, endpoint=f'http://{away}')
        looking = _Looking(bench, near, far, counter)
        yield _one_of_many(looking, store)
        yield _find(looking, store)


def _one_of_many(looking: _Looking, store: str) -> Result:
    bench, near, far = looking.bench, looking.near, looking.far
    tree = bench.scratch / 'many'
    tree.mkdir()
    count = 10 * bench.files + (6_000 if bench.files == 25_000 else 0)
    names = make_files(tree, count)
    looking.agent(
        near, '--action', 'backup', '--path-to-backup', tree, '--backup-name', 'many'
    )
    looking.restic(near, 'init')
    looking.restic(near, 'backup', tree)
    chance = random.Random(1)

    def one(place: Place, tool: str) -> Cost:
        name = chance.choice(names)
        target = bench.scratch / bench.fresh('one')
        if tool == 'restic':
            found = looking.restic(
                place, 'restore', 'latest', '--include', tree / name, '--target', target
            )
        else:
            found = looking.agent(
                place,
                *('--action', 'restore', '--backup-name', 'many'),
                *('--include', name, '--restore-abs-path', target),
            )
        shutil.rmtree(target)
        return found

    rows = bench.interleaved(
        {
            'freezer list': lambda: looking.agent(
                near, '--action', 'list', '--backup-name', 'many'
            ),
            'restic ls': lambda: looking.restic(near, 'ls', 'latest'),
            'freezer one file': lambda: one(near, 'freezer'),
            'restic one file': lambda: one(near, 'restic'),
            'freezer one file, far': lambda: one(far, 'freezer'),
            'restic one file, far': lambda: one(far, 'restic'),
        }
    )
    _cost, received = looking.counted(lambda: one(near, 'freezer'))
    _cost, theirs = looking.counted(lambda: one(near, 'restic'))
    size = sum((tree / name).stat().st_size for name in names)
    shutil.rmtree(tree)
    checks = [
        Check('list, s', named(rows, 'freezer list').median('wall'), _LIST_SECONDS),
        Check('one, s', named(rows, 'freezer one file').median('wall'), _NEAR_SECONDS),
        Check(
            'one far, s',
            named(rows, 'freezer one file, far').median('wall'),
            _FAR_SECONDS,
        ),
        Check('one, MB received', received / 1e6, _RECEIVED_MB),
    ]
    notes = [f'received for one file: {received} bytes; restic: {theirs}']
    title = f'{count} files, {size // MIB} MiB: list, and one file'
    return Result('P11', title, store, rows, checks, notes)


def _find(looking: _Looking, store: str) -> Result:
    bench, near = looking.bench, looking.near
    tree = bench.scratch / 'levels'
    tree.mkdir()
    names = make_files(tree, bench.files)
    backup = (
        *('--action', 'backup', '--path-to-backup', tree),
        *('--backup-name', 'levels', '--incremental', '--compression', 'none'),
    )
    for level in range(_LEVELS):
        if level:
            for name in random.Random(level).sample(names, 100):
                (tree / name).write_bytes(b'%d' % level)
        looking.agent(near, *backup)
    rows: list[Row] = bench.interleaved(
        {
            'freezer find': lambda: looking.agent(
                near,
                *('--action', 'find', '--backup-name', 'levels'),
                *('--include', '**/file-0001*'),
            )
        }
    )
    shutil.rmtree(tree)
    seconds = named(rows, 'freezer find').median('wall')
    title = f'find in {_LEVELS} levels of {bench.files} files'
    return Result('P11', title, store, rows, [Check('find, s', seconds, _FIND_SECONDS)])
