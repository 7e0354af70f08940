"""Backups and restores under random faults.

The invariant each time: exit code 0 if and only if the backup is listed and restores,
byte for byte. What happens is chosen by a seed, which is printed; another one:

    FREEZER_CHAOS_SEED=… FREEZER_CHAOS_RUNS=… pytest freezer/tests/faults/test_chaos.py
"""

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import PART, Agent, Result, S3Store, in_parts, missed
from freezer.tests.faults.harness import (
    EVER,
    Broken,
    Cut,
    Fault,
    Flipped,
    Late,
    Lost,
    declare,
    refused,
    says,
    without,
)
from freezer.tests.proxy import Act, Ending, Proxy

OPERATIONS = (
    *('CreateMultipartUpload', 'UploadPart', 'CompleteMultipartUpload'),
    *('AbortMultipartUpload', 'PutObject', 'GetObject', 'HeadObject', 'HeadBucket'),
    *('ListObjectsV2', 'ListMultipartUploads', 'DeleteObjects'),
)
# The same for every change; others are for who looks for more.
SEED = 3
# One who is killed has no exit code of its own to be believed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


def happens(chance: random.Random, operation: str) -> Act | Broken:
    """Anything that a network or a store may do, and that can be noticed there."""
    at = chance.choice([0, 1, 100, PART // 2])
    endings = list(Ending)
    if operation == 'CompleteMultipartUpload':
        # It may take ten minutes, and the agent waits for it (fault 14).
        endings.remove(Ending.STALL)
    menu: list[Act | Broken] = [
        Broken(chance.choice(endings), at),
        refused(*chance.choice([(500, 'InternalError'), (503, 'SlowDown')])),
        refused(*chance.choice([(403, 'AccessDenied'), (404, 'NoSuchUpload')])),
        refused(400, chance.choice(['RequestTimeout', 'BadDigest'])),
        refused(200, body=b'<html>Welcome</html>'),
        refused(200, body=b''),
        Lost(),
        Late(0.3),
        Cut(at, chance.choice(endings), chance.random() < 0.7),
        without('etag'),
        says(200, b'<?xml version="1.0"?><Error><Code>InternalError</Code></Error>'),
    ]
    if operation == 'GetObject':
        menu += [Flipped(0, answer=True)] * 3
    return chance.choice(menu)


def fault(chance: random.Random) -> Fault:
    operation = chance.choice(OPERATIONS)
    act = happens(chance, operation)
    first, times = chance.choice([1, 1, 2, 3]), chance.choice([1, 1, 2, 3])
    # A flipped bit of a marker cannot be noticed: only what is read in ranges.
    header = 'range' if isinstance(act, Flipped) else ''
    return Fault(operation, act, first, times, header=header)


def hurt(proxy: Proxy, chance: random.Random) -> list[Fault]:
    """From now on, none to three faults; of these one, at most, for ever."""
    proxy.clear()
    declared = [fault(chance) for _ in range(chance.choice([0, 1, 1, 2, 3]))]
    if declared and chance.random() < 0.15:
        declared[0] = dataclasses.replace(declared[0], times=EVER)
    for each in declared:
        declare(proxy, each)
    return declared


@dataclasses.dataclass
class Chaos:
    """One run after the other, on one store.

    :ivar good: how many backups succeeded
    """

    store: S3Store
    proxy: Proxy
    chance: random.Random
    folder: Path
    good: int = 0

    def __post_init__(self) -> None:
        self.source = self.folder / 'source'
        self.source.mkdir()

    def agent(self) -> Agent:
        name = f'bk{self.chance.randrange(4)}'
        return in_parts(Agent(self.store, name)).told(
            *('--s3-retry-budget', '2', '--s3-read-timeout', '0.5'),
            *('--s3-max-parts', self.chance.choice(['4', '10000'])),
        )

    def change(self) -> None:
        """The source, as its users would."""
        for number in range(self.chance.randrange(4)):
            size = self.chance.choice([0, 1, 4096, PART - 5000, PART, 3 * PART])
            path = self.source / f'file{self.chance.randrange(5)}.{number}'
            path.write_bytes(self.chance.randbytes(size))
        for path in sorted(self.source.iterdir()):
            if self.chance.random() < 0.3:
                path.unlink()

    def run(self) -> None:
        self.change()
        agent = self.agent()
        before = set(self.store.markers())
        declared = hurt(self.proxy, self.chance)
        # Should it hang, nobody else will have said it.
        print(f'  backup under {declared}')
        result, killed = self.backup(agent)
        told = f'{declared}, killed: {killed}\n{result}'
        self.proxy.clear()
        assert self.store.server.secret_key not in result.out + result.err, told
        new = set(self.store.markers()) - before
        assert before <= set(self.store.markers()), told
        if not killed:
            # Committed, and then a fault hid the levels that it builds on.
            committed = result.code == 0 or 'the backup is committed' in result.err
            assert len(new) == committed, told
        if result.code == 0:
            assert len(new) == 1, told
            self.good += 1
        if new:
            self.restore(agent)

    def backup(self, agent: Agent) -> tuple[Result, bool]:
        more = ('--incremental',) if self.chance.random() < 0.6 else ()
        with agent.start('backup', '--path-to-backup', self.source, *more) as process:
            if self.chance.random() > 0.2:
                return process.wait(), False
            time.sleep(self.chance.uniform(0.3, 1.0))
            process.send(self.chance.choice(SIGNALS))
            result = process.wait()
            return result, result.code < 0

    def restore(self, agent: Agent) -> None:
        """Under faults: all of it, or not with exit code 0. Without: all of it."""
        target = self.folder / 'target'
        expected = trees.describe(self.source)
        declared = hurt(self.proxy, self.chance)
        print(f'  restore under {declared}')
        result = agent.restore(target)
        self.proxy.clear()
        if result.code != 0:
            shutil.rmtree(target, ignore_errors=True)
            result = agent.restore(target)
        assert result.code == 0, f'{declared}\n{result}'
        assert missed(expected, target) == [], f'{declared}\n{result}'
        shutil.rmtree(target)


@pytest.mark.parametrize(
    's3_server, runs', [('seaweedfs', 25), ('ceph', 10)], indirect=['s3_server']
)
def test_chaos(s3_server: servers.Server, runs: int, tmp_path: Path) -> None:
    seed = int(os.environ.get('FREEZER_CHAOS_SEED') or SEED)
    runs = int(os.environ.get('FREEZER_CHAOS_RUNS') or runs)
    print(f'FREEZER_CHAOS_SEED={seed} FREEZER_CHAOS_RUNS={runs}')
    with Proxy(s3_server.endpoint) as proxy:
        store = S3Store(s3_server, proxy.endpoint)
        chaos = Chaos(store, proxy, random.Random(seed), tmp_path)
        for number in range(runs):
            print(f'run {number}')
            chaos.run()
        print(f'{chaos.good} of {runs} backups succeeded')
        # What the others left goes.
        Agent(store).run('admin', '--s3-stale-after', '0').check()
        assert store.open_uploads() == []
        listed = {path.rpartition('/')[0] for path in store.markers()}
        kept = {path.split('/', 1)[1] for path in listed}
        for path in store.sizes():
            if path.startswith('data/'):
                assert any(path.startswith(f'data/{each}/') for each in kept), path
        for name in {path.split('/')[2].partition('_')[2] for path in listed}:
            Agent(store, name).run('verify', '--verify-data').check()
