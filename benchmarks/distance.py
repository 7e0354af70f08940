"""A TCP proxy that simulates a distant store.

    python -m benchmarks.distance HOST:PORT   # prints its address, runs until EOF

40 ms from a request to its answer, and 25 MB/s for each connection and direction: about
the values of one connection to a store in another town.
"""

import contextlib
import queue
import socket
import sys
import threading
import time

ROUND_TRIP = 0.040
BYTES_PER_SECOND = 25_000_000
_BLOCK = 64 * 1024
# Blocks in flight: more than fit in a round trip.
_UNDER_WAY = 40
# Shorter waits, in seconds, are skipped.
_TICK = 0.005
# Seconds for receiving available data, including a late wake-up.
_AT_ONCE, _LATE = 0.001, 0.020


def carry(source: socket.socket, target: socket.socket) -> None:
    """Forward data with the delay and the rate of the distance."""
    on_its_way: queue.Queue[tuple[float, bytes]] = queue.Queue(_UNDER_WAY)

    def depart() -> None:
        free = asked = 0.0
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                now = time.monotonic()
                # Data that was already available keeps the line busy, even if this
                # thread woke late.
                late = _LATE if now - asked < _AT_ONCE else 0
                free = max(free, now - late) + len(block) / BYTES_PER_SECOND
                on_its_way.put((free + ROUND_TRIP / 2, block))
                if (early := free - now) > _TICK:
                    time.sleep(early)
                asked = time.monotonic()
        on_its_way.put((0, b''))

    departing = threading.Thread(target=depart, daemon=True)
    departing.start()
    gone = False
    while (item := on_its_way.get())[1]:
        due, block = item
        if (early := due - time.monotonic()) > 0:
            time.sleep(early)
        if not gone:
            try:
                target.sendall(block)
            except OSError:
                # The receiver is gone; closing the source notifies the sender.
                gone = True
                with contextlib.suppress(OSError):
                    source.shutdown(socket.SHUT_RD)
    departing.join()
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def connected(here: socket.socket, address: tuple[str, int]) -> None:
    # Connecting takes a round trip as well.
    time.sleep(ROUND_TRIP)
    with here, socket.create_connection(address) as there:
        for one in (here, there):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        back = threading.Thread(target=carry, args=(there, here), daemon=True)
        back.start()
        carry(here, there)
        back.join()


def serve(address: tuple[str, int]) -> None:
    listening = socket.create_server(('127.0.0.1', 0), backlog=128)
    print(f'127.0.0.1:{listening.getsockname()[1]}', flush=True)
    while True:
        here, _ = listening.accept()
        threading.Thread(target=connected, args=(here, address), daemon=True).start()


def main() -> None:
    host, _, port = sys.argv[1].rpartition(':')
    address = (host, int(port))
    threading.Thread(target=serve, args=(address,), daemon=True).start()
    sys.stdin.read()


if __name__ == '__main__':
    main()
