"""Drivers as a command line makes them, before a proxy that records what they ask."""

import contextlib
import os
import random
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import botocore
import pytest

from freezer.common import config
from freezer.storage import layout
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.levels import committed
from freezer.storage.s3 import S3Storage
from freezer.tests import servers
from freezer.tests.agent import PART, Agent, S3Store, in_parts, last_given
from freezer.tests.proxy import BROKEN, Proxy, Request
from freezer.utils.streaming import RichQueue

# Three parts in the first volume, and a second volume that is put as a whole.
PARTS_PER_VOLUME = 3
CONTENT = random.Random(7).randbytes(PARTS_PER_VOLUME * PART + 1000)
CUSTOMER_KEY = random.Random(8).randbytes(32)
MARKER = {'engine_name': 'tar', 'compression': 'none', 'encryption': False}
ZERO = 1_700_000_000

ACCESS_KEY = servers.Server.access_key
LOCK = ('--s3-object-lock-mode', 'COMPLIANCE', '--s3-object-lock-days', '30')
KMS = ('--s3-sse', 'aws:kms', '--s3-sse-kms-key-id', 'alias/backups')
# It knows neither crc64nvme nor AWS_ENDPOINT_URL.
OLD_BOTOCORE = tuple(map(int, botocore.__version__.split('.')[:2])) < (1, 36)

T = TypeVar('T', bound=Callable[..., Any])
SHOWN: set[str] = set()


def shows(*options: str) -> Callable[[T], T]:
    """The test sees the effect of these options."""
    SHOWN.update(options)
    return lambda test: test


class Front:
    """A proxy before a server, and drivers that are told to go there.

    :param told: more of the command line
    """

    def __init__(self, server: servers.Server, proxy: Proxy, *told: str) -> None:
        self.server = server
        self.proxy = proxy
        self.told = told
        self.bucket = f'options-{uuid.uuid4().hex[:12]}'
        self.endpoint = proxy.endpoint
        self.keys: tuple[str, ...] = (
            *('--access-key', server.access_key),
            *('--secret-key', server.secret_key),
        )
        self._opened = contextlib.ExitStack()

    def driver(self, *options: object) -> S3Storage:
        """As the agent makes it; what is given last counts."""
        argv = (
            *('--storage', 's3', '--container', f'{self.bucket}/a/prefix'),
            *('--endpoint', self.endpoint, *self.keys, '--max-segment-size', '5M'),
            *('--s3-max-parts', '4', '--s3-retry-budget', '10'),
            *self.told,
            *map(str, options),
        )
        ((driver, settings),) = config.load(last_given(argv), os.environ).storages
        storage: S3Storage = driver.from_settings(settings)
        self._opened.callback(storage.close)
        return storage

    def agent(self, *options: object, **env: str | None) -> Agent:
        """The agent itself, with a bucket that is there."""
        store = S3Store(self.server, self.endpoint)
        given = (*self.told, '--s3-retry-budget', '3', *options)
        return in_parts(Agent(store, options=given, env=env))

    def close(self) -> None:
        self._opened.close()
        with contextlib.suppress(Exception):
            for key in self.server.keys(self.bucket):
                self.server.delete(self.bucket, key)

    @property
    def requests(self) -> list[Request]:
        return list(self.proxy.requests)

    def life(self, storage: S3Storage) -> list[Request]:
        """All there is to ask for, and what was asked for.

        Two backups, of which one fails, a restore, and a store in a bad hour: the
        answers of the first Create and the first Complete are lost.
        """
        self.proxy.clear()
        lost = {'CreateMultipartUpload', 'CompleteMultipartUpload'}

        def once(request: Request) -> bool:
            found = request.operation in lost
            lost.discard(request.operation)
            return found

        self.proxy.answer(once, BROKEN)
        storage.prepare()
        backup = make_backup(storage)
        assert restored(storage, backup) == CONTENT
        storage.rmtree(backup.paths.folder)
        with pytest.raises(ValueError, match='the source failed'):
            make_backup(storage, ZERO + 1, ValueError('the source failed'))
        assert not lost
        return self.requests


def make_backup(
    storage: S3Storage, timestamp: int = ZERO, failure: Exception | None = None
) -> StoredLevel:
    backup = Backup('tar', 'host_name', timestamp, timestamp, 0)
    pending = storage.begin(backup)
    queue = RichQueue(2)

    def produce() -> None:
        with contextlib.suppress(Exception):
            queue.put(CONTENT[: 2 * PART + 7])
            if failure is None:
                queue.put(CONTENT[2 * PART + 7 :])
            queue.end(failure)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        written = pending.write(queue.get_messages())
    except BaseException:
        pending.discard()
        raise
    finally:
        queue.close()
        producer.join()
    state = Path(os.environ['HOME'], 'state')
    state.write_bytes(b'state of the engine')
    index = Path(os.environ['HOME'], 'index')
    index.write_bytes(b'index of the level')
    written.commit(state, MARKER, index)
    return StoredLevel(storage, backup)


def restored(storage: S3Storage, stored: StoredLevel) -> bytes:
    (found,) = committed(storage)
    assert found.backup == stored.backup
    assert found.engine_metadata() == b'state of the engine'
    assert found.index is not None
    assert found.index.read(0, found.index.size) == b'index of the level'
    return b''.join(found.stream().blocks())


def role(request: Request) -> str:
    """What the key that it is about is for."""
    name = request.key.rpartition('/')[2]
    if not request.key or request.operation.startswith('List'):
        return 'bucket'
    if f'/{layout.SEGMENTS}/' in request.key or name == layout.DATA:
        return 'volume'
    if f'/{layout.DIGESTS}/' in request.key:
        return 'digests'
    return name.partition('.')[0]


What = tuple[str, str]


def what(request: Request) -> What:
    return request.operation, role(request)


def on(operation: str, *roles: str) -> set[What]:
    return {(operation, each) for each in roles}


RECORDS = ('digests', 'manifest', 'engine_metadata', 'index', 'metadata')
PUT_RECORDS = on('PutObject', *RECORDS)
VOLUMES = on('CreateMultipartUpload', 'volume') | on('PutObject', 'volume')
CREATING = VOLUMES | PUT_RECORDS | on('PutObject', 'claim')
BODIES = (CREATING | on('UploadPart', 'volume')) - on('CreateMultipartUpload', 'volume')
READING = on('GetObject', 'volume', 'claim', *RECORDS)
READING |= on('HeadObject', 'volume', 'index')
BUCKETS = on('HeadBucket', 'bucket') | on('CreateBucket', 'bucket')
# botocore has a checksum of its own there, as S3 wants one.
DELETING = on('DeleteObjects', 'bucket')
COMPLETE = on('CompleteMultipartUpload', 'volume')
LIFE = (
    *(CREATING | READING | BUCKETS | COMPLETE | on('UploadPart', 'volume')),
    *on('AbortMultipartUpload', 'volume'),
    *on('DeleteObject', 'claim', 'metadata'),
    *DELETING,
    *on('ListObjectsV2', 'bucket'),
    *on('ListMultipartUploads', 'bucket'),
)
EVERY = set(LIFE)
# Where a store forgets what it was told at Create (moto, Ceph).
MADE_UP = {
    (operation, 'volume')
    for operation in ('PutObjectRetention', 'PutObjectLegalHold', 'PutObjectTagging')
}


def carriers(requests: Sequence[Request], header: str) -> set[What]:
    """What kinds of request have a header: all of a kind, or none of it."""
    having = {what(request) for request in requests if header in request.headers}
    lacking = {what(request) for request in requests if header not in request.headers}
    assert not having & lacking, header
    return having


def values(requests: Sequence[Request], header: str) -> set[str]:
    return {r.headers[header] for r in requests if header in r.headers}


V4 = re.compile(
    r'AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, .*'
)


def signed(requests: Sequence[Request]) -> set[tuple[str, str]]:
    """(access key, region) of every signature, version 4."""
    found = [V4.fullmatch(request.headers['authorization']) for request in requests]
    return {(match[1], match[3]) for match in found if match} | {
        ('not version 4', '') for match in found if not match
    }
