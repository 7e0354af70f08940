"""What a store sees of a client: when bytes come, and what becomes of connections."""

import datetime
import email.utils
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.http.wire import Wire
from freezer.storage.objects import ObjectKind, Sent, Upload
from freezer.storage.retry import Retry
from freezer.storage.s3 import S3Storage
from freezer.tests.scripted import Exchange, Scripted
from freezer.tests.unit.clock import FakeClock, FakeEvent
from freezer.utils.rate import Rate

MIB = 1 << 20
KEY = 'some/key'
UPLOAD = Upload(KEY, 'our-upload')
CONTENT = bytes(range(256)) * 4096
ETAG = {'ETag': '"e"'}
COMPLETED = (
    b'<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
)


def bucket_at(endpoint: str, **options: Any) -> Bucket:
    """A bucket as the driver makes it."""
    given = S3Options(**{'retry_budget': 0.0, **options})
    storage = S3Storage(
        'ak', 'sk', endpoint, 'bucket/prefix', 5 * MIB, True, options=given
    )
    return storage._bucket


def accept(exchange: Exchange) -> None:
    """Read what comes, and say that all is well."""
    exchange.read()
    exchange.answer(headers=ETAG)


class Pace:
    """A rate on a fake clock, which looks at the server whenever somebody waits."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self.clock = FakeClock()
        self.start = self.clock.now
        self.rate = Rate(per_second, self.clock, self._wait)
        self.server: Scripted | None = None
        self.steps: list[float] = []

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return self.clock.now - self.start

    def _wait(self, _event: threading.Event, seconds: float) -> None:
        if self.server is not None:
            assert self.server.received <= self.passed * self.per_second + 1
        self.steps.append(seconds * self.per_second)
        self.clock.sleep(seconds)


# Rates


@pytest.mark.parametrize('kind', [bytes, bytearray])
@pytest.mark.parametrize('per_second', [10_000, 300_000, 50 * MIB])
def test_a_body_is_sent_at_the_rate(per_second: int, kind: Callable[..., Any]) -> None:
    pace = Pace(per_second)
    bodies = []

    def script(exchange: Exchange) -> None:
        bodies.append(exchange.read())
        exchange.answer(headers=ETAG)

    with Scripted(script) as server:
        pace.server = server
        bucket = bucket_at(server.endpoint, sending=pace.rate)
        assert bucket.upload_part(UPLOAD, 1, kind(CONTENT)).etag == '"e"'
    assert bodies == [CONTENT]
    assert pace.passed == pytest.approx(len(CONTENT) / per_second)
    assert max(pace.steps) <= min(64 * 1024, per_second / 20) + 1


@pytest.mark.parametrize('per_second', [10_000, 50 * MIB])
def test_a_body_is_received_at_the_rate(per_second: int) -> None:
    pace = Pace(per_second)

    def script(exchange: Exchange) -> None:
        exchange.answer(206, CONTENT, {'Content-Range': _range(len(CONTENT)), **ETAG})

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, receiving=pace.rate)
        assert bucket.get_range(KEY, 0, len(CONTENT), None) == CONTENT
    assert pace.passed == pytest.approx(len(CONTENT) / per_second)
    assert max(pace.steps) <= min(64 * 1024, per_second / 20) + 1


def _range(size: int) -> str:
    return f'bytes 0-{size - 1}/{size}'


def test_one_rate_for_all_that_share_it() -> None:
    pace = Pace(MIB)
    with Scripted(accept) as server:
        pace.server = server
        for _ in range(2):
            bucket = bucket_at(server.endpoint, sending=pace.rate)
            bucket.upload_part(UPLOAD, 1, bytearray(CONTENT))
    assert pace.passed == pytest.approx(2)


def test_time_held_back_is_no_time_of_the_retries() -> None:
    """100 s an attempt, and a minute for all of them."""
    pace = Pace(10)
    wire = Wire(receiving=pace.rate, clock=pace.clock)
    attempts = 0

    def call() -> str:
        nonlocal attempts
        attempts += 1
        wire.received(1000)
        if attempts < 4:
            raise e.ServerError('down')
        return 'done'

    retry = Retry(60, wire.now, lambda: 1.0)
    assert retry.run(call, FakeEvent(pace.clock)) == 'done'
    assert attempts == 4
    assert pace.passed > 400


def test_nobody_asks_before_a_body_is_sent() -> None:
    """Expect: 100-continue. botocore 1.29 takes a refusal for the next answer, too."""

    def script(exchange: Exchange) -> None:
        assert 'expect' not in exchange.headers
        exchange.read()
        exchange.answer(body=COMPLETED, headers=ETAG)

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint)
        bucket.put(KEY, CONTENT, ObjectKind.VOLUME)
        bucket.put(KEY, b'', ObjectKind.VOLUME)
        bucket.upload_part(UPLOAD, 1, bytearray(CONTENT))
        bucket.complete(UPLOAD, [Sent('"e"', {})], 1, 'token')
    # The last one looks at what was completed.
    assert len(server.exchanges) == 5


def test_a_body_that_is_sent_again_elsewhere() -> None:
    """botocore itself signs for the region the store names, and sends once more."""
    bodies = []

    def script(exchange: Exchange) -> None:
        bodies.append(exchange.read())
        if '/eu-west-9/' in exchange.headers['authorization']:
            exchange.answer(headers=ETAG)
            return
        exchange.answer(
            400,
            b'<Error><Code>AuthorizationHeaderMalformed</Code>'
            b'<Region>eu-west-9</Region></Error>',
        )

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint)
        assert bucket.upload_part(UPLOAD, 1, bytearray(CONTENT)).etag == '"e"'
        bucket = bucket_at(server.endpoint)
        assert bucket.put(KEY, CONTENT, ObjectKind.VOLUME) == '"e"'
    # A part is sent without botocore first.
    assert bodies == [CONTENT] * 5


# Slow, and stopped


def test_a_part_may_take_longer_than_it_may_take_to_connect() -> None:
    """A slow line is no failure."""

    def script(exchange: Exchange) -> None:
        for _ in range(20):
            exchange.read(MIB)
            time.sleep(0.1)
        exchange.answer(headers=ETAG)

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, connect_timeout=1.0, retry_budget=20.0)
        assert bucket.upload_part(UPLOAD, 1, bytearray(20 * MIB)).etag == '"e"'


@pytest.mark.parametrize('limited', [True, False])
def test_cancelled_while_it_sends(limited: bool) -> None:
    """At this rate the body would take an hour."""
    cancelled = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.read(1)
        cancelled.set()
        exchange.wait_until_closed()

    rate = Rate(len(CONTENT) // 3600 if limited else 0)
    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, sending=rate, retry_budget=20.0)
        body = bytearray(CONTENT * (1 if limited else 30))
        with pytest.raises(e.Cancelled):
            bucket.upload_part(UPLOAD, 1, body, cancelled)
    assert len(server.exchanges) == 1


def test_cancelled_while_it_receives() -> None:
    cancelled = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.send(
            f'HTTP/1.1 206 So\r\nContent-Length: {len(CONTENT)}\r\n'
            f'Content-Range: {_range(len(CONTENT))}\r\n\r\n'.encode()
        )
        cancelled.set()
        exchange.send(CONTENT)
        exchange.wait_until_closed()

    with Scripted(script) as server:
        bucket = bucket_at(
            server.endpoint, receiving=Rate(len(CONTENT) // 3600), retry_budget=20.0
        )
        with pytest.raises(e.Cancelled):
            bucket.get_range(KEY, 0, len(CONTENT), None, cancelled)
    assert len(server.exchanges) == 1


# Attempts


def test_attempts_at_a_part_never_overlap() -> None:
    """Ceph before 16.2.15 mixes them up (ceph #55586).

    The store does not answer, the client gives up: when it tries again, its first
    connection is closed.
    """
    second = threading.Event()
    closed = []

    def script(exchange: Exchange) -> None:
        exchange.read()
        if exchange.connection > 1:
            second.set()
            exchange.answer(headers=ETAG)
            return
        assert second.wait(60)
        closed.append(exchange.is_closed)

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, read_timeout=0.5, retry_budget=60.0)
        assert bucket.upload_part(UPLOAD, 1, bytearray(CONTENT)).etag == '"e"'
    assert closed == [True]


def test_an_attempt_that_was_given_up_never_becomes_whole() -> None:
    """The store stops reading. What is still under way when the client gives up may
    arrive later, but it is cut off."""
    second, cut_off = threading.Event(), threading.Event()

    def script(exchange: Exchange) -> None:
        if exchange.connection > 1:
            second.set()
            assert cut_off.wait(10)
            accept(exchange)
            return
        assert second.wait(60)
        with pytest.raises(ConnectionResetError):
            exchange.read()
        cut_off.set()

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, read_timeout=0.5, retry_budget=60.0)
        # More than the buffers on the way hold.
        assert bucket.upload_part(UPLOAD, 1, bytearray(20 * MIB)).etag == '"e"'


# The store's time


SKEW = 20 * 60


def timely(offset: float, handle: Callable[[Exchange], None] = accept) -> Any:
    """A script: as ``handle``, of a store whose clock is ahead by some seconds."""

    def script(exchange: Exchange) -> None:
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=offset)
        stamp = exchange.headers['x-amz-date']
        signed = datetime.datetime.strptime(stamp + '+0000', '%Y%m%dT%H%M%SZ%z')
        assert f'/{stamp[:8]}/' in exchange.headers['authorization']
        if abs((signed - now).total_seconds()) < 15 * 60:
            handle(exchange)
            return
        exchange.read()
        date = now.strftime('%a, %d %b %Y %H:%M:%S GMT')
        exchange.refuse(403, 'RequestTimeTooSkewed', Date=date)

    return script


def complete_or_accept(exchange: Exchange) -> None:
    exchange.read()
    if exchange.method == 'POST':
        exchange.answer(body=COMPLETED)
    else:
        exchange.answer(headers=ETAG)


def told_of_clocks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [m for r in caplog.records if 'clock is' in (m := r.getMessage())]


@pytest.mark.parametrize('offset', [SKEW, -SKEW, 86400 * 400])
def test_a_wrong_clock_is_corrected(
    offset: float, caplog: pytest.LogCaptureFixture
) -> None:
    with Scripted(timely(offset, complete_or_accept)) as server:
        bucket = bucket_at(server.endpoint)
        assert bucket.upload_part(UPLOAD, 1, bytearray(CONTENT)).etag == '"e"'
        assert len(server.exchanges) == 2
        # Known from now on, and to the other client.
        bucket.put(KEY, b'content', ObjectKind.VOLUME)
        assert bucket.complete(UPLOAD, [Sent('"e"', {})], 1, 'token') == '"e"'
        assert len(server.exchanges) == 5
    (told,) = told_of_clocks(caplog)
    seconds, direction = told.removeprefix("this machine's clock is ").split(' s ', 1)
    assert int(seconds) == pytest.approx(abs(offset), abs=2)
    assert direction.startswith('behind' if offset > 0 else 'ahead of')
    assert server.endpoint in told


def test_a_complete_that_is_dated_wrongly_is_made_again() -> None:
    with Scripted(timely(SKEW, complete_or_accept)) as server:
        bucket = bucket_at(server.endpoint)
        assert bucket.complete(UPLOAD, [Sent('"e"', {})], 1, 'token') == '"e"'
    assert [exchange.method for exchange in server.exchanges] == [
        'POST',
        'POST',
        'HEAD',
    ]


def test_a_head_is_refused_without_a_reason() -> None:
    """It has no body; the Date tells."""

    def handle(exchange: Exchange) -> None:
        exchange.answer(headers=ETAG)

    with Scripted(timely(SKEW, handle)) as server:
        assert bucket_at(server.endpoint).head(KEY).etag == '"e"'
    assert len(server.exchanges) == 2


def test_a_head_that_may_not_be_is_not_made_again() -> None:
    def script(exchange: Exchange) -> None:
        exchange.refuse(403, 'AccessDenied', Date=email.utils.formatdate(usegmt=True))

    with Scripted(script) as server, pytest.raises(e.AccessDenied):
        bucket_at(server.endpoint).head(KEY)
    assert len(server.exchanges) == 1


def test_threads_that_are_refused_together(caplog: pytest.LogCaptureFixture) -> None:
    """Each of them is made again, by what the first one learnt."""
    together = threading.Barrier(4, timeout=60)
    first_on: set[int] = set()

    def script(exchange: Exchange) -> None:
        if exchange.connection not in first_on:
            first_on.add(exchange.connection)
            together.wait()
        timely(SKEW)(exchange)

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint)
        with ThreadPoolExecutor(4) as pool:
            etags = pool.map(
                lambda n: bucket.put(f'{n}', b'content', ObjectKind.VOLUME), range(4)
            )
            assert list(etags) == ['"e"'] * 4
    assert len(told_of_clocks(caplog)) == 1


def test_a_store_that_refuses_its_own_time(caplog: pytest.LogCaptureFixture) -> None:
    def script(exchange: Exchange) -> None:
        exchange.read()
        date = email.utils.formatdate(time.time() + SKEW, usegmt=True)
        exchange.refuse(403, 'RequestTimeTooSkewed', Date=date)

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, retry_budget=60.0)
        with pytest.raises(e.ClockSkew, match='store refused its own time as well'):
            bucket.put(KEY, b'content', ObjectKind.VOLUME)
    assert len(server.exchanges) == 2
    assert len(told_of_clocks(caplog)) == 1


@pytest.mark.parametrize('date', [None, 'tomorrow', email.utils.formatdate(0)[:-5]])
def test_no_time_to_correct_by(date: str | None) -> None:
    def script(exchange: Exchange) -> None:
        exchange.read()
        exchange.refuse(403, 'RequestTimeTooSkewed', **({'Date': date} if date else {}))

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint, retry_budget=60.0)
        with pytest.raises(e.ClockSkew, match="set this machine's clock"):
            bucket.put(KEY, b'content', ObjectKind.VOLUME)


# Retry-After


@pytest.mark.parametrize('status, code', [(503, 'SlowDown'), (429, ''), (500, '')])
def test_how_long_a_store_wants_to_be_left_alone(status: int, code: str) -> None:
    def script(exchange: Exchange) -> None:
        exchange.read()
        exchange.refuse(status, code, Retry_After='17')

    with Scripted(script) as server:
        bucket = bucket_at(server.endpoint)
        for call in (
            lambda: bucket.put(KEY, b'content', ObjectKind.VOLUME),
            lambda: bucket.head(KEY),
            lambda: bucket.upload_part(UPLOAD, 1, bytearray(b'content')),
        ):
            with pytest.raises(e.StorageException) as caught:
                call()
            cause = caught.value.__cause__
            assert isinstance(cause, e.StorageException)
            assert cause.temporary
            assert cause.retry_after == 17


@pytest.mark.parametrize(
    'entry',
    [
        '<Key>k</Key><LastModified>garbage</LastModified><Size>1</Size>',
        '<Key>k</Key><LastModified>2024-01-01T00:00:00Z</LastModified><Size>abc</Size>',
        '<Key>k</Key><LastModified></LastModified><Size>1</Size>',
    ],
)
def test_a_value_that_botocore_cannot_read(entry: str) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.read()
        body = f'<ListBucketResult><Contents>{entry}</Contents></ListBucketResult>'
        exchange.answer(body=body.encode())

    with Scripted(answer) as server:
        # With a budget, but it is not repeated.
        bucket = bucket_at(server.endpoint, retry_budget=60.0)
        with pytest.raises(e.MalformedAnswer, match='not what S3 answers'):
            list(bucket.list('prefix/'))
    assert len(server.exchanges) == 1
