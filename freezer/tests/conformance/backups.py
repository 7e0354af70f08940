"""Backups to test drivers with, made as an engine makes them."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator

from freezer.storage.backup import Backup, PendingBackup, StoredLevel, WrittenBackup
from freezer.storage.repository import Repository
from freezer.storage.retention import Policy
from freezer.tests.conformance.places import PART, PARTS_PER_VOLUME, Place
from freezer.utils.blocks import Block, PartStart
from freezer.utils.streaming import ConsumerGone, RichQueue

TAR = 'tar'
HOST = 'host_name'
ZERO = 1_700_000_000
DAY = 86400
MARKER = {'engine_name': 'tar', 'compression': 'gzip', 'encryption': False}
STATE = b'what the engine left\0\xff'
RANDOM = random.Random(20)
NOISE = RANDOM.randbytes(PARTS_PER_VOLUME * 2 * PART + PART + 1)

# Makes a whole backup, of this content, and with this index if there is to be one.
Store = Callable[..., PendingBackup]
# Commits, with this index.
Commit = Callable[..., None]


def backup(
    identity: str = HOST, zero: int = ZERO, timestamp: int | None = None, level: int = 0
) -> Backup:
    return Backup(TAR, identity, zero, timestamp or zero + level, level)


def chunks(content: bytes, longest: int = 2 * 1024 * 1024) -> Iterator[bytes]:
    """The content in pieces of random sizes."""
    position = 0
    while position < len(content):
        size = RANDOM.randint(1, longest)
        yield content[position : position + size]
        position += size


def write(
    pending: PendingBackup, messages: Iterable[Block | PartStart]
) -> WrittenBackup:
    """As the engine does: the stream is made in a thread of its own."""
    queue = RichQueue(2)

    def produce() -> None:
        with contextlib.suppress(ConsumerGone):
            queue.put_messages(messages)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    try:
        return pending.write(queue.get_messages())
    finally:
        queue.close()
        producer.join(60)
        assert not producer.is_alive()


def folder(backup: Backup) -> str:
    """Where a level's data is, below the container."""
    return (
        f'data/tar/{backup.hostname_backup_name}/{backup.level_zero_timestamp}/'
        f'{backup.level}_{backup.timestamp}'
    )


def marker(backup: Backup) -> str:
    return folder(backup).replace('data/', 'metadata/', 1) + '/metadata'


def flip(place: Place, path: str, position: int) -> None:
    """Change one byte, everywhere."""
    for member in place.members:
        content = bytearray(member.read(path))
        content[position] ^= 0x55
        member.write(path, bytes(content))


def remove_older_than(
    repository: Repository,
    engine: str,
    identity: str,
    cutoff: int,
    keep: int | None = None,
    dry_run: bool = False,
) -> list[list[StoredLevel]]:
    """Remove old chains, and return them."""
    policy = Policy(0, cutoff=cutoff, whole=keep)
    plans = repository.plan_retention(engine, identity, policy)
    if not dry_run:
        repository.carry_out(plans)
    return [chain for plan in plans for chain in plan.removed.values()]
