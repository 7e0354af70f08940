"""Keys that may only write, or do no more than their policy says.

What such keys are refused a proxy refuses, where any server will do. Ceph does it for
real, by policies, those of the documentation among them.
"""

import contextlib
import json
import logging
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage import layout
from freezer.storage.s3 import S3Storage
from freezer.tests import servers, trees
from freezer.tests.agent import (
    HOST,
    PART,
    ROOT,
    Agent,
    Result,
    S3Store,
    assert_restores,
    in_parts,
    missed,
)
from freezer.tests.front import ZERO, Front, make_backup
from freezer.tests.proxy import (
    BROKEN,
    DENIED,
    Answer,
    Change,
    Proxy,
    Reply,
    Request,
    error,
)

MAY_NOT_READ = 'not read back (s3:GetObject denied)'
MAY_NOT_LIST = 'the keys may not list (s3:ListBucket)'


def reads(request: Request) -> bool:
    return bool(request.key) and request.method in ('GET', 'HEAD')


def lists(request: Request) -> bool:
    return not request.key and request.method in ('GET', 'HEAD')


def deletes(request: Request) -> bool:
    if request.operation == 'DeleteObjects':
        return True
    return request.method == 'DELETE' and 'uploadId' not in request.query


def may_only_write(proxy: Proxy) -> None:
    for refused in (reads, lists, deletes):
        proxy.answer(refused, DENIED)


@pytest.fixture
def writer(proxied: S3Store, proxy: Proxy) -> Agent:
    """An agent whose keys may only write, with several volumes of several parts."""
    may_only_write(proxy)
    options = ('--s3-max-parts', '4', '--s3-retry-budget', '3')
    return in_parts(Agent(proxied, options=options))


def test_full_backup(writer: Agent, proxy: Proxy, big: Path, tmp_path: Path) -> None:
    log = tmp_path / 'log'
    made = writer.backup(big, '--log-file', log).check()
    (line,) = made.notices
    assert f'Warning: {line}' in made.err
    assert MAY_NOT_READ in line
    assert MAY_NOT_LIST in line
    # SeaweedFS heeds the condition.
    assert 'same second' not in line
    assert f'WARNING freezer.notices [-] {line}' in log.read_text()
    # No more is asked of the store than is needed to know that.
    refused = [r for r in proxy.requests if r.operation == 'DeleteObject']
    assert refused == []
    proxy.clear()
    assert_restores(writer, big, tmp_path / 'target')
    writer.run('verify', '--verify-data').check()
    # Its claim is in nobody's way, and goes with the first clean-up.
    writer.run('admin', '--s3-stale-after', '0').check()
    assert not [path for path in writer.store.files() if '/claim' in path]
    assert_restores(writer, big, tmp_path / 'once more')


@pytest.mark.parametrize('options', [['--incremental'], ['--remove-older-than', '30']])
def test_write_only_keys_are_refused_increments_and_retention(
    writer: Agent, proxy: Proxy, big: Path, options: list[str]
) -> None:
    error = writer.backup(big, *options).only_error
    assert 's3:ListBucket' in error
    assert 'full backups only' in error
    assert {request.method for request in proxy.requests} <= {'GET', 'HEAD'}
    assert writer.store.is_untouched()


@pytest.mark.parametrize('action', ['info', 'restore', 'verify', 'admin'])
def test_write_only_keys_are_told_the_missing_right(
    writer: Agent, tmp_path: Path, action: str
) -> None:
    options = {
        'restore': ('--restore-abs-path', tmp_path / 'target'),
        'admin': ('--remove-older-than', '30'),
    }
    error = writer.run(action, *options.get(action, ())).only_error
    assert 's3:ListBucket' in error
    assert not (tmp_path / 'target').exists()


def no_reply(_reply: Reply) -> None:
    """The store has done it, and nobody hears of it."""


def empty_reply(reply: Reply) -> Reply:
    return reply.but(body=b'', content_length='0')


@pytest.mark.parametrize('change', [no_reply, empty_reply])
def test_unknown_result_of_complete_is_a_failure(
    writer: Agent, proxy: Proxy, big: Path, change: Change
) -> None:
    proxy.change(lambda request: request.completes, change)
    assert 'whether' in writer.backup(big).error
    assert writer.store.markers() == []


def test_answer_to_complete_that_is_lost_once(
    writer: Agent, proxy: Proxy, big: Path, tmp_path: Path
) -> None:
    """Asked again, the store confirms the upload, or it is a failure."""
    lost: list[Request] = []

    def first(request: Request) -> bool:
        if request.completes:
            lost.append(request)
        return request.completes and len(lost) == 1

    proxy.change(first, no_reply)
    result = writer.backup(big)
    assert len(lost) > 1
    proxy.clear()
    if result.code == 0:
        assert_restores(writer, big, tmp_path / 'target')
    else:
        assert 'whether' in result.error
        assert writer.store.markers() == []


@pytest.mark.parametrize(
    'answer', [BROKEN, error(404, 'NoSuchKey')], ids=['500', '404']
)
def test_other_errors_than_403_fail_the_backup(
    proxied: S3Store, proxy: Proxy, source: Path, answer: Answer
) -> None:
    proxy.answer(reads, answer)
    agent = Agent(proxied, options=['--s3-retry-budget', '2'])
    assert agent.backup(source).code == 1
    assert proxied.markers() == []


@pytest.mark.parametrize('what', ['manifest', 'data'])
def test_403_beside_readable_objects_means_missing(
    proxied: S3Store, proxy: Proxy, source: Path, what: str
) -> None:
    """As for keys that may read and not list, of an object that is not there."""
    proxy.answer(lists, DENIED)
    proxy.answer(lambda r: reads(r) and r.key.endswith(f'/{what}'), DENIED)
    error = Agent(proxied).backup(source).error
    assert 'either this one is missing' in error
    assert proxied.markers() == []


def test_only_reading_or_only_listing_is_refused(
    proxied: S3Store, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    agent = Agent(proxied)
    for number, (refused, says, silent) in enumerate(
        [(reads, MAY_NOT_READ, MAY_NOT_LIST), (lists, MAY_NOT_LIST, MAY_NOT_READ)]
    ):
        proxy.answer(refused, DENIED)
        named = agent.told('--backup-name', f'bk{number}')
        said = named.backup(source).check().err
        assert says in said
        assert silent not in said
        proxy.clear()
        assert_restores(named, source, tmp_path / f'target {number}')
        # Without a listing it is what keeps others from the same second.
        claims = [p for p in proxied.files() if f'_bk{number}/' in p and '/claim' in p]
        assert bool(claims) is (refused is lists)


def test_upload_of_a_killed_agent_is_aborted(
    writer: Agent, proxy: Proxy, big: Path, source: Path
) -> None:
    held = proxy.hold(lambda request: request.part == 2)
    with writer.start('backup', '--path-to-backup', big) as process:
        held.wait()
        process.send(signal.SIGKILL)
        process.wait()
    held.release()
    assert writer.store.open_uploads() != []
    writer.told('--backup-name', 'other').backup(source).check()
    assert writer.store.open_uploads() == []


# The driver alone


@pytest.fixture
def driver(front: Front, kept_logging: None) -> S3Storage:
    driver = front.driver()
    driver.prepare()
    may_only_write(front.proxy)
    return driver


def test_second_backup_in_one_second_fails(front: Front, driver: S3Storage) -> None:
    made = make_backup(driver)
    with pytest.raises(e.Conflict, match='run it again'):
        front.driver().begin(made.backup)


def test_lost_claim_fails_the_backup(front: Front, driver: S3Storage) -> None:
    """The claim cannot be read, and so is written again: nobody else's, it is gone."""

    def swept(request: Request) -> bool:
        return request.operation == 'PutObject' and request.key.endswith('/manifest')

    def sweep() -> None:
        for key in front.server.keys(front.bucket):
            if key.endswith('/claim'):
                front.server.delete(front.bucket, key)

    front.proxy.before(swept, sweep)
    with pytest.raises(e.Conflict, match='treated this backup as dead'):
        make_backup(driver)
    keys = front.server.keys(front.bucket)
    assert not [key for key in keys if f'/{layout.METADATA}/' in f'/{key}']


def test_store_that_ignores_conditions_causes_a_warning(
    rclone: servers.RcloneS3, kept_logging: None, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(rclone.endpoint) as proxy, contextlib.ExitStack() as stack:
        front = Front(rclone, proxy)
        stack.callback(front.close)
        driver = front.driver()
        driver.prepare()
        may_only_write(proxy)
        logging.getLogger().addHandler(caplog.handler)
        make_backup(driver, ZERO)
        (said,) = [r for r in caplog.records if r.name == 'freezer.notices']
        assert 'may start in the same second' in said.getMessage()


# Policies, on Ceph


PAGE = ROOT / 'doc/source/user/security.rst'
LIMITED = {
    'ACCESS_KEY': servers.CephRGW.limited_access_key,
    'SECRET_KEY': servers.CephRGW.limited_secret_key,
}
Statements = list[dict[str, Any]]


def policies() -> dict[str, Statements]:
    """Title -> statements, as the page has them."""
    found = re.findall(
        r'^([\w ]+)\n-+\n(?:(?!^-+$).*\n)*?\.\. code-block:: json\n\n((?:   .+\n)+)',
        PAGE.read_text(),
        re.MULTILINE,
    )
    return {title: json.loads(text)['Statement'] for title, text in found}


def allow(
    ceph: servers.CephRGW,
    store: S3Store,
    statements: Statements,
    but: str = '',
    deny: str = '',
) -> None:
    """Let the limited user do what the statements say, in this store's place.

    :param but: an action that is taken out of them
    :param deny: an action that is forbidden; of their own objects, Ceph's users may do
        what is only not allowed
    """
    given: Statements = []
    if deny:
        everything = f'arn:aws:s3:::{store.bucket}/*'
        given.append({'Effect': 'Deny', 'Action': [deny], 'Resource': [everything]})
    for statement in statements:
        text = json.dumps(statement['Resource'])
        text = text.replace(':::backups/web1/', f':::{store.bucket}/{store.prefix}/')
        resource = json.loads(text.replace(':::backups"', f':::{store.bucket}"'))
        actions = [action for action in statement['Action'] if action != but]
        if actions:
            given.append({'Action': actions, 'Resource': resource})
    ceph.limit(store.bucket, given)


@pytest.fixture
def place(ceph: servers.CephRGW) -> S3Store:
    return S3Store(ceph)


@pytest.fixture
def limited(place: S3Store) -> Agent:
    """The agent with keys that may do what :func:`allow` says."""
    options = ('--s3-nocreate-bucket', '--s3-stale-after', '0')
    return in_parts(Agent(place, options=options, env=LIMITED))


@pytest.fixture
def owner(limited: Agent, ceph: servers.CephRGW) -> Agent:
    keys = {'ACCESS_KEY': ceph.access_key, 'SECRET_KEY': ceph.secret_key}
    return limited.told(**keys)


def test_page_has_four_policies() -> None:
    assert list(policies()) == [
        'Backup only',
        'Backup with increments',
        'Restore only',
        'Admin',
    ]


@pytest.mark.parametrize('acl', [None, 'bucket-owner-full-control'])
def test_acl_decides_who_reads_the_objects_of_another_account(
    ceph: servers.CephRGW,
    place: S3Store,
    limited: Agent,
    owner: Agent,
    big: Path,
    tmp_path: Path,
    acl: str | None,
) -> None:
    allow(ceph, place, policies()['Backup only'], deny='s3:GetObject')
    told = limited.told('--s3-acl', acl) if acl else limited
    said = told.backup(big).check().err
    assert MAY_NOT_READ in said
    assert MAY_NOT_LIST in said
    for action in ('info', 'verify'):
        assert 's3:ListBucket' in limited.run(action).only_error
    # Objects are the writer's, and the bucket its owner's.
    if acl:
        assert_restores(owner, big, tmp_path / 'target')
    else:
        error = owner.restore(tmp_path / 'target').error
        assert 's3:GetObject' in error
    allow(ceph, place, policies()['Restore only'])
    assert_restores(limited, big, tmp_path / 'another target')


def test_keys_that_may_read_but_not_list(
    ceph: servers.CephRGW, limited: Agent, big: Path, tmp_path: Path
) -> None:
    """They are told 403 of what is not there."""
    store = limited.store
    assert isinstance(store, S3Store)
    statements = policies()['Backup with increments']
    allow(ceph, store, statements, but='s3:ListBucket')
    said = limited.backup(big).check().err
    assert MAY_NOT_LIST in said
    assert MAY_NOT_READ not in said
    with Proxy(ceph.endpoint) as proxy:

        def lose() -> None:
            for key in ceph.keys(store.bucket):
                if '_lost/' in key and key.endswith('/data'):
                    ceph.delete(store.bucket, key)

        proxy.before(lambda request: request.key.endswith('/manifest'), lose)
        lost = limited.told('--backup-name', 'lost', ENDPOINT=proxy.endpoint)
        error = lost.backup(big).error
        assert 'either this one is missing' in error
    assert not [path for path in store.markers() if '_lost/' in path]
    allow(ceph, store, policies()['Restore only'])
    assert_restores(limited, big, tmp_path / 'target')


Job = Callable[[Agent, Path, Path], Result]


def full(agent: Agent, source: Path, _folder: Path) -> Result:
    return agent.backup(source)


def increment(agent: Agent, source: Path, _folder: Path) -> Result:
    return agent.increment(source)


def restore(agent: Agent, _source: Path, folder: Path) -> Result:
    return agent.restore(folder / 'target')


def administer(agent: Agent, _source: Path, _folder: Path) -> Result:
    purge = '--s3-purge-versions'
    return agent.run('admin', '--remove-before-date', '2001-01-01T00:00:00', purge)


JOBS: dict[str, Job] = {
    'Backup only': full,
    'Backup with increments': increment,
    'Restore only': restore,
    'Admin': administer,
}
CASES = [
    (title, action)
    for title, statements in policies().items()
    for statement in statements
    for action in ['', *statement['Action']]
    if action or statement is statements[0]
]


@pytest.mark.parametrize('title, but', CASES)
def test_policy_allows_its_job_and_nothing_more(
    ceph: servers.CephRGW,
    place: S3Store,
    limited: Agent,
    owner: Agent,
    source: Path,
    tmp_path: Path,
    title: str,
    but: str,
) -> None:
    """Each is enough for its job, and nothing in it is too much."""
    _prepare(ceph, place, owner, source, title)
    allow(ceph, place, policies()[title], but)
    before = place.sizes()
    result = JOBS[title](limited, source, tmp_path)
    if but == 's3:AbortMultipartUpload' and title != 'Admin':
        # Of use when something goes wrong.
        result.check()
        _fails_halfway(ceph, limited, tmp_path)
        assert place.open_uploads() != []
    elif but == 's3:ListBucketMultipartUploads':
        assert 'Open uploads cannot be listed' in result.check().err
        assert but in result.err
        assert place.open_uploads() != []
    elif but:
        assert but in result.error
        if title != 'Admin':
            assert place.sizes() == before
    else:
        result.check()
        _check_done(ceph, place, limited, source, tmp_path, title)


def _prepare(
    ceph: servers.CephRGW, place: S3Store, owner: Agent, source: Path, title: str
) -> None:
    client = ceph.client()
    if title != 'Admin':
        if title != 'Backup only':
            owner.backup(source).check()
        return
    client.put_bucket_versioning(
        Bucket=place.bucket, VersioningConfiguration={'Status': 'Enabled'}
    )
    # An old chain, what was left of a backup, and an upload that is open.
    old, dead = f'tar/{HOST}_bk/900000000/0_900000000', f'tar/{HOST}_bk/9/0_9'
    place.put(f'data/{old}/data', b'old')
    place.put(f'metadata/{old}/metadata', b'{"engine_name": "tar"}')
    place.put(f'data/{dead}/data', b'dead')
    place.put(f'data/{dead}/claim', b'{}')
    key = f'{place.prefix}/data/{dead}/segments/00000001'
    where = {'Bucket': place.bucket, 'Key': key}
    upload = client.create_multipart_upload(**where)['UploadId']
    client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b'part')


def _fails_halfway(ceph: servers.CephRGW, limited: Agent, folder: Path) -> None:
    large = folder / 'large'
    large.write_bytes(bytes(2 * PART))
    with Proxy(ceph.endpoint) as proxy:
        proxy.answer(lambda request: request.completes, DENIED)
        failing = limited.told('--backup-name', 'failing', ENDPOINT=proxy.endpoint)
        assert failing.backup(large).code == 1


def _check_done(
    ceph: servers.CephRGW,
    place: S3Store,
    limited: Agent,
    source: Path,
    folder: Path,
    title: str,
) -> None:
    """What the job was for was done, and nothing else can be."""
    if title == 'Admin':
        found = ceph.client().list_object_versions(Bucket=place.bucket)
        assert found.get('Versions', []) == []
        assert found.get('DeleteMarkers', []) == []
        assert place.open_uploads() == []
        return
    if title == 'Restore only':
        assert missed(trees.describe(source), folder / 'target') == []
        assert 's3:PutObject' in limited.backup(source).error
        return
    _fails_halfway(ceph, limited, folder)
    assert place.open_uploads() == []
    # What is there stays, whatever these keys try.
    before = place.sizes()
    assert limited.run('admin', '--remove-before-date', '2100-01-01T00:00:00').code == 1
    assert place.sizes() == before
    allow(ceph, place, policies()['Restore only'])
    assert_restores(limited, source, folder / 'target')
