"""A TCP proxy that puts a store far away.

    python -m benchmarks.distance HOST:PORT   # prints its address, ends with its input

40 ms from a request to its answer, and 25 MB/s for each connection and direction: about
what one connection to a store in another town does.
"""

import asyncio
import contextlib
import sys
import threading

ROUND_TRIP = 0.040
BYTES_PER_SECOND = 25_000_000
_BLOCK = 64 * 1024
# Blocks on their way at once: more than a round trip's worth.
_UNDER_WAY = 40
# Seconds below which it is not worth to wait.
_TICK = 0.005


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, as late and as slowly as over the distance."""
    loop = asyncio.get_running_loop()
    on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)

    async def depart() -> None:
        free = loop.time()
        try:
            while block := await reader.read(_BLOCK):
                free = max(free, loop.time()) + len(block) / BYTES_PER_SECOND
                if (early := free - loop.time()) > _TICK:
                    await asyncio.sleep(early)
                await on_its_way.put((free + ROUND_TRIP / 2, block))
        finally:
            await on_its_way.put((0, b''))

    async def arrive() -> None:
        while (item := await on_its_way.get())[1]:
            due, block = item
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            writer.write(block)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    await asyncio.gather(depart(), arrive())


async def serve(host: str, port: int) -> None:
    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # To connect takes a round trip as well.
        await asyncio.sleep(ROUND_TRIP)
        there_reader, there_writer = await asyncio.open_connection(host, port)
        try:
            await asyncio.gather(
                carry(reader, there_writer), carry(there_reader, writer)
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, there_writer):
                with contextlib.suppress(Exception):
                    one.close()

    server = await asyncio.start_server(connected, '127.0.0.1', 0, limit=_BLOCK)
    print(f'127.0.0.1:{server.sockets[0].getsockname()[1]}', flush=True)
    ended = asyncio.get_running_loop().create_future()

    def wait() -> None:
        sys.stdin.read()
        server.get_loop().call_soon_threadsafe(ended.set_result, None)

    threading.Thread(target=wait, daemon=True).start()
    await ended


def main() -> None:
    host, _, port = sys.argv[1].rpartition(':')
    asyncio.run(serve(host, int(port)))


if __name__ == '__main__':
    main()
