"""Streams longer than any test can move: the driver on a client that only counts."""

import collections
import hashlib
import os
import resource
import types
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest

from freezer.storage import claims, manifest
from freezer.storage._s3.options import MAX_OBJECT_SIZE, S3Options
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.requests import Requests
from freezer.storage.backup import Backup
from freezer.storage.claims import Claim
from freezer.storage.object_backups import volumes
from freezer.storage.retry import Retry
from freezer.storage.s3 import S3Storage
from freezer.utils.blocks import Buffers
from freezer.utils.streaming import RichQueue

GIB = 2**30
TIB = 2**40
ENDPOINT = 'https://s3.example.com'
# How much more memory the last volumes may take than the first two.
FLAT = 32 * 2**20


class Nothing:
    """So many bytes that are not there."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class CountingClient:
    """Keeps the parts of the upload that is open, and sums of those that were."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.objects: dict[str, tuple[int, int]] = {}
        self.part_sizes: set[int] = set()
        self.last_parts: list[int] = []
        self.memory: list[int] = []
        members = types.SimpleNamespace(members={})
        model = types.SimpleNamespace(
            operation_model=lambda _name: types.SimpleNamespace(input_shape=members)
        )
        self.meta = types.SimpleNamespace(
            service_model=model, method_to_api_mapping=collections.defaultdict(str)
        )

    def create_multipart_upload(self, **_arguments: Any) -> Any:
        assert not self.open
        return {'UploadId': 'x'}

    def upload_part(self, *, PartNumber: int, Body: Any, **_rest: Any) -> Any:  # noqa: N803
        assert PartNumber not in self.open
        self.open[PartNumber] = len(Body)
        return {'ETag': '"part"'}

    def complete_multipart_upload(
        self,
        *,
        Key: str,  # noqa: N803
        MultipartUpload: Any,  # noqa: N803
        **_rest: Any,
    ) -> Any:
        numbers = [part['PartNumber'] for part in MultipartUpload['Parts']]
        assert numbers == sorted(self.open) == list(range(1, len(numbers) + 1))
        sizes = [self.open[number] for number in numbers]
        self.part_sizes.update(sizes[:-1])
        self.last_parts.append(sizes[-1])
        self.objects[Key] = (len(sizes), sum(sizes))
        self.open = {}
        with open('/proc/self/statm') as stream:
            pages = int(stream.read().split()[1])
        self.memory.append(pages * resource.getpagesize())
        return {'ETag': '"object"'}

    def head_object(self, *, Key: str, **_rest: Any) -> Any:  # noqa: N803
        _count, size = self.objects[Key]
        return {'ContentLength': size, 'ETag': '"object"'}

    def put_object(self, *, Key: str, Body: Any, **_rest: Any) -> Any:  # noqa: N803
        self.objects[Key] = (1, len(Body))
        return {'ETag': '"put"'}


@pytest.fixture
def no_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are their sizes, and what a digest is of is only counted."""
    digest = hashlib.sha256().digest()

    def parts(
        messages: Iterable[Nothing], size: int, buffers: Buffers
    ) -> Iterator[Nothing]:
        for message in messages:
            for start in range(0, len(message), size):
                buffers.take()
                yield Nothing(min(size, len(message) - start))

    def digests(part: Nothing, _algorithm: str) -> list[bytes]:
        pieces = -(-len(part) // manifest.MAX_PIECE)
        # New objects, as in earnest.
        return [bytes(bytearray(digest)) for _ in range(pieces)]

    monkeypatch.setattr(volumes, 'cut', parts)
    monkeypatch.setattr(manifest, 'digest_part', digests)


def write(
    client: CountingClient,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    part: int,
    **options: Any,
) -> Any:
    claim = Claim('claim', b'', (), exclusive=True)
    monkeypatch.setattr(claims, 'take', lambda *_arguments: claim)
    storage = S3Storage(
        *('access', 'secret', ENDPOINT, 'bucket/prefix', part),
        skip_prepare=True,
        options=S3Options(**options),
    )
    storage._opened = Bucket(Requests('bucket', ENDPOINT, client, Retry(0)))
    storage._opened_by = os.getpid()
    pending = storage.begin(Backup('tar', 'h', 1, 1, 0))
    queue = RichQueue(2)
    queue.put_messages(cast(Any, [Nothing(size)]))
    written: Any = pending.write(queue.get_messages())
    return written._written['']


@pytest.mark.usefixtures('no_bytes')
@pytest.mark.parametrize(
    'size, part, parts',
    [
        pytest.param(100 * TIB, 512 * 2**20, 9000, id='100 TiB by parts'),
        pytest.param(20 * TIB, 5 * GIB, 1003, id='20 TiB by bytes'),
    ],
)
def test_a_stream_of_any_size(
    size: int, part: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = CountingClient()
    size += 12345
    found = write(client, monkeypatch, size, part)
    assert found.size == size
    assert client.part_sizes == {part}
    assert all(last <= part for last in client.last_parts)
    folder = 'prefix/data/tar/h/1/0_1'
    volumes = [client.objects[f'{folder}/{v.name}'] for v in found.volumes]
    assert {count for count, _size in volumes[:-1]} == {parts}
    assert max(count for count, _size in volumes) <= 10000
    assert max(size for _count, size in volumes) <= MAX_OBJECT_SIZE
    assert sum(size for _count, size in volumes) == size
    # One digest for at most 32 MiB, each a line of 65 bytes.
    for volume in found.volumes:
        _count, lines = client.objects[f'{folder}/{volume.digests}']
        assert lines == 65 * manifest.piece_count(volume.size, volume.part_size)
    # What is held does not depend on how many volumes there are.
    assert max(client.memory) - max(client.memory[:2]) < FLAT


@pytest.mark.usefixtures('no_bytes')
@pytest.mark.parametrize(
    'options, counts',
    [
        ({'max_parts': 1000}, [900, 900, 200]),
        ({'max_parts': 2}, [1] * 10),
        ({'max_object_size': 5 * 2**20 * 700}, [700, 700, 600]),
        ({'max_object_size': 5 * 2**20 * 700 - 1}, [699, 699, 602]),
        ({'max_parts': 100, 'max_object_size': 5 * 2**20 * 91}, [90, 90, 20]),
    ],
)
def test_an_object_ends_in_time(
    options: dict[str, int], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = CountingClient()
    part = 5 * 2**20
    found = write(client, monkeypatch, sum(counts) * part, part, **options)
    made = [client.objects[f'prefix/data/tar/h/1/0_1/{v.name}'] for v in found.volumes]
    assert [count for count, _size in made] == counts
