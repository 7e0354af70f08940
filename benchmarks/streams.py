"""P1 to P3: a pipe and an object, with a near and a distant store."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import distance, null_store
from benchmarks.bench import (
    MIB,
    Bench,
    Check,
    Result,
    Row,
    against,
    memory,
    not_behind,
    ratio,
)
from benchmarks.helpers import helper
from benchmarks.measure import Cost, measure
from benchmarks.peers import Peer, Place, freezer, peers
from benchmarks.stores import NULL, kind

# Seconds. A GiB takes 1 to 10 near, and 43 over one slow connection. A run that takes
# longer hangs: aws-cli 1.46 sometimes does when it reads from a fast store, because its
# window of chunks deadlocks.
_PATIENCE, _PATIENCE_FAR = 25.0, 70.0

# The last object stored by each tool.
_Stored = dict[str, str]


def stream(bench: Bench, mib: int) -> Path:
    """A file of random data, in memory if there is a directory for it."""
    path = bench.memory / f'stream{mib}'
    if not path.exists():
        with path.open('wb') as stream:
            stream.writelines(null_store.noise(mib * MIB))
    return path


@dataclass(frozen=True)
class _Pipes:
    """All tools with one store.

    :param patience: seconds after which a tool counts as hanging
    """

    bench: Bench
    place: Place
    patience: float = _PATIENCE

    def peers(self) -> list[Peer]:
        tools = self.bench.tools
        found = list(peers(tools))
        if self.place.endpoint.startswith('https://'):
            found.append(freezer(tools, 'freezer blake3', '--s3-digest', 'blake3'))
        return found

    def put(self, peer: Peer, stored: _Stored) -> Cost:
        bench, name = self.bench, self.bench.fresh()
        cost = measure(
            peer.put(self.place, name),
            bench.environment | self.place.environment(),
            source=stream(bench, bench.mib),
            patience=self.patience,
        )
        stored[peer.name] = name
        return cost

    def puts(self, stored: _Stored) -> list[Row]:
        return self.bench.interleaved(
            {peer.name: partial(self.put, peer, stored) for peer in self.peers()}
        )

    def gets(self, stored: _Stored) -> list[Row]:
        """Each tool reads its own object, because ours needs the digests beside it."""
        bench = self.bench

        def get(peer: Peer) -> Cost:
            return measure(
                peer.get(self.place, stored[peer.name]),
                bench.environment | self.place.environment(),
                sink=bench.mib * MIB,
                patience=self.patience,
            )

        everyone = [peer for peer in self.peers() if peer.gets]
        for peer in everyone:
            if peer.name not in stored:
                bench.interleaved({peer.name: partial(self.put, peer, stored)}, 1)
        return bench.interleaved(
            {peer.name: partial(get, peer) for peer in everyone if peer.name in stored}
        )


def p1(bench: Bench) -> Iterator[Result]:
    for store in bench.stores:
        with bench.store(store) as place:
            rows = _Pipes(bench, place).puts({})
        yield Result(
            'P1',
            f'{bench.mib} MiB from a pipe to an object',
            store,
            rows,
            [
                *(
                    (
                        against(rows, 'wall', 0.8, 'wall'),
                        against(rows, 'cpu', 0.7, 'CPU'),
                    )
                    if kind(store) == NULL
                    else (not_behind(rows),)
                ),
                memory(rows),
            ],
        )


def p2(bench: Bench) -> Iterator[Result]:
    for store in bench.stores:
        with bench.store(store) as place:
            rows = _Pipes(bench, place).gets({})
        yield Result(
            'P2',
            f'{bench.mib} MiB from an object to a pipe',
            store,
            rows,
            [
                *(
                    (
                        Check('wall / s5cmd', ratio(rows, 's5cmd'), 0.75),
                        Check('CPU / s5cmd', ratio(rows, 's5cmd', 'cpu'), 0.75),
                        Check('wall / rclone', ratio(rows, 'rclone'), 1.15),
                    )
                    if kind(store) == NULL
                    else (not_behind(rows),)
                ),
                memory(rows),
            ],
        )


@contextlib.contextmanager
def far_away(bench: Bench, store: str = NULL) -> Iterator[Place]:
    """The null store behind the distance proxy."""
    with (
        bench.store(store) as near,
        helper('benchmarks.distance', near.endpoint.rpartition('/')[2]) as address,
    ):
        protocol = near.endpoint.partition('://')[0]
        yield replace(near, endpoint=f'{protocol}://{address}')


def p3(bench: Bench) -> Iterator[Result]:
    for store in (name for name in bench.stores if kind(name) == NULL):
        yield from _far(bench, store)


def _far(bench: Bench, store: str) -> Iterator[Result]:
    with far_away(bench, store) as far:
        pipes, stored = _Pipes(bench, far, _PATIENCE_FAR), _Stored()
        for action, run in (('put', pipes.puts), ('get', pipes.gets)):
            rows = run(stored)
            yield Result(
                'P3',
                f'{bench.mib} MiB, {action}: 40 ms and 25 MB/s a connection away',
                f'{store}, far',
                rows,
                [against(rows, 'wall', 1.0, 'wall')],
            )
        yield _rate(bench, far, store)


def _rate(bench: Bench, far: Place, store: str) -> Result:
    """Utilisation of the connections, with a stream long enough to neglect start and
    end, and few enough connections for two processors."""
    several, times = 4, 4
    size = bench.mib * MIB * times
    ours = freezer(
        bench.tools,
        f'freezer {several}x32',
        *('--s3-concurrency', str(several), '--max-segment-size', '32M'),
    )
    environment = bench.environment | far.environment()
    source = stream(bench, bench.mib)

    def put() -> Cost:
        name = bench.fresh('long')
        return measure(ours.put(far, name), environment, source=source, times=times)

    def get() -> Cost:
        return measure(ours.get(far, bench.newest('long')), environment, sink=size)

    rows = bench.interleaved({f'{ours.name} put': put, f'{ours.name} get': get})
    best = size / (several * distance.BYTES_PER_SECOND)
    checks = [
        Check(
            f'{row.name}: rate / {several} x 25 MB/s',
            best / row.median('wall'),
            0.9,
            True,
        )
        for row in rows
    ]
    return Result(
        'P3', f'{size // MIB} MiB, as far away', f'{store}, far', rows, checks
    )
