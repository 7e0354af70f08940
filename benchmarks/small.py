"""P8 to P10: start-up time, many chains, memory of large backups."""

import dataclasses
import functools
import json
import random
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator

from benchmarks.bench import MIB, Bench, Check, Result, Row, ratio
from benchmarks.measure import measure
from benchmarks.peers import CONCURRENCY, PART_MIB, Place, freezer
from benchmarks.streams import far_away, stream

_IMPORTS = 'import oslo_config.cfg, oslo_log.log'
_CLIENT = (
    'import botocore.session; botocore.session.Session().create_client("s3", '
    'region_name="us-east-1", endpoint_url="http://127.0.0.1:9")'
)


Work = Callable[[Bench], Iterator[Result]]


def _on_null(work: Callable[[Bench, Place], Iterator[Result]]) -> Work:
    """A task that measures the client, and uses the null store."""

    @functools.wraps(work)
    def run(bench: Bench) -> Iterator[Result]:
        with bench.store('null') as place:
            yield from work(bench, place)

    return run


@_on_null
def p8(bench: Bench, place: Place) -> Iterator[Result]:
    environment = bench.environment | place.environment()
    empty = f'{place.bucket}/nothing'
    info = ('--action', 'info', '--container', empty)
    runs = max(5, bench.runs)
    rows = bench.interleaved(
        {
            'freezer --version': lambda: measure(
                (bench.tools['freezer-agent'], '--version'), environment
            ),
            'oslo imports': lambda: measure(
                (bench.tools['python'], '-c', _IMPORTS), environment
            ),
        },
        runs,
    )
    found = ratio(rows, 'oslo imports', 'cpu')
    yield Result(
        'P8',
        '--version',
        '-',
        rows,
        [Check('CPU / imports of oslo.config and oslo.log', found, 1.2)],
    )
    rows = bench.interleaved(
        {
            'freezer info': lambda: measure(bench.agent(*info), environment),
            'imports and a client': lambda: measure(
                (bench.tools['python'], '-c', f'{_IMPORTS}; {_CLIENT}'), environment
            ),
        },
        runs,
    )
    found = ratio(rows, 'imports and a client', 'cpu')
    yield Result(
        'P8',
        'info on an empty prefix',
        'null',
        rows,
        [Check('CPU / that and one botocore client', found, 1.2)],
    )


@_on_null
def p9(bench: Bench, place: Place) -> Iterator[Result]:
    """Many chains, copied in the store's memory from one real chain."""
    levels, chains = 10, bench.chains
    place = dataclasses.replace(place, prefix='many')
    environment = bench.environment | place.environment()
    tree = bench.scratch / 'small'
    tree.mkdir()
    for level in range(levels):
        (tree / f'file{level}').write_bytes(random.Random(level).randbytes(100))
        measure(
            bench.agent(
                *('--action', 'backup', '--path-to-backup', tree),
                *('--backup-name', 'many', '--incremental'),
            ),
            environment,
        )
        # The name of a level contains its second.
        time.sleep(1.1)
    done = subprocess.run(
        [*bench.agent('--action', 'info'), '--metadata-out', '-'],
        env=environment,
        check=True,
        capture_output=True,
    )
    (listed,) = json.loads(done.stdout)['backups']
    chain, day = listed['level_zero_timestamp'], 86400
    body = json.dumps({'chain': chain, 'times': chains - 1, 'step': day})
    objects = int(_ask(f'{place.endpoint}/-/repeat', body.encode()))
    target = bench.scratch / 'one'
    half = chain - day * (chains // 2) + 1
    when = time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(half))
    steps: dict[str, tuple[object, ...]] = {
        'info': ('--action', 'info'),
        'restore of one': (
            *('--action', 'restore', '--backup-name', 'many'),
            *('--restore-abs-path', target),
        ),
        'prune of half': (
            *('--action', 'admin', '--backup-name', 'many'),
            *('--remove-before-date', when),
        ),
    }
    rows, checks, notes = [], [], [f'{objects} objects']
    for name, arguments in steps.items():
        before = _requests(place)
        cost = measure(bench.agent(*arguments), environment)
        after = _requests(place)
        by_kind = {
            kind: count - before.get(kind, 0)
            for kind, count in after.items()
            if count > before.get(kind, 0)
        }
        listed = sum(
            count for kind, count in by_kind.items() if kind not in ('GetObject',)
        )
        rows.append(Row(f'freezer {name}', [cost]))
        bench.log(f'  freezer {name:16} {cost.wall:6.2f} s  {by_kind}')
        notes.append(f'{name}: ' + ', '.join(f'{k} {n}' for k, n in by_kind.items()))
        checks.append(
            Check(
                f'{name}: requests / (objects/1000 + 50)',
                listed / (objects / 1000 + 50),
                1,
            )
        )
    yield Result(
        'P9',
        f'{chains} chains of {levels} levels in one prefix',
        'null',
        rows,
        checks,
        notes,
    )


def p10(bench: Bench) -> Iterator[Result]:
    # With a distant store all parts are in flight. With a near store the number varies
    # by chance, and a longer stream is more likely to reach the maximum once.
    with far_away(bench) as place:
        yield _p10(bench, place)


def _p10(bench: Bench, place: Place) -> Result:
    environment = bench.environment | place.environment()
    ours = freezer(bench.tools)
    rows, checks = [], []
    limit = 96 + (CONCURRENCY + 1) * PART_MIB
    source = stream(bench, 1024)
    peaks: dict[str, list[float]] = {'put': [], 'get': []}
    for gib in bench.gib:
        name = bench.fresh()
        for action, run in {
            'put': lambda gib=gib, name=name: measure(
                ours.put(place, name), environment, source=source, times=gib
            ),
            'get': lambda gib=gib, name=name: measure(
                ours.get(place, name), environment, sink=gib * 1024 * MIB
            ),
        }.items():
            (row,) = bench.interleaved({f'freezer {action} {gib} GiB': run}, 1)
            rows.append(row)
            peaks[action].append(row.median('peak'))
    for action, (first, last) in peaks.items():
        checks.append(Check(f'{action}: MiB / {limit}', max(first, last) / limit, 1.0))
        sizes = f'{bench.gib[1]} GiB / {bench.gib[0]} GiB'
        checks.append(Check(f'{action}: {sizes}', last / first, 1.05))
    return Result('P10', 'peak memory', 'null, far', rows, checks)


def _ask(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data) as answer:
        content: bytes = answer.read()
    return content


def _requests(place: Place) -> dict[str, int]:
    """The number of requests by kind."""
    found: dict[str, int] = json.loads(_ask(f'{place.endpoint}/-/requests'))
    return found
