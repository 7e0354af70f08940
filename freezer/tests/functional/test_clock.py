"""A machine whose clock is wrong, on real stores."""

import datetime
import time
import types
from typing import Any

import botocore.auth
import pytest

from freezer.storage._s3.options import S3Options
from freezer.storage.exceptions import ClockSkew, NotFound
from freezer.storage.objects import ObjectKind
from freezer.storage.s3 import S3Storage
from freezer.tests import servers

REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)


def shift(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let botocore believe in another time."""
    delta = datetime.timedelta(seconds=seconds)

    class Shifted(datetime.datetime):
        @classmethod
        def utcnow(cls) -> Any:
            return datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + delta

    if hasattr(botocore.auth, 'get_current_datetime'):
        monkeypatch.setattr(botocore.auth, 'get_current_datetime', Shifted.utcnow)
    else:  # an older botocore
        module = types.SimpleNamespace(datetime=Shifted)
        monkeypatch.setattr(botocore.auth, 'datetime', module)


@pytest.fixture
def storage(s3_server: servers.Server) -> S3Storage:
    return S3Storage(
        s3_server.access_key,
        s3_server.secret_key,
        s3_server.endpoint,
        s3_server.make_bucket(),
        5 << 20,
        skip_prepare=True,
        options=S3Options(retry_budget=5.0),
    )


@REAL
@pytest.mark.parametrize('seconds', [20 * 60, -20 * 60, 86400 * 3])
def test_requests_are_dated_by_the_store(
    storage: S3Storage, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = storage._bucket.requests._clock
    shift(monkeypatch, seconds)
    monkeypatch.setattr(clock, '_now', lambda: time.time() + seconds)
    path = f'{storage.container}/some/object'
    storage._bucket.put('some/object', b'content', ObjectKind.RECORD)
    assert clock.offset == pytest.approx(-seconds, abs=5)
    assert storage.read_file(path) == b'content'
    assert storage.listdir(storage.container) == ['some']
    storage.delete_files([path, path + '2'])
    with pytest.raises(NotFound):
        storage.read_file(path)


@REAL
def test_a_refused_head(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused without a reason, as its answer has no body."""
    storage._bucket.put('object', b'content', ObjectKind.RECORD)
    shift(monkeypatch, 1200)
    monkeypatch.setattr(
        storage._bucket.requests._clock, '_now', lambda: time.time() + 1200
    )
    assert storage._bucket.head('object').size == 7


@REAL
def test_uncorrected_clock_is_refused(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a time that no Date corrects: that the tests above see what they should."""
    shift(monkeypatch, 1200)
    with pytest.raises(ClockSkew, match='RequestTimeTooSkewed'):
        storage._bucket.put('object', b'content', ObjectKind.RECORD)
