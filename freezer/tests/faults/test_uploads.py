"""Faults 1 to 19: what happens to a stream on its way to the store."""

import itertools
import os
import random
import threading
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import PART, Agent, S3Store, in_parts, missed
from freezer.tests.faults.harness import (
    EVER,
    Broken,
    Fault,
    Flipped,
    Late,
    Lost,
    fails,
    faults,
    impatient,
    refused,
    says,
    survives,
    unprotected,
    without,
)
from freezer.tests.proxy import Ending, Meanwhile, Proxy, Request, error

CREATE, PART_SENT, COMPLETE, ABORT, PUT = (
    'CreateMultipartUpload',
    'UploadPart',
    'CompleteMultipartUpload',
    'AbortMultipartUpload',
    'PutObject',
)
REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)


@pytest.fixture
def agent(proxied: S3Store) -> Agent:
    return in_parts(Agent(proxied))


def count(requests: list[Request], operation: str) -> int:
    return sum(request.operation == operation for request in requests)


def test_01_reset_in_a_part(agent: Agent, proxy: Proxy, big: Path) -> None:
    reset = Fault(PART_SENT, Broken(Ending.RESET, 100_000), first=2, times=2)
    requests = survives(agent, proxy, big, reset)
    assert count(requests, PART_SENT) == 5 + 2


def test_01_reset_without_retries_fails(agent: Agent, proxy: Proxy, big: Path) -> None:
    """The same without the protection."""
    once = agent.told('--s3-retry-budget', '0')
    with faults(proxy, Fault(PART_SENT, Broken(Ending.RESET, 100_000), first=2)):
        fails(agent, once.backup(big), 'upload part', proxy.endpoint)


@pytest.mark.parametrize('operation', [CREATE, PART_SENT, COMPLETE, PUT])
def test_02_closed_before_any_answer(
    agent: Agent, proxy: Proxy, big: Path, operation: str
) -> None:
    survives(agent, proxy, big, Fault(operation, Broken(Ending.CLOSE), times=2))


def test_03_a_part_stalls(agent: Agent, proxy: Proxy, big: Path) -> None:
    stall = Fault(PART_SENT, Broken(Ending.STALL, 1000), first=2)
    hasty = agent.told('--s3-read-timeout', '1', '--s3-concurrency', '1')
    requests = survives(hasty, proxy, big, stall)
    numbers = [request.part for request in requests if request.part]
    # One attempt after the other, and each part once more at most.
    assert numbers == [1, 2, 2, 3, 4, 5]


def test_04_slow_down(agent: Agent, proxy: Proxy, big: Path) -> None:
    slow = refused(503, 'SlowDown')
    later = refused(503, 'SlowDown', Retry_After='1')
    survives(
        agent,
        proxy,
        big,
        Fault(PART_SENT, slow, times=6),
        Fault(PUT, later, times=2),
        Fault(COMPLETE, slow),
    )


@pytest.mark.parametrize('operation', [CREATE, PART_SENT, COMPLETE])
def test_05_slow_down_for_ever(
    agent: Agent, proxy: Proxy, big: Path, operation: str
) -> None:
    # Two more are good: the store has answered.
    with faults(proxy, Fault(operation, refused(503, 'SlowDown'), times=EVER)):
        result = impatient(agent).backup(big)
    # What may yet have been completed is not aborted.
    fails(agent, result, 'SlowDown', 'gave up after', rubbish=operation == COMPLETE)
    agent.backup(big).check()
    assert agent.store.open_uploads() == []


@pytest.mark.parametrize(
    'status, code', [(429, 'TooManyRequests'), (499, ''), (409, 'OperationAborted')]
)
def test_06_refused_for_now(
    agent: Agent, proxy: Proxy, big: Path, status: int, code: str
) -> None:
    now = refused(status, code)
    survives(
        agent,
        proxy,
        big,
        *(Fault(operation, now) for operation in (CREATE, PART_SENT, COMPLETE, PUT)),
    )


@pytest.mark.parametrize('code', ['RequestTimeout', 'BadDigest', 'IncompleteBody'])
def test_07_part_that_did_not_arrive(
    agent: Agent, proxy: Proxy, big: Path, code: str
) -> None:
    requests = survives(agent, proxy, big, Fault(PART_SENT, refused(400, code)))
    assert count(requests, PART_SENT) == 5 + 1


def test_08_flipped_bit(ceph: servers.CephRGW, big: Path) -> None:
    """The store compares the SHA-256 that is signed."""
    flips = [
        Fault(PART_SENT, Flipped(1000), first=2),
        Fault(PART_SENT, Flipped(-1), first=4),
        Fault(PUT, Flipped(0), key='/manifest'),
        Fault(PUT, Flipped(3), key='/metadata'),
    ]
    with Proxy(ceph.endpoint) as proxy:
        agent = in_parts(Agent(S3Store(ceph, proxy.endpoint)))
        survives(agent, proxy, big, *flips)


def test_08_flipped_bit_at_a_store_that_checks_no_digest(
    agent: Agent, proxy: Proxy, big: Path
) -> None:
    """It compares other checksums, when asked to."""
    agent = agent.told('--s3-checksum', 'crc32')
    survives(agent, proxy, big, Fault(PART_SENT, Flipped(1000), first=2))


@pytest.mark.parametrize('key', ['/manifest', '/metadata', '/engine_metadata'])
def test_08_flipped_bit_of_a_record(
    agent: Agent, proxy: Proxy, big: Path, key: str
) -> None:
    """What a restore is found and planned by, at the same store as it is."""
    survives(agent, proxy, big, Fault(PUT, Flipped(5), key=key))


def test_09_no_etag(agent: Agent, proxy: Proxy, big: Path) -> None:
    requests = survives(
        agent, proxy, big, Fault(PART_SENT, without('etag'), first=2, times=2)
    )
    assert count(requests, PART_SENT) == 5 + 2
    bodies = [r.body for r in requests if r.operation == COMPLETE]
    assert [body.count(b'<ETag>') for body in bodies] == [5]


ERROR = b'<?xml version="1.0"?>\n<Error><Code>InternalError</Code></Error>'
RESULT = b'<?xml version="1.0"?>\n<CompleteMultipartUploadResult><Locat'


def test_10_complete_with_an_error(agent: Agent, proxy: Proxy, big: Path) -> None:
    """In an answer that begins as a good one; nothing was done."""
    odd = refused(200, body=ERROR)
    requests = survives(agent, proxy, big, Fault(COMPLETE, odd, times=2))
    assert count(requests, COMPLETE) == 3
    assert count(requests, ABORT) == 0


@pytest.mark.parametrize('body', [b'', RESULT, ERROR], ids=['nothing', 'half', 'error'])
@REAL
def test_11_complete_with_half_an_answer(
    s3_server: servers.Server, big: Path, body: bytes
) -> None:
    """And it was done."""
    with Proxy(s3_server.endpoint) as proxy:
        agent = in_parts(Agent(S3Store(s3_server, proxy.endpoint)))
        odd = Fault(COMPLETE, says(200, body, etag=''))
        requests = survives(agent, proxy, big, odd)
    assert count(requests, COMPLETE) == 1
    assert count(requests, ABORT) == 0


@REAL
def test_12_complete_whose_answer_is_lost(s3_server: servers.Server, big: Path) -> None:
    with Proxy(s3_server.endpoint) as proxy:
        store = S3Store(s3_server, proxy.endpoint)
        agent = in_parts(Agent(store))
        requests = survives(agent, proxy, big, Fault(COMPLETE, Lost()))
    assert count(requests, ABORT) == 0
    assert len([path for path in store.sizes() if path.endswith('/data')]) == 1


def test_13_an_older_object_in_its_place(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path
) -> None:
    def plant(request: Request) -> None:
        old = random.Random(1).randbytes(1000)
        proxied.server.put(proxied.bucket, request.key, old)

    with faults(
        proxy,
        Fault(COMPLETE, Meanwhile(plant), times=EVER),
        Fault(COMPLETE, refused(404, 'NoSuchUpload'), times=EVER),
    ):
        result = impatient(agent).backup(big)
    fails(agent, result, 'NoSuchUpload')


def test_14_complete_takes_long(agent: Agent, proxy: Proxy, big: Path) -> None:
    hasty = agent.told('--s3-read-timeout', '1')
    requests = survives(hasty, proxy, big, Fault(COMPLETE, Late(3)))
    assert count(requests, COMPLETE) == 1
    assert count(requests, ABORT) == 0


def test_15_complete_refused_for_good(agent: Agent, proxy: Proxy, big: Path) -> None:
    with faults(proxy, Fault(COMPLETE, refused(400, 'InvalidPart'), times=EVER)):
        result = agent.backup(big)
        requests = list(proxy.requests)
    fails(agent, result, 'InvalidPart', 'complete', proxy.endpoint)
    assert count(requests, COMPLETE) == 1
    assert count(requests, ABORT) == 1


def test_16_abort_fails_as_well(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path
) -> None:
    with faults(
        proxy,
        Fault(PART_SENT, refused(403, 'AccessDenied'), first=3, times=EVER),
        Fault(ABORT, refused(403, 'AccessDenied'), times=EVER),
    ):
        result = agent.backup(big)
    line = fails(agent, result, 'upload part', 'AccessDenied', rubbish=True)
    assert 'abort' not in line
    ((_key, upload_id),) = proxied.server.uploads(proxied.bucket)
    home = Path(os.environ['HOME'])
    (entry,) = (home / '.freezer' / 'uploads').glob('*.json')
    assert upload_id in entry.read_text()
    agent.backup(big).check()
    assert proxied.open_uploads() == []
    assert len(proxied.markers()) == 1


def test_17_equal_parts(agent: Agent, proxy: Proxy, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(7 * PART + 4321))
    requests = survives(agent.told('--s3-max-parts', '4'), proxy, source)
    parts = [(r.key, r.part, len(r.body)) for r in requests if r.part]
    volumes = [
        [size for _key, _number, size in sorted(many)]
        for _key, many in itertools.groupby(sorted(parts), key=lambda part: part[0])
    ]
    # Nine tenths of four are three.
    assert [len(sizes) for sizes in volumes] == [3, 3, 2]
    for sizes in volumes:
        assert set(sizes[:-1]) == {PART}
        assert 0 < sizes[-1] <= PART


@pytest.mark.parametrize('most', [4, 1000])
def test_18_parts_are_limited(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path, most: int
) -> None:
    """Swift's limit, and one that a stream of this size meets."""
    requests = survives(agent.told('--s3-max-parts', str(most)), proxy, big)
    assert max(request.part for request in requests) <= most
    volumes = [p for p in proxied.sizes() if p.endswith('/data') or '/segments/' in p]
    assert len(volumes) == (2 if most == 4 else 1)


# tar writes records of 10 KiB, and in the last one its end and what is about a file.
RECORD = 10240


@pytest.mark.parametrize(
    'size, parts',
    [
        (0, 0),
        (PART - 2 * RECORD, 0),
        (PART - RECORD, 0),
        (PART, 2),
        (2 * PART - RECORD, 2),
        (2 * PART, 3),
    ],
)
def test_19_sizes_around_a_part(
    agent: Agent, proxy: Proxy, proxied: S3Store, tmp_path: Path, size: int, parts: int
) -> None:
    """To the byte: ``unit/test_upload.py``."""
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(size))
    requests = survives(agent, proxy, source)
    sent = [len(request.body) for request in requests if request.part]
    assert len(sent) == parts
    assert 0 not in sent
    (stored,) = [n for path, n in proxied.sizes().items() if path.endswith('/data')]
    assert stored == size + RECORD
    assert stored == (sum(sent) or stored)


def test_22_upload_expired(agent: Agent, proxy: Proxy, big: Path) -> None:
    gone = Fault(PART_SENT, refused(404, 'NoSuchUpload'), first=3, times=EVER)
    with faults(proxy, gone):
        result = agent.backup(big)
    fails(agent, result, 'NoSuchUpload', 'upload part')


def test_23_token_expires(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path
) -> None:
    """And with it the right to clean up."""
    expired = threading.Event()

    def expire(_request: Request) -> None:
        expired.set()

    proxy.answer(lambda _request: expired.is_set(), error(400, 'ExpiredToken'))
    with faults(proxy, Fault(PART_SENT, Meanwhile(expire), first=3)):
        result = agent.backup(big)
    fails(agent, result, 'ExpiredToken', 'get a new session token', rubbish=True)
    assert proxied.open_uploads() != []
    # With a new one.
    agent.backup(big).check()
    assert proxied.open_uploads() == []


@pytest.mark.parametrize('attempt', [1, 2])
def test_38_condition_ignored(
    rclone: servers.RcloneS3, big: Path, tmp_path: Path, attempt: int
) -> None:
    """rclone's server ignores If-None-Match. Two at once: each whole, or refused."""
    store = S3Store(rclone)
    agent = in_parts(Agent(store, f'bk{attempt}'))
    arguments = ('backup', '--path-to-backup', big)
    with agent.start(*arguments) as one, agent.start(*arguments) as two:
        results = one.wait(), two.wait()
    good = [result for result in results if result.code == 0]
    for result in results:
        if result.code:
            assert 'another backup of this name' in result.error
    assert len(store.markers()) == len(good)
    if not good:
        agent.backup(big).check()
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(big), tmp_path / 'target') == []


@REAL
def test_37_two_agents_at_once(
    s3_server: servers.Server, big: Path, tmp_path: Path
) -> None:
    """Of one name and, as like as not, one second."""
    store = S3Store(s3_server)
    agent = in_parts(Agent(store))
    arguments = ('backup', '--path-to-backup', big)
    with agent.start(*arguments) as one, agent.start(*arguments) as two:
        results = one.wait(), two.wait()
    good = [result for result in results if result.code == 0]
    assert good, results
    for result in results:
        if result.code:
            assert 'another backup of this name' in result.error
    assert len(store.markers()) == len(good)
    assert store.open_uploads() == []
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(big), tmp_path / 'target') == []


def test_39_own_repetition_meets_412(agent: Agent, proxy: Proxy, big: Path) -> None:
    """The claim was put, its answer lost, and is there when it is put again."""
    survives(agent, proxy, big, Fault(PUT, Lost(), key='/claim'))


@pytest.mark.parametrize(
    'status, code', [(403, 'AccessDenied'), (500, 'InternalError')]
)
def test_40_no_marker(
    agent: Agent, proxy: Proxy, big: Path, status: int, code: str
) -> None:
    broken = refused(status, code)
    with faults(proxy, Fault(PUT, broken, times=EVER, key='/metadata')):
        result = impatient(agent).backup(big)
    fails(agent, result, code, '/metadata')


def test_40_marker_that_is_not_kept(agent: Agent, proxy: Proxy, big: Path) -> None:
    """The store says that it has it."""
    done = refused(200, body=b'', ETag='"0"')
    with faults(proxy, Fault(PUT, done, key='/metadata')):
        result = agent.backup(big)
    fails(agent, result, '/metadata')


def test_40_unchecked(agent: Agent, proxy: Proxy, proxied: S3Store, big: Path) -> None:
    """The same without the protection: exit 0, and nothing is there."""
    patch = (
        'from freezer.storage.object_backups.pending import _ObjectWrittenBackup\n'
        '_ObjectWrittenBackup._verify_commit = lambda self: None'
    )
    careless = unprotected(agent, patch)
    done = refused(200, body=b'', ETag='"0"')
    with faults(proxy, Fault(PUT, done, key='/metadata')):
        careless.backup(big).check()
    assert proxied.markers() == []
