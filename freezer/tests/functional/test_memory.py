"""The agent's memory depends on parts and concurrency, not on the data.

``benchmarks/memory.py`` measures the same at the sizes people have.
"""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

from freezer.tests import servers

MIB = 2**20
PART = 8
CONCURRENCY = 2
# oslo and a botocore client alone are 53 MiB.
BOUND = 96 + (CONCURRENCY + 1) * PART
# What may differ from run to run: threads come and go, arenas fill differently.
NOISE = 20


# Between the tests and the agent: the kernel counts what a process had before it became
# another program, and that would be the memory of the tests.
_MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(used.ru_maxrss)
sys.exit(status != 0)
"""


def _peak(server: servers.Server, container: str, *arguments: str) -> float:
    """Peak resident MiB of one agent, without its children."""
    environment = os.environ | {
        'ACCESS_KEY': server.access_key,
        'SECRET_KEY': server.secret_key,
        'ENDPOINT': server.endpoint,
    }
    argv = [sys.executable, '-m', 'freezer.main', '--storage=s3', '--backup-name=big']
    argv += [f'--container={container}', f'--max-segment-size={PART}M']
    argv += [f'--s3-concurrency={CONCURRENCY}', '--compression=gzip', *arguments]
    measured = subprocess.run(
        [sys.executable, '-I', '-S', '-c', _MEASURE, *argv],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(measured.stdout) / 1024


def _fill(path: Path, mib: int) -> None:
    """Noise, which does not compress, and zeros, which do, half and half."""
    noise = os.urandom(MIB)
    with path.open('wb') as stream:
        for number in range(mib):
            stream.write(noise if number % 2 else bytes(MIB))


@pytest.mark.parametrize('mib', [100, 500])
def test_memory_is_bounded(
    seaweedfs: servers.SeaweedFS, tmp_path: Path, mib: int
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    _fill(source / 'big', mib)
    container = seaweedfs.make_bucket('memory')
    assert _peak(seaweedfs, container, f'--path-to-backup={source}') < BOUND + NOISE
    verify = ('--action=verify', '--verify-data')
    assert _peak(seaweedfs, container, *verify) < BOUND + NOISE
    target = tmp_path / 'target'
    restore = ('--action=restore', f'--restore-abs-path={target}')
    assert _peak(seaweedfs, container, *restore) < BOUND + NOISE
    assert filecmp.cmp(source / 'big', target / 'big', shallow=False)
