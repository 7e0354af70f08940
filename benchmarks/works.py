"""What is measured, and what is to be reached."""

import collections
import contextlib
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import distance, null_store
from benchmarks.helpers import helper
from benchmarks.measure import Cost, Failed, measure
from benchmarks.peers import CONCURRENCY, HERE, PART_MIB, Peer, Place, peers

MIB = 2**20
# A contestant that failed so often is not asked again.
_FAILURES = 2
# Seconds for a GiB over one slow connection, and as many again. aws-cli 1.46 hangs now
# and then when it reads from a fast store: its window of chunks waits for itself.
_PATIENCE = 100.0
BENCH_BUCKET = 'benchmark'


@dataclass
class Row:
    """One contestant's runs."""

    name: str
    costs: list[Cost] = field(default_factory=list)

    def median(self, what: str) -> float:
        return statistics.median(getattr(cost, what) for cost in self.costs)

    def range(self, what: str) -> tuple[float, float]:
        values = [getattr(cost, what) for cost in self.costs]
        return min(values), max(values)


@dataclass(frozen=True)
class Check:
    """A figure and the most that it may be, or the least."""

    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Result:
    """What came of one work at one store."""

    work: str
    title: str
    store: str
    rows: list[Row]
    checks: list[Check]
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass
class Bench:
    """What the works have in common.

    :param places: the stores, by name
    :param scratch: a directory for trees
    :param memory: a directory whose files are in memory
    :param mib: MiB of the stream of P1 to P3
    :param gib: GiB of P10
    :param chains: of P9
    :param files: of the tree of P4 to P7, which has ``tree_mib`` MiB
    """

    tools: Mapping[str, str]
    places: Mapping[str, Place]
    scratch: Path
    memory: Path
    runs: int
    mib: int
    gib: tuple[int, int]
    chains: int
    files: int
    tree_mib: int
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(('AWS_', 'OS_', 'RCLONE_', 'RESTIC_'))
        }
        self.environment['HOME'] = str(self.scratch)
        self.environment['PYTHONPATH'] = str(HERE.parent)
        self.notes: list[str] = []
        self._serial = 0
        self._newest: dict[str, str] = {}

    def fresh(self, word: str = 'run') -> str:
        """A name nothing has been stored under."""
        self._serial += 1
        self._newest[word] = f'{word}{self._serial}'
        return self._newest[word]

    def newest(self, word: str) -> str:
        """The last name that was made of this word."""
        return self._newest[word]

    def interleaved(
        self, contestants: Mapping[str, Callable[[], Cost]], runs: int | None = None
    ) -> list[Row]:
        """Each in turn, again and again, so that the machine's moods meet all alike."""
        rows = {name: Row(name) for name in contestants}
        failures: collections.Counter[str] = collections.Counter()
        for _ in range(runs or self.runs):
            for name, run in contestants.items():
                if failures[name] == _FAILURES:
                    continue
                try:
                    cost = run()
                except Failed as error:
                    failures[name] += 1
                    self.notes.append(f'{name} failed: {str(error)[-200:].strip()}')
                    self.tell(f'  {self.notes[-1]}')
                    continue
                rows[name].costs.append(cost)
                self.tell(
                    f'  {name:24} {cost.wall:7.2f} s  CPU {cost.cpu:6.2f} s  '
                    f'{cost.peak:5.0f} MiB'
                )
        return [row for row in rows.values() if row.costs]


def _agent(*arguments: object) -> Sequence[str]:
    return (
        *(sys.executable, '-m', 'freezer.main', '--storage', 's3'),
        *('--hostname', 'bench', *map(str, arguments)),
    )


def _ours(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if _is_ours(row))


def _others(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not _is_ours(row)]


def _is_ours(row: Row) -> bool:
    return row.name.split()[0] == 'freezer'


def _named(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def _ratio(rows: Sequence[Row], name: str, what: str = 'wall') -> float:
    """Ours by another one; endless, so missed, if one of them never succeeded."""
    names = {row.name: row for row in rows}
    ours = next(filter(_is_ours, rows), None)
    if ours is None or name not in names:
        return math.inf
    return ours.median(what) / names[name].median(what)


def _against(rows: Sequence[Row], what: str, limit: float, title: str) -> Check:
    """Ours by the best of the others."""
    best = min(_others(rows), key=lambda row: row.median(what)).name
    return Check(f'{title} / {best}', _ratio(rows, best, what), limit)


# P1 to P3: a pipe and an object


def _stream(bench: Bench, mib: int) -> Path:
    """A file of so many MiB of noise, in memory where there is a place for it."""
    path = bench.memory / f'stream{mib}'
    if not path.exists():
        with path.open('wb') as stream:
            stream.writelines(null_store.noise(mib * MIB))
    return path


def _pipes(bench: Bench, place: Place, action: str) -> list[Row]:
    source, size = _stream(bench, bench.mib), bench.mib * MIB
    environment = bench.environment | place.environment()
    everyone = peers(bench.tools)

    def put(peer: Peer, name: str) -> Cost:
        return measure(
            peer.put(place, name), environment, source=source, patience=_PATIENCE
        )

    if action == 'put':
        return bench.interleaved(
            {peer.name: lambda peer=peer: put(peer, bench.fresh()) for peer in everyone}
        )
    stored = {}
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
                patience=_PATIENCE,
            )
            for peer in everyone
        }
    )


def p1(bench: Bench) -> Iterator[Result]:
    for store in bench.places:
        rows = _pipes(bench, bench.places[store], 'put')
        yield Result(
            'P1',
            f'{bench.mib} MiB from a pipe to an object',
            store,
            rows,
            [
                _against(rows, 'wall', 0.8, 'wall'),
                _against(rows, 'cpu', 0.7, 'CPU'),
            ],
        )


def p2(bench: Bench) -> Iterator[Result]:
    for store in bench.places:
        rows = _pipes(bench, bench.places[store], 'get')
        yield Result(
            'P2',
            f'{bench.mib} MiB from an object to a pipe',
            store,
            rows,
            [
                _against(rows, 'wall', 1.0, 'wall'),
                Check('CPU / s5cmd', _ratio(rows, 's5cmd', 'cpu'), 1.0),
                Check('memory / s5cmd', _ratio(rows, 's5cmd', 'peak'), 0.5),
            ],
        )


def p3(bench: Bench) -> Iterator[Result]:
    store = 'null' if 'null' in bench.places else next(iter(bench.places))
    near = bench.places[store]
    with helper('benchmarks.distance', near.endpoint.rpartition('/')[2]) as address:
        far = Place(f'http://{address}', near.access_key, near.secret_key, near.bucket)
        best = CONCURRENCY * distance.BYTES_PER_SECOND
        for action in ('put', 'get'):
            rows = _pipes(bench, far, action)
            rate = bench.mib * MIB / _ours(rows).median('wall')
            yield Result(
                'P3',
                f'{bench.mib} MiB, {action}: 40 ms and 25 MB/s a connection away',
                f'{store}, far',
                rows,
                [
                    Check(f'rate / {CONCURRENCY} x 25 MB/s', rate / best, 0.9, True),
                    _against(rows, 'wall', 1.0, 'wall'),
                ],
            )


# P4 to P7: a tree


def make_tree(root: Path, files: int, mib: int) -> tuple[int, int]:
    """Copy what a machine has: its documentation, libraries and programs, until there
    are so many files and MiB; how many there are."""
    count = size = 0
    for start in (sys.prefix, '/usr/share', '/usr/lib', '/usr/bin'):
        for folder, _, names in os.walk(start):
            there = root / folder.lstrip('/')
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_symlink() or not path.is_file():
                    continue
                there.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(PermissionError):
                    shutil.copy2(path, there / name)
                    count += 1
                    size += path.stat().st_size
            if count >= files and size >= mib * MIB:
                return count, size // MIB
    return count, size // MIB


def _store(bench: Bench) -> tuple[str, Place]:
    name = next(name for name in bench.places if name != 'null')
    return name, bench.places[name]


def _shell(script: str) -> Sequence[str]:
    return ('bash', '-o', 'pipefail', '-c', script)


def trees(bench: Bench) -> Iterator[Result]:
    """P4 to P7, which need one another's backups."""
    store, place = _store(bench)
    tree = bench.scratch / 'tree'
    found = make_tree(tree, bench.files, bench.tree_mib)
    of = f'{found[0]} files, {found[1]} MiB'
    environment = bench.environment | place.environment()
    target = bench.scratch / 'restored'

    def backup(compression: str, name: str, *more: str) -> Cost:
        return measure(
            _agent(
                *('--action', 'backup', '--path-to-backup', tree),
                *('--backup-name', name, '--compression', compression, *more),
            ),
            environment,
        )

    def shell(script: str) -> Cost:
        return measure(_shell(script), environment)

    def into(command: Callable[[], Cost]) -> Callable[[], Cost]:
        def run() -> Cost:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            return command()

        return run

    url = f'store:{place.container}'
    rclone, restic, tar = bench.tools['rclone'], bench.tools['restic'], 'tar'

    # P4
    contestants = {'freezer gzip': lambda: backup('gzip', bench.fresh('gz'))}
    if '19' in bench.tools:

        def upstream() -> Cost:
            return measure(
                (
                    *(bench.tools['19'], str(HERE / 'freezer19.py')),
                    *('--action', 'backup', '--storage', 's3', '--mode', 'fs'),
                    *('--access-key', place.access_key),
                    *('--secret-key', place.secret_key, '--endpoint', place.endpoint),
                    *('--container', place.container, '--path-to-backup', str(tree)),
                    *('--backup-name', bench.fresh('up'), '--nosync'),
                ),
                {
                    name: value
                    for name, value in bench.environment.items()
                    if name != 'PYTHONPATH'
                }
                | {
                    f'OS_{name}': 'nowhere'
                    for name in ('AUTH_URL', 'USERNAME', 'PASSWORD', 'PROJECT_NAME')
                },
            )

        contestants['19.0.0 (patched)'] = upstream
    for packer in ('gzip -6', 'pigz -6'):
        contestants[f'tar | {packer} | rclone'] = lambda packer=packer: shell(
            f'{tar} -cf - -C {tree} . | {packer} | {rclone} rcat {url}/{bench.fresh()}'
        )
    rows = bench.interleaved(contestants)
    size = _stored(bench, place, bench.newest('gz'))
    plain = int(
        subprocess.run(
            _shell(f'{tar} -cf - -C {tree} . | gzip -6 | wc -c'),
            check=True,
            capture_output=True,
        ).stdout
    )
    checks = [Check('size / gzip -6', size / plain, 1.1)]
    if '19' in bench.tools:
        ratio = _ratio(rows, '19.0.0 (patched)')
        checks.insert(0, Check('wall / 19.0.0 (patched)', ratio, 0.5))
    yield Result('P4', f'full backup, gzip: {of}', store, rows, checks)

    # P5
    pipeline = f'{tar} -cf - -C {tree} . | zstd -T0 -q | {rclone} rcat {url}'
    repository = f'{environment["RESTIC_REPOSITORY"]}'

    def restic_backup() -> Cost:
        name = bench.fresh('restic')
        subprocess.run(
            [restic, '-q', '-r', f'{repository}/{name}', 'init'],
            env=environment,
            check=True,
            capture_output=True,
        )
        return measure(
            (
                restic,
                '-q',
                '-r',
                f'{repository}/{name}',
                'backup',
                str(tree),
            ),
            environment,
        )

    rows = bench.interleaved(
        {
            'freezer zstd': lambda: backup('zstd', bench.fresh('zst')),
            'tar | zstd -T0 | rclone': lambda: shell(
                f'{pipeline}/{bench.fresh("pipe")}'
            ),
            'restic backup': restic_backup,
        }
    )
    yield Result(
        'P5',
        f'full backup, zstd: {of}',
        store,
        rows,
        [
            Check('wall / pipeline', _ratio(rows, 'tar | zstd -T0 | rclone'), 1.0),
            Check('wall / restic', _ratio(rows, 'restic backup'), 0.5),
        ],
    )

    # P6
    ours_name = bench.newest('zst')
    pipe_name, restic_name = bench.newest('pipe'), bench.newest('restic')
    rows = bench.interleaved(
        {
            'freezer zstd': into(
                lambda: measure(
                    _agent(
                        *('--action', 'restore', '--backup-name', ours_name),
                        *('--restore-abs-path', target),
                    ),
                    environment,
                )
            ),
            'rclone | zstd -d | tar': into(
                lambda: shell(
                    f'{rclone} cat {url}/{pipe_name} | zstd -dq | '
                    f'{tar} -xf - -C {target}'
                )
            ),
            'restic restore': into(
                lambda: measure(
                    (
                        *(restic, '-q'),
                        *('-r', f'{repository}/{restic_name}'),
                        *('restore', 'latest', '--target', str(target)),
                    ),
                    environment,
                )
            ),
        }
    )
    yield Result(
        'P6',
        f'restore of P5: {of}',
        store,
        rows,
        [
            Check('wall / pipeline', _ratio(rows, 'rclone | zstd -d | tar'), 1.1),
            Check('wall / restic', _ratio(rows, 'restic restore'), 1.0),
        ],
    )
    shutil.rmtree(target, ignore_errors=True)

    # P7
    snapshot = bench.scratch / 'snapshot'
    listing = f'{tar} -cf /dev/null --listed-incremental={snapshot} -C {tree} .'
    subprocess.run(_shell(listing), check=True, capture_output=True)
    level = bench.fresh('inc')
    backup('zstd', level, '--incremental')
    rows = bench.interleaved(
        {
            'freezer zstd': lambda: backup('zstd', level, '--incremental'),
            'tar --listed-incremental': lambda: shell(listing),
        }
    )
    plain_wall = _named(rows, 'tar --listed-incremental').median('wall')
    ratio = _ours(rows).median('wall') / (1.3 * plain_wall + 1)
    yield Result(
        'P7',
        f'increment with nothing changed: {of}',
        store,
        rows,
        [Check('wall / (1.3 x tar + 1 s)', ratio, 1.0)],
    )
    shutil.rmtree(tree)


def _stored(bench: Bench, place: Place, name: str) -> int:
    """Bytes that one backup takes."""
    done = subprocess.run(
        [
            *(bench.tools['rclone'], 'lsf', '-R', '--files-only', '--format', 'sp'),
            f'store:{place.container}/data',
        ],
        env=bench.environment | place.environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    lines = (line.split(';', 1) for line in done.stdout.splitlines())
    return sum(
        int(size) for size, path in lines if f'_{name}/' in path and size != '-1'
    )


# P8 to P10: small, many, large

_IMPORTS = 'import oslo_config.cfg, oslo_log.log'
_CLIENT = (
    'import botocore.session; botocore.session.Session().create_client("s3", '
    'region_name="us-east-1", endpoint_url="http://127.0.0.1:9")'
)


def p8(bench: Bench) -> Iterator[Result]:
    place = bench.places.get('null') or next(iter(bench.places.values()))
    environment = bench.environment | place.environment()
    empty = f'{place.bucket}/nothing'
    info = ('--action', 'info', '--container', empty)
    runs = max(5, bench.runs)
    rows = bench.interleaved(
        {
            'freezer --version': lambda: measure(
                (sys.executable, '-m', 'freezer.main', '--version'), environment
            ),
            'oslo imports': lambda: measure(
                (sys.executable, '-c', _IMPORTS), environment
            ),
        },
        runs,
    )
    ratio = _ratio(rows, 'oslo imports', 'cpu')
    yield Result(
        'P8',
        '--version',
        '-',
        rows,
        [Check('CPU / imports of oslo.config and oslo.log', ratio, 1.2)],
    )
    rows = bench.interleaved(
        {
            'freezer info': lambda: measure(_agent(*info), environment),
            'imports and a client': lambda: measure(
                (sys.executable, '-c', f'{_IMPORTS}; {_CLIENT}'), environment
            ),
        },
        runs,
    )
    ratio = _ratio(rows, 'imports and a client', 'cpu')
    yield Result(
        'P8',
        'info on an empty prefix',
        'null',
        rows,
        [Check('CPU / that and one botocore client', ratio, 1.2)],
    )


def p9(bench: Bench) -> Iterator[Result]:
    """Chains that were copied in the store's memory, of one that was really made."""
    if 'null' not in bench.places:
        return
    levels, chains = 10, bench.chains
    null = bench.places['null']
    place = Place(null.endpoint, null.access_key, null.secret_key, BENCH_BUCKET, 'many')
    environment = bench.environment | place.environment()
    tree = bench.scratch / 'small'
    tree.mkdir()
    for level in range(levels):
        (tree / f'file{level}').write_bytes(random.Random(level).randbytes(100))
        measure(
            _agent(
                *('--action', 'backup', '--path-to-backup', tree),
                *('--backup-name', 'many', '--incremental'),
            ),
            environment,
        )
        # A level is named by its second.
        time.sleep(1.1)
    done = subprocess.run(
        [*_agent('--action', 'info'), '--metadata-out', '-'],
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
        cost = measure(_agent(*arguments), environment)
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
        bench.tell(f'  freezer {name:16} {cost.wall:6.2f} s  {by_kind}')
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
    place = bench.places.get('null') or next(iter(bench.places.values()))
    environment = bench.environment | place.environment()
    ours = peers(bench.tools)[0]
    rows, checks = [], []
    limit = 96 + (CONCURRENCY + 1) * PART_MIB
    source = _stream(bench, 1024)
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
    yield Result('P10', 'peak memory', 'null', rows, checks)


# The null store


def _ask(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data) as answer:
        content: bytes = answer.read()
    return content


def _requests(place: Place) -> dict[str, int]:
    """How many requests of each kind it has had."""
    found: dict[str, int] = json.loads(_ask(f'{place.endpoint}/-/requests'))
    return found
