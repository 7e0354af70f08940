"""Minimum cost of moving a GiB on this machine: the profile of P1 and P2.

    python benchmarks/floor.py [--mib 1024]

CPU seconds of this process for each operation of a client on every byte, separately and
without a client: read it from a pipe, copy it, digest it, send it, receive it, write it
to a pipe. P8 of the benchmark measures the cost of a start.
"""

import argparse
import fcntl
import hashlib
import os
import resource
import socket
import threading
from collections.abc import Callable

MIB = 2**20
BLOCK = 256 * 1024
PART = 8 * MIB


def thread_seconds() -> float:
    """CPU seconds (user and system) of this thread alone."""
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_utime + used.ru_stime


def pipe() -> tuple[int, int]:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, MIB)
    return ends


def fill(fd: int, size: int) -> None:
    block = memoryview(bytes(MIB))
    while size > 0:
        size -= os.write(fd, block[: min(size, MIB)])
    os.close(fd)


def drain(fd: int) -> None:
    while os.read(fd, MIB):
        pass
    os.close(fd)


def read_a_pipe(size: int) -> None:
    there, here = pipe()
    threading.Thread(target=fill, args=(here, size)).start()
    buffer = memoryview(bytearray(BLOCK))
    with open(there, 'rb', buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def write_a_pipe(size: int) -> None:
    there, here = pipe()
    thread = threading.Thread(target=drain, args=(there,))
    thread.start()
    block = bytes(BLOCK)
    for _ in range(size // BLOCK):
        os.write(here, block)
    os.close(here)
    thread.join()


def _parts(size: int, act: Callable[[memoryview], object]) -> None:
    part = memoryview(bytearray(PART))
    for _ in range(size // PART):
        act(part)


def digest(size: int) -> None:
    _parts(size, lambda part: hashlib.sha256(part).digest())


def copy(size: int) -> None:
    target, block = bytearray(PART), memoryview(bytes(BLOCK))
    for start in range(0, size, BLOCK):
        at = start % PART
        target[at : at + BLOCK] = block


def send(size: int) -> None:
    here, there = _connected()
    thread = threading.Thread(target=_receive_all, args=(there,))
    thread.start()
    _parts(size, here.sendall)
    here.close()
    thread.join()


def receive(size: int) -> None:
    here, there = _connected()

    def give() -> None:
        _parts(size, there.sendall)
        there.close()

    threading.Thread(target=give).start()
    _receive_all(here)


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(('127.0.0.1', 0)) as server:
        here = socket.create_connection(server.getsockname())
        return here, server.accept()[0]


def _receive_all(there: socket.socket) -> None:
    buffer = memoryview(bytearray(BLOCK))
    while there.recv_into(buffer):
        pass
    there.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mib', type=int, default=1024)
    size = parser.parse_args().mib * MIB
    gib = size / 2**30
    for act in (
        read_a_pipe,
        copy,
        digest,
        send,
        receive,
        write_a_pipe,
    ):
        act(PART)
        begun = thread_seconds()
        act(size)
        seconds = (thread_seconds() - begun) / gib
        print(f'{act.__name__.replace("_", " "):14} {seconds:5.2f} s/GiB', flush=True)


if __name__ == '__main__':
    main()
