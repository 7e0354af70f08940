"""The driver alone: copies standard input to objects, and objects to standard output.

    python benchmarks/pipe.py put < stream          # keys, endpoint, container: in the
    python benchmarks/pipe.py get > stream          # environment, as for the agent
    python benchmarks/pipe.py measure [--store seaweedfs|ceph] [--gib 1 20]

``measure`` starts a store, sends a stream of random data through a pipe and back,
compares SHA-256, and prints wall and CPU seconds and the peak memory of the driver's
process. It uses the agent's defaults; append options of the driver to change them.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.utils import startup

# As the agent starts.
startup.defer_seldom_used()
with startup.no_garbage_collection():
    from freezer.common import config
    from freezer.storage.backup import Backup, StoredLevel
    from freezer.storage.base import Storage

MIB = 2**20
BLOCK = 256 * 1024
STORES = ('seaweedfs', 'ceph')
BACKUP = Backup('pipe', 'host_pipe', 1, 1, 0)


def storage(arguments: list[str]) -> Storage:
    """The driver that the agent creates from these arguments and the environment."""
    with startup.no_garbage_collection():
        settings = config.load(['--storage', 's3', *arguments], os.environ)
    driver, options = settings.storages[0]
    made: Storage = driver.from_settings(options)
    return made


def put(arguments: list[str]) -> None:
    there = storage(arguments)
    there.prepare()
    pending = there.begin(BACKUP)
    block = bytearray(BLOCK)

    def read() -> Iterator[bytearray]:
        # Copied into a part before the next one is requested.
        while size := sys.stdin.buffer.raw.readinto(block):
            yield block if size == BLOCK else block[:size]

    written = pending.write(read())
    with tempfile.NamedTemporaryFile() as state:
        written.commit(Path(state.name), {'engine_name': 'pipe'})
    there.close()


def get(arguments: list[str]) -> None:
    there = storage(arguments)
    for view in StoredLevel(there, BACKUP).stream().views():
        while view:
            view = view[os.write(1, view) :]
    there.close()


def servers() -> dict[str, Any]:
    # Not at the top: it imports moto, whose memory would be counted.
    from freezer.tests import servers

    return {'seaweedfs': servers.SeaweedFS, 'ceph': servers.CephRGW}


def noise(gib: float) -> Iterator[bytes]:
    """Incompressible and cheap: one block with small changes each time."""
    block = bytearray(random.Random(1).randbytes(MIB))
    for number in range(int(gib * 1024)):
        block[:8] = number.to_bytes(8, 'big')
        yield bytes(block)


def start(action: str, environment: dict[str, str], *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, __file__, action, *more],
        env=environment,
        stdin=subprocess.PIPE if action == 'put' else subprocess.DEVNULL,
        stdout=subprocess.PIPE if action == 'get' else None,
    )


def report(what: str, gib: float, begun: float, process: subprocess.Popen) -> None:
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'{what} failed')
    seconds = time.monotonic() - begun
    print(
        f'{gib:5} GiB  {what}  {seconds:7.1f} s  {gib * 1024 / seconds:6.0f} MiB/s  '
        f'CPU {used.ru_utime + used.ru_stime:6.1f} s  '
        f'peak {used.ru_maxrss / 1024:4.0f} MiB',
        flush=True,
    )


def measure(server: Any, gib: float, more: list[str]) -> None:
    environment = os.environ | {
        'ACCESS_KEY': server.access_key,
        'SECRET_KEY': server.secret_key,
        'ENDPOINT': server.endpoint,
        'OS_DEFAULT__CONTAINER': f'{server.make_bucket("pipe")}/prefix',
    }
    begun = time.monotonic()
    writer = start('put', environment, *more)
    assert writer.stdin is not None
    sent, came = hashlib.sha256(), hashlib.sha256()
    for block in noise(gib):
        sent.update(block)
        writer.stdin.write(block)
    writer.stdin.close()
    report('put', gib, begun, writer)
    begun = time.monotonic()
    reader = start('get', environment, *more)
    assert reader.stdout is not None
    while block := reader.stdout.read(MIB):
        came.update(block)
    report('get', gib, begun, reader)
    if sent.digest() != came.digest():
        raise SystemExit('the received stream differs from the one sent')
    print(f'{gib:5} GiB  SHA-256 equal: {sent.hexdigest()}', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('action', choices=['put', 'get', 'measure'])
    parser.add_argument('--store', choices=STORES, default='seaweedfs')
    parser.add_argument('--gib', type=float, nargs='+', default=[1])
    options, more = parser.parse_known_args()
    if options.action == 'put':
        put(more)
    elif options.action == 'get':
        get(more)
    else:
        for gib in options.gib:
            with (
                tempfile.TemporaryDirectory() as home,
                servers()[options.store]() as server,
            ):
                os.environ['HOME'] = home
                measure(server, gib, more)


if __name__ == '__main__':
    main()
