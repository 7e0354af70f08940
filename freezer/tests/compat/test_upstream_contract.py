"""What Freezer 19 asks of its S3 driver, beyond what this agent does.

Its engines nova and glance, and its mode cinder, call these with the names and keywords
that are used here.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from freezer.storage import exceptions as e
from freezer.storage import manifest
from freezer.storage._s3.options import MIN_PART_SIZE, S3Options
from freezer.storage.backup import Backup
from freezer.storage.s3 import S3Storage
from freezer.tests import servers
from freezer.tests.agent import ROOT
from freezer.tests.proxy import Proxy

PART = MIN_PART_SIZE
NOISE = os.urandom(2 * PART + 1000)
VOLUME = 'b7e1'
PACKAGE = f'{VOLUME}/1700000000'
IMAGE = f'{PACKAGE}/{VOLUME}'


class Freezer19:
    """The driver as Freezer 19 builds it, and what is on the store."""

    def __init__(self, server: servers.Server, prefix: str) -> None:
        self.server = server
        self.bucket = f'contract-{uuid.uuid4().hex[:12]}'
        self.prefix = prefix
        self.storage = self.build()

    def build(self, **options: Any) -> S3Storage:
        return S3Storage(
            self.server.access_key,
            self.server.secret_key,
            self.server.endpoint,
            f'{self.bucket}/{self.prefix}' if self.prefix else self.bucket,
            PART,
            options=S3Options(retry_budget=5.0, **options),
        )

    def key(self, path: str) -> str:
        return f'{self.prefix}/{path}' if self.prefix else path

    def keys(self) -> set[str]:
        return set(self.server.keys(self.bucket))


@pytest.fixture(
    params=[('moto', 'a prefix/ü'), ('seaweedfs', 'a prefix/ü'), ('seaweedfs', '')],
    ids=['moto', 'seaweedfs', 'seaweedfs-no-prefix'],
)
def freezer19(request: pytest.FixtureRequest) -> Iterator[Freezer19]:
    server, prefix = request.param
    made = Freezer19(request.getfixturevalue(server), prefix)
    yield made
    made.storage.close()


def test_it_is_built_and_makes_its_bucket(freezer19: Freezer19) -> None:
    storage, bucket = freezer19.storage, freezer19.bucket
    assert freezer19.keys() == set()
    assert (storage._type, storage.max_segment_size) == ('s3', PART)
    assert storage.storage_path == storage.container
    assert storage.get_storage_info() == (bucket, freezer19.prefix)
    assert storage.get_bucket_name() == bucket
    assert storage.get_object_prefix() == freezer19.prefix


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('OS_S3__CONCURRENCY', '7')
    configuration = cfg.ConfigOpts()
    monkeypatch.setattr(cfg, 'CONF', configuration)
    configuration([], default_config_files=[], default_config_dirs=[])
    storage = S3Storage('key', 'secret', 'http://localhost', 'bucket', PART, True)
    assert storage.options == S3Options(concurrency=7)


@pytest.mark.parametrize('data', ['["grün"]', b'\x00\xff', ''], ids=repr)
def test_put_and_get(freezer19: Freezer19, data: str | bytes) -> None:
    key = freezer19.key('project_17')
    freezer19.storage.put_object(bucket_name=freezer19.bucket, key=key, data=data)
    content = data.encode() if isinstance(data, str) else data
    assert freezer19.server.get(freezer19.bucket, key) == content
    found = freezer19.storage.get_object(bucket_name=freezer19.bucket, key=key)
    assert found['ContentLength'] == len(content)
    assert found['Body'].read() == content


def test_large_objects_are_read_piece_by_piece(
    freezer19: Freezer19, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, 'MAX_PIECE', 1024 * 1024)
    freezer19.server.put(freezer19.bucket, 'image', NOISE)
    found = freezer19.storage.get_object(freezer19.bucket, 'image')
    assert found['ContentLength'] == len(NOISE)
    blocks = list(iter(lambda: found['Body'].read(700_000), b''))
    assert b''.join(blocks) == NOISE
    assert {len(block) for block in blocks[:-1]} == {700_000}
    again = freezer19.storage.get_object(freezer19.bucket, 'image')['Body']
    assert again.read(3) == NOISE[:3]
    again.close()


def test_an_object_that_is_replaced_is_not_mixed_with_another(
    freezer19: Freezer19,
) -> None:
    freezer19.server.put(freezer19.bucket, 'image', b'before')
    found = freezer19.storage.get_object(freezer19.bucket, 'image')
    freezer19.server.put(freezer19.bucket, 'image', b'after!')
    with pytest.raises(e.Conflict, match='image'):
        found['Body'].read()


def test_an_object_that_is_not_there(freezer19: Freezer19) -> None:
    with pytest.raises(e.NotFound, match='nothing'):
        freezer19.storage.get_object(bucket_name=freezer19.bucket, key='nothing')


def test_another_bucket_is_refused(freezer19: Freezer19) -> None:
    storage = freezer19.storage
    with pytest.raises(e.StorageException, match=r'other.*is in bucket'):
        storage.get_object(bucket_name='other', key='key')
    with pytest.raises(e.StorageException, match=r'other.*is in bucket'):
        storage.put_object(bucket_name='other', key='key', data='')
    with pytest.raises(e.StorageException, match=r'other.*is in bucket'):
        storage.list_all_objects(bucket_name='other', prefix='')
    assert freezer19.keys() == set()


def test_list_all_objects(freezer19: Freezer19) -> None:
    for key in ('a/1', 'a/2/x', 'ab', 'b'):
        freezer19.server.put(freezer19.bucket, key, b'abc')

    def listed(prefix: str) -> list[dict[str, Any]]:
        return freezer19.storage.list_all_objects(
            bucket_name=freezer19.bucket, prefix=prefix
        )

    assert listed('a/') == [{'Key': 'a/1', 'Size': 3}, {'Key': 'a/2/x', 'Size': 3}]
    assert [item['Key'] for item in listed('a')] == ['a/1', 'a/2/x', 'ab']
    assert listed('c') == []


def test_info(freezer19: Freezer19) -> None:
    freezer19.server.put(freezer19.bucket, freezer19.key('x/y'), b'abc')
    freezer19.server.put(freezer19.bucket, freezer19.key('z'), b'ab')
    assert freezer19.storage.info() == [
        {
            'container_name': freezer19.storage.container,
            'size': 5,
            'objects_count': 2,
        }
    ]


@pytest.mark.parametrize('size', [0, 1, PART, PART + 1, len(NOISE)])
def test_a_stream_is_one_object_with_its_headers_beside_it(
    freezer19: Freezer19, size: int
) -> None:
    headers = {'x-object-meta-length': str(size), 'volume_name': 'grün'}
    chunks = (NOISE[i : min(i + 99_999, size)] for i in range(0, size, 99_999))
    freezer19.storage.add_stream(chunks, PACKAGE, headers=headers)
    image, metadata = freezer19.key(IMAGE), freezer19.key(f'{PACKAGE}/metadata')
    assert freezer19.keys() == {image, metadata}
    assert freezer19.server.get(freezer19.bucket, image) == NOISE[:size]
    assert json.loads(freezer19.server.get(freezer19.bucket, metadata)) == headers
    # As its admin removes it.
    root = f'{freezer19.storage.storage_path}/{VOLUME}'
    assert freezer19.storage.listdir(root) == ['1700000000']
    freezer19.storage.rmtree(f'{root}/1700000000')
    assert freezer19.keys() == set()


def test_a_stream_of_text_without_headers(freezer19: Freezer19) -> None:
    freezer19.storage.add_stream(iter(['gr', 'ün']), PACKAGE)
    image, metadata = freezer19.key(IMAGE), freezer19.key(f'{PACKAGE}/metadata')
    assert freezer19.server.get(freezer19.bucket, image) == 'grün'.encode()
    assert freezer19.server.get(freezer19.bucket, metadata) == b'null'


def test_a_stream_that_is_too_long_for_one_object(freezer19: Freezer19) -> None:
    storage = freezer19.build(max_parts=3)  # of which two are used
    storage.add_stream([NOISE[: 2 * PART]], PACKAGE)
    freezer19.server.delete(freezer19.bucket, freezer19.key(f'{PACKAGE}/metadata'))
    freezer19.server.delete(freezer19.bucket, freezer19.key(IMAGE))
    with pytest.raises(e.StorageException, match='max-segment-size'):
        storage.add_stream([NOISE[: 2 * PART + 1]], PACKAGE)
    assert freezer19.keys() == set()
    assert freezer19.server.uploads(freezer19.bucket) == []


def test_a_stream_that_fails_leaves_nothing(freezer19: Freezer19) -> None:
    def chunks() -> Iterator[bytes]:
        yield NOISE
        raise OSError('the image broke off')

    with pytest.raises(OSError, match='broke off'):
        freezer19.storage.add_stream(chunks(), PACKAGE)
    assert freezer19.keys() == set()
    assert freezer19.server.uploads(freezer19.bucket) == []


def test_an_image_without_headers_goes_with_the_next_run(freezer19: Freezer19) -> None:
    with pytest.raises(TypeError):
        freezer19.storage.add_stream([NOISE], PACKAGE, headers={'no': {'json'}})
    assert freezer19.keys() == {freezer19.key(IMAGE)}
    freezer19.build().close()
    assert freezer19.keys() == set()


class Messages:
    """What the driver needs of a queue of Freezer 19's, which may carry text."""

    def get_messages(self) -> Iterator[Any]:
        yield 'gr'
        yield 'ün'.encode()


def test_a_backup_that_nobody_claimed(freezer19: Freezer19, tmp_path: Path) -> None:
    backup = Backup('tar', 'h_b', 1700000000, 1700000000, 0)
    storage, other = freezer19.storage, freezer19.build()
    storage.write_backup(rich_queue=Messages(), backup=backup)  # type: ignore[arg-type]
    with pytest.raises(e.Conflict):
        other.write_backup(rich_queue=Messages(), backup=backup)  # type: ignore[arg-type]
    (tmp_path / 'state').write_text('state')
    (tmp_path / 'marker').write_text('{"engine_name": "tar"}')
    storage.put_metadata(str(tmp_path / 'state'), str(tmp_path / 'marker'), backup)
    folder, root = (
        freezer19.key(f'{kind}/tar/h_b/1700000000/0_1700000000')
        for kind in ('data', 'metadata')
    )
    assert freezer19.keys() == {
        f'{folder}/data',
        f'{folder}/digests/00000000',
        f'{folder}/engine_metadata',
        f'{folder}/manifest',
        f'{root}/metadata',
    }
    assert b''.join(other.backup_blocks(backup)) == 'grün'.encode()


FORK = """
import os, sys
from freezer.storage.backup import Backup
from freezer.storage.s3 import S3Storage

storage = S3Storage(*sys.argv[1:], 1)
storage.put_object(sys.argv[4], 'key', 'content')
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert storage.get_object(sys.argv[4], 'key')['Body'].read() == b'content'
"""


def test_a_child_has_connections_of_its_own(seaweedfs: servers.SeaweedFS) -> None:
    """Freezer 19 forks two children for a restore; both have the driver it built."""
    with Proxy(seaweedfs.endpoint) as proxy:
        done = subprocess.run(
            [
                *(sys.executable, '-c', FORK),
                *(seaweedfs.access_key, seaweedfs.secret_key),
                *(proxy.endpoint, seaweedfs.make_bucket()),
            ],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            capture_output=True,
            check=False,
        )
    assert (done.returncode, done.stderr.decode()) == (0, '')
    *parent, head, get = proxy.requests
    assert [request.method for request in (parent[-1], head, get)] == [
        'PUT',
        'HEAD',
        'GET',
    ]
    connections = {request.connection for request in parent}
    assert connections.isdisjoint({head.connection, get.connection})
