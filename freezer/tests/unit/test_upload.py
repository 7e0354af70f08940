"""Stream -> parts -> volumes, on a bucket in memory that counts."""

import itertools
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freezer.storage import manifest
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.exceptions import ServerError, Unreachable, UploadNotFound
from freezer.storage.object_backups.threads import begin
from freezer.storage.object_backups.upload import StreamUpload
from freezer.storage.object_backups.volumes import UploadPlan, VolumeWriter
from freezer.storage.objects import ObjectKind, Sent, UncertainComplete, Upload
from freezer.utils.progress import Progress

FOLDER = 'prefix/data/tar/h/1/0_1'
TOKEN = 'token'


class MemoryBucket:
    """The verbs an upload needs. ``before`` is called with verb and part number.

    :ivar objects: key -> sizes of its parts, and its bytes
    """

    def __init__(self, before: Callable[[str, int], None] = lambda *_: None) -> None:
        self.before = before
        self.objects: dict[str, bytes] = {}
        self.part_sizes: dict[str, list[int]] = {}
        self.open: dict[str, dict[int, bytes]] = {}
        self.aborted: list[str] = []
        self.told: list[str] = []
        self.progress = Progress()
        self.running = 0
        self.most_running = 0
        self._ids = itertools.count()
        self._lock = threading.Lock()

    def url(self, key: str) -> str:
        return f's3://bucket/{key}'

    def put(self, key: str, body: bytes, *_rest: object) -> str:
        self.before('put', 0)
        self.objects[key] = bytes(body)
        return '"put"'

    def create_upload(self, key: str, token: str, kind: ObjectKind) -> Upload:
        self.before('create', 0)
        assert (token, kind) == (TOKEN, ObjectKind.VOLUME)
        upload = Upload(key, f'id-{next(self._ids)}')
        self.open[upload.upload_id] = {}
        return upload

    def apply_lock_and_tags(self, key: str) -> None:
        """No answer was lost."""

    def upload_part(
        self, upload: Upload, number: int, body: bytes, cancelled: threading.Event
    ) -> Sent:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            assert upload.upload_id in self.open
            assert upload.upload_id in self.told
            self.before('part', number)
            self.open[upload.upload_id][number] = bytes(body)
            return Sent(f'"{upload.upload_id}-{number}"', {})
        finally:
            with self._lock:
                self.running -= 1

    def complete(self, upload: Upload, sent: list[Sent], size: int, token: str) -> str:
        self.before('complete', len(sent))
        parts = self.open.pop(upload.upload_id)
        etags = [f'"{upload.upload_id}-{n}"' for n in range(1, len(parts) + 1)]
        assert [part.etag for part in sent] == etags
        self.objects[upload.key] = b''.join(parts[n] for n in sorted(parts))
        self.part_sizes[upload.key] = [len(parts[n]) for n in sorted(parts)]
        assert size == len(self.objects[upload.key])
        return f'"{upload.key}"'

    def was_opened(self, upload: Upload) -> None:
        assert self.open[upload.upload_id] == {}
        self.told.append(upload.upload_id)

    def cleaning_up(self) -> 'MemoryBucket':
        return self

    def abort(self, upload: Upload) -> None:
        assert self.running == 0
        self.aborted.append(upload.upload_id)
        self.before('abort', 0)
        del self.open[upload.upload_id]


def upload(bucket: MemoryBucket, plan: UploadPlan, chunks: Any) -> manifest.Manifest:
    return StreamUpload(volume_writer(bucket, plan), FOLDER).write(chunks)


def volume_writer(bucket: MemoryBucket, plan: UploadPlan) -> VolumeWriter:
    return VolumeWriter(cast(Bucket, bucket), plan, TOKEN, bucket.was_opened)


def failing(verb: str, number: int, error: Exception) -> Callable[[str, int], None]:
    def before(called: str, part: int) -> None:
        if (called, part) == (verb, number):
            raise error

    return before


def content_of(bucket: MemoryBucket, found: manifest.Manifest) -> bytes:
    return b''.join(bucket.objects[f'{FOLDER}/{v.name}'] for v in found.volumes)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_any_stream(
    chunks: list[bytes], part_size: int, parts: int, concurrency: int
) -> None:
    bucket = MemoryBucket()
    found = upload(bucket, UploadPlan(part_size, parts, concurrency), chunks)
    content = b''.join(chunks)
    assert content_of(bucket, found) == content
    assert found.size == len(content)
    full = part_size * parts
    assert len(found.volumes) == max(1, -(-len(content) // full))
    assert all(volume.size == full for volume in found.volumes[:-1])
    for sizes in bucket.part_sizes.values():
        assert set(sizes[:-1]) <= {part_size}
        assert 0 < sizes[-1] <= part_size
        assert len(sizes) <= parts
    assert bucket.most_running <= concurrency
    assert bucket.open == {}
    assert bucket.aborted == []
    for volume in found.volumes:
        data = bucket.objects[f'{FOLDER}/{volume.name}']
        pieces = list(volume.pieces(bucket.objects[f'{FOLDER}/{volume.digests}']))
        assert all(manifest.check_piece(data[p.start : p.end], p) for p in pieces)
    stored = manifest.load(bucket.objects[f'{FOLDER}/manifest'], 'm')
    assert stored == found
    assert stored.token == TOKEN


def test_one_part_is_a_plain_put() -> None:
    bucket = MemoryBucket()
    upload(bucket, UploadPlan(100, 10, 2), [bytes(100)])
    assert bucket.part_sizes == {}
    assert bucket.objects[f'{FOLDER}/data'] == bytes(100)


def test_parts_go_side_by_side_and_no_more_than_asked() -> None:
    together = threading.Barrier(4)

    def before(verb: str, number: int) -> None:
        if verb == 'part' and number <= 4:
            together.wait(10)

    bucket = MemoryBucket(before)
    upload(bucket, UploadPlan(10, 100, 4), [bytes(400)])
    assert bucket.most_running == 4


def test_a_large_stream() -> None:
    """As many volumes as 28 TB have, of tiny parts."""
    bucket = MemoryBucket()
    volumes, parts, size = 100, 9, 3
    total = volumes * parts * size + 1
    chunks = (bytes(1000) for _ in range(total // 1000))
    stream = itertools.chain(chunks, [bytes(total % 1000)])
    found = upload(bucket, UploadPlan(size, parts, 4), stream)
    assert found.size == total
    assert len(found.volumes) == volumes + 1
    assert found.volumes[-1].size == 1
    names = [volume.name for volume in found.volumes[1:3]]
    assert names == ['segments/00000001', 'segments/00000002']
    assert all(sizes == [size] * parts for sizes in bucket.part_sizes.values())
    assert len(bucket.part_sizes) == volumes


def test_a_volume_of_many_parts() -> None:
    bucket = MemoryBucket()
    found = upload(bucket, UploadPlan(2, 9000, 4), [bytes(2 * 9001)])
    assert [volume.size for volume in found.volumes] == [18000, 2]
    assert len(bucket.part_sizes[f'{FOLDER}/data']) == 9000


def test_memory_is_bounded() -> None:
    """One part more than are under way, whatever the length of the stream."""
    part = 1024 * 1024

    def slow(verb: str, _number: int) -> None:
        if verb == 'part':
            time.sleep(0.003)

    class Forgetful(MemoryBucket):
        def upload_part(self, upload: Upload, number: int, *rest: Any) -> Sent:
            super().upload_part(upload, number, b'', rest[1])
            return Sent(f'"{upload.upload_id}-{number}"', {})

        def complete(self, upload: Upload, *_rest: Any) -> str:
            self.open.pop(upload.upload_id)
            return '"x"'

    def chunks() -> Iterator[bytes]:
        for _ in range(60 * 16):
            yield bytes(part // 16)

    tracemalloc.start()
    try:
        upload(Forgetful(slow), UploadPlan(part, 25, 4), chunks())
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A growing bytearray has an eighth in reserve.
    assert peak < 5 * part * 1.125 + part * 0.6


@pytest.mark.parametrize('number', [1, 2, 5, 10])
def test_a_part_that_fails_aborts_once(number: int) -> None:
    error = ServerError('no')

    def before(verb: str, part: int) -> None:
        if (verb, part) == ('part', number):
            raise error
        time.sleep(0.002)

    bucket = MemoryBucket(before)
    writer = volume_writer(bucket, UploadPlan(10, 100, 3))
    with pytest.raises(ServerError) as caught:
        StreamUpload(writer, FOLDER).write([bytes(100)])
    assert caught.value is error
    assert not writer.left_behind
    assert bucket.aborted == ['id-0']
    assert bucket.open == {}
    assert bucket.objects == {}
    assert bucket.running == 0


def test_a_part_that_fails_stops_the_others() -> None:
    """Who waits to try again is told that there is no more use in it."""
    seen: list[bool] = []

    class Waiting(MemoryBucket):
        def upload_part(
            self, upload: Upload, number: int, body: bytes, cancelled: threading.Event
        ) -> Sent:
            if number == 2:
                raise ServerError('no')
            seen.append(cancelled.wait(10))
            raise Unreachable('gave up')

    bucket = Waiting()
    with pytest.raises(ServerError):
        upload(bucket, UploadPlan(10, 100, 2), [bytes(100)])
    assert seen == [True]
    assert bucket.aborted == ['id-0']


def test_a_source_that_fails_aborts() -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(55)
        raise OSError('tar died')

    bucket = MemoryBucket()
    with pytest.raises(OSError, match='tar died'):
        upload(bucket, UploadPlan(10, 100, 3), chunks())
    assert bucket.aborted == ['id-0']
    assert bucket.objects == {}


def test_a_complete_that_fails_aborts() -> None:
    error = UploadNotFound('gone')
    bucket = MemoryBucket(failing('complete', 10, error))
    with pytest.raises(UploadNotFound):
        upload(bucket, UploadPlan(10, 100, 3), [bytes(100)])
    assert bucket.aborted == ['id-0']


def test_an_uncertain_complete_is_not_aborted() -> None:
    bucket = MemoryBucket(failing('complete', 10, UncertainComplete('who knows')))
    writer = volume_writer(bucket, UploadPlan(10, 100, 3))
    with pytest.raises(UncertainComplete):
        StreamUpload(writer, FOLDER).write([bytes(100)])
    assert bucket.aborted == []
    assert writer.left_behind


def test_an_abort_that_fails_does_not_hide_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def before(verb: str, _number: int) -> None:
        if verb == 'abort':
            raise Unreachable('no answer')
        if verb == 'part':
            raise ServerError('the reason')

    bucket = MemoryBucket(before)
    with pytest.raises(ServerError, match='the reason'):
        upload(bucket, UploadPlan(10, 100, 3), [bytes(100)])
    assert 'id-0' in caplog.text
    assert 'no answer' in caplog.text


def test_a_later_volume_that_fails_has_no_manifest() -> None:
    def before(verb: str, number: int) -> None:
        if (verb, number) == ('part', 3) and f'{FOLDER}/data' in bucket.objects:
            raise ServerError('no')

    bucket = MemoryBucket(before)
    with pytest.raises(ServerError):
        upload(bucket, UploadPlan(10, 5, 2), [bytes(90)])
    assert bucket.aborted == ['id-1']
    assert f'{FOLDER}/manifest' not in bucket.objects


@pytest.mark.parametrize('size', [5, 35], ids=['one part', 'several'])
def test_digests_go_beside_their_volume(size: int) -> None:
    """Neither waits for the answer to the other."""
    both = threading.Barrier(2)

    def before(verb: str, _number: int) -> None:
        if f'{FOLDER}/data' in bucket.objects:
            return
        if verb == 'complete' or verb == 'put':
            both.wait(10)

    bucket = MemoryBucket(before)
    found = upload(bucket, UploadPlan(10, 10, 2), [bytes(size)])
    assert content_of(bucket, found) == bytes(size)


def test_digests_that_fail_beside_a_volume_fail_the_backup() -> None:
    bucket = MemoryBucket(failing('put', 0, ServerError('no')))
    with pytest.raises(ServerError):
        upload(bucket, UploadPlan(10, 10, 2), [bytes(35)])
    # It was completed: to abort it then is what ceph #60771 is about.
    assert not bucket.aborted
    assert f'{FOLDER}/manifest' not in bucket.objects


def test_digests_are_not_written_after_a_volume_has_failed() -> None:
    """Who removes what is there must not be overtaken."""
    begun = threading.Event()

    def before(verb: str, _number: int) -> None:
        if verb == 'put':
            begun.set()
            time.sleep(0.2)
        if verb == 'complete':
            assert begun.wait(10)
            raise ServerError('no')

    bucket = MemoryBucket(before)
    with pytest.raises(ServerError):
        upload(bucket, UploadPlan(10, 10, 2), [bytes(35)])
    left = dict(bucket.objects)
    time.sleep(0.3)
    assert bucket.objects == left
    assert bucket.aborted


def test_parts_that_a_signal_leaves_on_their_way_are_known_of() -> None:
    """A store may take a part of an upload that was just aborted."""
    answer = threading.Event()

    def before(verb: str, number: int) -> None:
        if verb == 'part' and number == 1:
            answer.wait(10)
        elif verb == 'part':
            raise KeyboardInterrupt

    class SlowBucket(MemoryBucket):
        def abort(self, upload: Upload) -> None:
            assert self.running == 1
            self.aborted.append(upload.upload_id)

    bucket = SlowBucket(before)
    writer = volume_writer(bucket, UploadPlan(10, 10, 2))
    with pytest.raises(KeyboardInterrupt):
        StreamUpload(writer, FOLDER).write([bytes(35)])
    answer.set()
    assert bucket.aborted == ['id-0']
    assert writer.left_behind


def test_digests_that_a_signal_leaves_on_their_way_are_known_of() -> None:
    """The journal tells the next run of them."""
    answer = threading.Event()

    def before(verb: str, _number: int) -> None:
        if verb == 'put':
            answer.wait(10)
        if verb == 'complete':
            raise KeyboardInterrupt

    bucket = MemoryBucket(before)
    writer = volume_writer(bucket, UploadPlan(10, 10, 2))
    with pytest.raises(KeyboardInterrupt):
        StreamUpload(writer, FOLDER).write([bytes(35)])
    answer.set()
    assert bucket.aborted
    assert writer.left_behind


class Interrupting(ThreadPoolExecutor):
    """A signal arrives when the thread has the call."""

    def submit(self, *arguments: Any, **named: Any) -> Any:
        super().submit(*arguments, **named)
        raise KeyboardInterrupt


def test_a_signal_while_a_request_is_handed_to_its_thread() -> None:
    request = Future[int]()
    with Interrupting(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            begin(pool, request, lambda: 7)
        assert request.result(60) == 7
