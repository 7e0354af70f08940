"""P1 to P3: a pipe and an object, near and far."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks import distance, null_store
from benchmarks.bench import MIB, Bench, Check, Result, Row, against, ratio
from benchmarks.helpers import helper
from benchmarks.measure import Cost, Failed, measure
from benchmarks.peers import Peer, Place, freezer, peers

# Seconds. Over one slow connection a GiB takes 43. aws-cli 1.46 hangs now and then when
# it reads from a fast store: its window of chunks waits for itself.
_PATIENCE, _PATIENCE_FAR = 40.0, 100.0


def stream(bench: Bench, mib: int) -> Path:
    """A file of so many MiB of noise, in memory where there is a place for it."""
    path = bench.memory / f'stream{mib}'
    if not path.exists():
        with path.open('wb') as stream:
            stream.writelines(null_store.noise(mib * MIB))
    return path


def _pipes(
    bench: Bench, place: Place, action: str, patience: float = _PATIENCE
) -> list[Row]:
    source, size = stream(bench, bench.mib), bench.mib * MIB
    environment = bench.environment | place.environment()
    everyone = peers(bench.tools)

    def put(peer: Peer, name: str) -> Cost:
        return measure(
            peer.put(place, name), environment, source=source, patience=patience
        )

    if action == 'put':
        return bench.interleaved(
            {peer.name: lambda peer=peer: put(peer, bench.fresh()) for peer in everyone}
        )
    stored = {}
    everyone = [peer for peer in everyone if peer.gets]
    for peer in everyone:
        # Each reads what it wrote: ours has digests beside it.
        stored[peer.name] = bench.fresh()
        with contextlib.suppress(Failed):
            put(peer, stored[peer.name])
    return bench.interleaved(
        {
            peer.name: lambda peer=peer: measure(
                peer.get(place, stored[peer.name]),
                environment,
                sink=size,
                patience=patience,
            )
            for peer in everyone
        }
    )


def p1(bench: Bench) -> Iterator[Result]:
    for store in bench.stores:
        with bench.store(store) as place:
            rows = _pipes(bench, place, 'put')
        yield Result(
            'P1',
            f'{bench.mib} MiB from a pipe to an object',
            store,
            rows,
            [
                against(rows, 'wall', 0.8, 'wall'),
                against(rows, 'cpu', 0.7, 'CPU'),
            ],
        )


def p2(bench: Bench) -> Iterator[Result]:
    for store in bench.stores:
        with bench.store(store) as place:
            rows = _pipes(bench, place, 'get')
        yield Result(
            'P2',
            f'{bench.mib} MiB from an object to a pipe',
            store,
            rows,
            [
                against(rows, 'wall', 1.0, 'wall'),
                Check('CPU / s5cmd', ratio(rows, 's5cmd', 'cpu'), 1.0),
                Check('memory / s5cmd', ratio(rows, 's5cmd', 'peak'), 0.5),
            ],
        )


def p3(bench: Bench) -> Iterator[Result]:
    with (
        bench.store('null') as near,
        helper('benchmarks.distance', near.endpoint.rpartition('/')[2]) as address,
    ):
        far = Place(f'http://{address}', near.access_key, near.secret_key, near.bucket)
        for action in ('put', 'get'):
            rows = _pipes(bench, far, action, _PATIENCE_FAR)
            yield Result(
                'P3',
                f'{bench.mib} MiB, {action}: 40 ms and 25 MB/s a connection away',
                'null, far',
                rows,
                [against(rows, 'wall', 1.0, 'wall')],
            )
        yield _rate(bench, far)


def _rate(bench: Bench, far: Place) -> Result:
    """How busy connections are kept: of a stream that is long enough for its begin and
    its end not to count, and with few enough of them for two processors."""
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
    return Result('P3', f'{size // MIB} MiB, as far away', 'null, far', rows, checks)
