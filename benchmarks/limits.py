"""Accuracy of --upload-limit and --download-limit on the network.

    python benchmarks/limits.py [--store seaweedfs|ceph] [--limit 512K 5M]

Backs up and restores random data, each for a little more than the measured time,
through a relay that counts bytes. Prints, for each limit and direction, the deviation
from the limit in that time, and in the fastest second.
"""

import argparse
import contextlib
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
import types
from pathlib import Path
from urllib.parse import urlsplit

from memory import MIB, STORES, run

from freezer.tests import servers
from freezer.utils.types import Size

# Small socket buffers, because bytes in them are not counted.
BUFFER = 64 * 1024


class Relay:
    """Forwards connections, and records time and size of the data.

    :ivar up: (time, bytes) of the data that the agent sent
    :ivar down: (time, bytes) of the data that it received
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(('127.0.0.1', 0))
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._listener.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self.endpoint = f'http://127.0.0.1:{self._listener.getsockname()[1]}'
        self.up: list[tuple[float, int]] = []
        self.down: list[tuple[float, int]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            agent, _address = self._listener.accept()
            store = socket.create_connection(self._target)
            for sock in (agent, store):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((agent, store, self.up), (store, agent, self.down)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, passed: list
    ) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BUFFER):
                target.sendall(block)
                passed.append((time.monotonic(), len(block)))
            target.shutdown(socket.SHUT_WR)


def report(
    what: str, limit: int, seconds: float, passed: list[tuple[float, int]]
) -> None:
    """Print one line, measured from the first tenth of a second with 64 KiB, or with a
    tenth of the limit."""
    passed = sorted(passed)
    flows = min(65536, limit // 10)
    begun = next(
        moment
        for moment, _size in passed
        if sum(n for t, n in passed if moment <= t < moment + 0.1) >= flows / 2
    )
    inside = [(t - begun, n) for t, n in passed if 0 <= t - begun < seconds]
    longest = inside[-1][0]
    if longest < seconds - 1:
        raise SystemExit(f'{what}: ended after only {longest:.0f} s')
    total = sum(n for _t, n in inside)
    fastest = max(
        sum(n for t, n in inside if start / 4 <= t < start / 4 + 1)
        for start in range(int(seconds * 4) - 4)
    )
    print(
        f'{limit / MIB:7.2f} MiB/s  {what}  {total / MIB:8.2f} MiB in {seconds:.0f} s  '
        f'deviation {total / (limit * seconds) - 1:+7.2%}  '
        f'fastest second {fastest / limit - 1:+7.2%}',
        flush=True,
    )


def measure(server: servers.Server, limit: int, seconds: float, folder: Path) -> None:
    source = folder / 'source'
    source.mkdir()
    with open(source / 'noise', 'wb') as stream:
        for _ in range(int(limit * (seconds + 5) / MIB) + 1):
            stream.write(random.randbytes(MIB))
    container = f'{server.make_bucket("limits")}/prefix'
    flags = ('--compression', 'none')
    if limit < MIB:
        # Otherwise one part or range would take longer than the measurement.
        flags += ('--max-segment-size', '5M')
    target = folder / 'target'
    actions = {
        'backup ': ('-F', str(source), '--upload-limit', str(limit)),
        'restore': (
            *('--action', 'restore', f'--restore-abs-path={target}'),
            *('--download-limit', str(limit)),
        ),
    }
    for what, arguments in actions.items():
        relay = Relay(server.endpoint)
        keys = {'access_key': server.access_key, 'secret_key': server.secret_key}
        at_relay = types.SimpleNamespace(endpoint=relay.endpoint, **keys)
        run(at_relay, container, *flags, *arguments)
        passed = relay.up if what == 'backup ' else relay.down
        report(what, limit, seconds, passed)
    subprocess.run(['cmp', source / 'noise', target / 'noise'], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--store', choices=STORES, default='seaweedfs')
    parser.add_argument('--limit', type=Size(min=1), nargs='+', default=[5 * MIB])
    parser.add_argument('--seconds', type=float, default=60)
    options = parser.parse_args()
    for limit in options.limit:
        with (
            tempfile.TemporaryDirectory() as folder,
            STORES[options.store]() as server,
        ):
            os.environ['HOME'] = folder
            measure(server, limit, options.seconds, Path(folder))


if __name__ == '__main__':
    main()
