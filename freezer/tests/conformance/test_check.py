"""The check of a storage: what it says is so, and nothing of it remains."""

import base64
import contextlib
import datetime
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from freezer.storage import exceptions as e
from freezer.storage import path_probes
from freezer.storage._s3.check import run
from freezer.storage.base import Storage
from freezer.storage.check import Finding, Probe, Result
from freezer.storage.ftp import check as ftp_check
from freezer.storage.local import check as local_check
from freezer.storage.local.storage import LocalStorage
from freezer.storage.repository import Repository
from freezer.storage.ssh import check as ssh_check
from freezer.tests import servers
from freezer.tests.conformance.checks import (
    asks_conditional_writes,
    buckets,
    check,
    names,
    problems,
    row,
)
from freezer.tests.conformance.places import (
    PART,
    FtpPlace,
    LocalPlace,
    S3Place,
    SshPlace,
    new_s3_place,
)
from freezer.tests.conformance.variants import Way
from freezer.tests.conftest import on_servers
from freezer.tests.servers.ftpd import Vsftpd
from freezer.tests.servers.sshd import Sshd
from freezer.utils.signals import Interrupted

OK, NOTE, PROBLEM = Result.OK, Result.NOTE, Result.PROBLEM
# moto, in one Python process, takes a minute for what the others do in seconds.
ON_EACH = on_servers(
    lambda kind: kind.name != 'moto' or bool(os.environ.get('FREEZER_TEST_THOROUGH'))
)
WITH_LOCKS = on_servers(lambda kind: kind.properties.object_lock)


# S3


@pytest.fixture
def place(s3_server: servers.Server, way: Way) -> Iterator[S3Place]:
    """One whose bucket is there."""
    place = new_s3_place(s3_server, way)
    s3_server.client().create_bucket(Bucket=place.bucket)
    yield place
    place.remove()


def versions(place: S3Place) -> list[str]:
    """The keys of all versions and delete markers."""
    answer = place.server.client().list_object_versions(Bucket=place.bucket)
    kinds = answer.get('Versions', []), answer.get('DeleteMarkers', [])
    return [item['Key'] for kind in kinds for item in kind]


ALL_ROWS = [
    'connection',
    'bucket',
    *(probe.name for probe in run.BEFORE_WRITING),
    'write',
    *(probe.name for probe in run.PROBES if probe.name != 'locked'),
    'clean-up',
]


@ON_EACH
class TestS3:
    def test_backups_can_be_made_and_nothing_remains(self, place: S3Place) -> None:
        place.write('before', b'content')
        report = check(place)
        assert problems(report) == []
        assert names(report) == ALL_ROWS
        assert row(report, 'clean-up').result is OK
        assert place.files() == {'before': 7}
        assert place.uploads() == []

    def test_a_bucket_that_is_not_there(self, s3_server: servers.Server) -> None:
        place = new_s3_place(s3_server)
        report = check(place)
        assert problems(report) == []
        assert 'created' in row(report, 'bucket').message
        assert place.bucket not in buckets(s3_server)
        with pytest.raises(e.BucketNotFound, match='s3-create-bucket'):
            check(place, s3_create_bucket=False)
        assert place.bucket not in buckets(s3_server)

    def test_what_it_says_is_so(
        self, place: S3Place, s3_server: servers.Server
    ) -> None:
        """Tried once more, by other means."""
        report = check(place, s3_max_parts=10000)
        client = s3_server.client()
        for name, happens in EXPERIMENTS.items():
            said = row(report, name)
            assert said.value is happens(client, place.bucket), (name, said)
        answer = client.get_bucket_versioning(Bucket=place.bucket)
        assert row(report, 'versioning').value == answer.get('Status', 'off')


def status(act: Callable[..., Any], **arguments: Any) -> int:
    """The HTTP status of the answer."""
    try:
        answer = act(**arguments)
    except botocore.exceptions.ClientError as failure:
        answer = failure.response
    code: int = answer['ResponseMetadata']['HTTPStatusCode']
    return code


def _checks(header: str, digest: Callable[[bytes], bytes]) -> Any:
    """Whether a right checksum is taken, and a wrong one is not."""

    def checks(client: Any, bucket: str) -> bool:
        what = {'Bucket': bucket, 'Key': header, 'Body': b'x'}
        right, wrong = (
            {header: base64.b64encode(digest(of)).decode()} for of in (b'x', b'y')
        )
        taken = status(client.put_object, **what, **right) == 200
        return taken and 400 <= status(client.put_object, **what, **wrong) < 500

    return checks


def _knows_if_none_match(client: Any, bucket: str) -> bool:
    if not asks_conditional_writes(client):
        return False
    what = {'Bucket': bucket, 'Key': 'condition', 'Body': b'x'}
    client.put_object(**what)
    return status(client.put_object, **what, IfNoneMatch='*') == 412


def _knows_if_match(client: Any, bucket: str) -> bool:
    client.put_object(Bucket=bucket, Key='match', Body=b'x')
    what = {'Bucket': bucket, 'Key': 'match', 'IfMatch': '"other"'}
    return status(client.get_object, **what) == 412


def _keeps(name: str) -> Callable[[Any, str], bool]:
    def keeps(client: Any, bucket: str) -> bool:
        if status(client.put_object, Bucket=bucket, Key=name, Body=b'x') != 200:
            return False
        answer = client.list_objects_v2(Bucket=bucket, Prefix='experiment/')
        return name in [item['Key'] for item in answer.get('Contents', ())]

    return keeps


def _takes_unequal_parts(client: Any, bucket: str) -> bool:
    what: dict[str, Any] = {'Bucket': bucket, 'Key': 'unequal'}
    what['UploadId'] = client.create_multipart_upload(**what)['UploadId']
    parts = []
    for number, size in enumerate((PART, PART + 1, 1), 1):
        answer = client.upload_part(**what, PartNumber=number, Body=bytes(size))
        parts.append({'PartNumber': number, 'ETag': answer['ETag']})
    what['MultipartUpload'] = {'Parts': parts}
    return status(client.complete_multipart_upload, **what) == 200


#: name of a row -> whether the store can do what its value says
EXPERIMENTS = {
    'checksum MD5': _checks('ContentMD5', lambda body: hashlib.md5(body).digest()),
    'checksum CRC32': _checks(
        'ChecksumCRC32', lambda body: zlib.crc32(body).to_bytes(4, 'big')
    ),
    'conditional write': _knows_if_none_match,
    'conditional read': _knows_if_match,
    'backslash': _keeps('experiment/a\\b'),
    'double slash': _keeps('experiment/a//b'),
    'part sizes': _takes_unequal_parts,
}


@on_servers(lambda kind: kind.properties.versions)
def test_nothing_remains_in_a_bucket_with_versions(
    place: S3Place, s3_server: servers.Server
) -> None:
    client = s3_server.client()
    enabled = {'Status': 'Enabled'}
    client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration=enabled)
    place.write('before', b'content')
    place.delete('before')
    before = versions(place)
    assert len(before) == 2
    report = check(place)
    assert problems(report) == []
    found = row(report, 'versioning')
    assert (found.result, found.value) == (NOTE, 'Enabled')
    assert '--s3-purge-versions' in found.hint
    assert row(report, 'clean-up').result is OK
    assert versions(place) == before
    assert place.uploads() == []


@WITH_LOCKS
def test_nothing_remains_in_a_bucket_that_locks(s3_server: servers.Server) -> None:
    place = new_s3_place(s3_server)
    client = s3_server.client()
    client.create_bucket(Bucket=place.bucket, ObjectLockEnabledForBucket=True)
    retention = {'Mode': 'COMPLIANCE', 'Days': 1}
    rule = {'DefaultRetention': retention}
    client.put_object_lock_configuration(
        Bucket=place.bucket,
        ObjectLockConfiguration={'ObjectLockEnabled': 'Enabled', 'Rule': rule},
    )
    report = check(place, s3_legal_hold=True)
    assert problems(report) == []
    assert row(report, 'object lock').value == 'COMPLIANCE'
    assert 'not tried' in row(report, 'two-part upload').message
    assert row(report, 'clean-up').result is OK
    assert versions(place) == []
    assert place.uploads() == []


LOCKS = {'s3_object_lock_mode': 'COMPLIANCE', 's3_object_lock_days': 3}


@WITH_LOCKS
def test_locks_that_are_asked_for(s3_server: servers.Server) -> None:
    place = new_s3_place(s3_server)
    report = check(place, **LOCKS, s3_legal_hold=True)
    assert problems(report) == []
    found = row(report, 'locked')
    later = ', and uploads once they are completed'
    assert found.message.endswith(later) is not _locks_uploads(s3_server)
    assert row(report, 'clean-up').result is OK
    assert place.bucket not in buckets(s3_server)


def _locks_uploads(server: servers.Server) -> bool:
    """Whether an upload gets the lock that was asked for at its start (not on Ceph)."""
    client = server.client()
    where = {'Bucket': f'{server.make_bucket()}-lock', 'Key': 'locked'}
    client.create_bucket(Bucket=where['Bucket'], ObjectLockEnabledForBucket=True)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
    lock = {'ObjectLockMode': 'GOVERNANCE', 'ObjectLockRetainUntilDate': soon}
    upload_id = client.create_multipart_upload(**where, **lock)['UploadId']
    upload = where | {'UploadId': upload_id}
    etag = client.upload_part(**upload, PartNumber=1, Body=b'x')['ETag']
    parts = {'Parts': [{'PartNumber': 1, 'ETag': etag}]}
    client.complete_multipart_upload(**upload, MultipartUpload=parts)
    return status(client.get_object_retention, **where) == 200


@WITH_LOCKS
def test_a_bucket_that_cannot_lock(s3_server: servers.Server) -> None:
    place = new_s3_place(s3_server)
    s3_server.client().create_bucket(Bucket=place.bucket)
    with pytest.raises(e.StorageConfigError, match='has no object lock'):
        check(place, **LOCKS)
    assert place.files() == {}


# Directories


class TestLocal:
    @pytest.fixture
    def local(self, tmp_path: Path) -> LocalPlace:
        return LocalPlace(tmp_path / 'not' / 'there')

    def test_backups_can_be_made_and_nothing_remains(self, local: LocalPlace) -> None:
        local.write('before', b'content')
        report = local.storage().check()
        assert problems(report) == []
        probed = [probe.name for probe in local_check.PROBES]
        assert names(report) == ['directory', 'write', *probed, 'clean-up']
        assert [path.name for path in local.root.rglob('*')] == ['before']

    def test_a_directory_that_is_not_there(self, local: LocalPlace) -> None:
        report = local.storage().check()
        assert problems(report) == []
        assert 'created' in row(report, 'directory').message
        assert not local.root.parent.exists()

    def test_where_nothing_can_be_written(self) -> None:
        storage = LocalStorage('/proc/nowhere', PART, skip_prepare=True)
        with pytest.raises(e.StorageException, match='/proc/nowhere'):
            storage.check()

    def test_nothing_remains_of_a_check_that_is_interrupted(
        self, local: LocalPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_scratch: Any) -> Finding:
            assert local.files()
            raise Interrupted(15)

        monkeypatch.setattr(local_check, 'PROBES', [Probe('read', interrupt)])
        with pytest.raises(Interrupted):
            local.storage().check()
        assert not local.root.parent.exists()


class TestSsh:
    @pytest.fixture
    def ssh(self, sshd: Sshd, tmp_path: Path) -> SshPlace:
        return SshPlace(sshd, tmp_path / 'not' / 'there')

    def test_backups_can_be_made_and_nothing_remains(self, ssh: SshPlace) -> None:
        ssh.write('before', b'content')
        with contextlib.closing(ssh.storage()) as storage:
            report = storage.check()
        assert problems(report) == []
        probed = [probe.name for probe in ssh_check.PROBES]
        rows = ['host key', 'directory', 'write', *probed, 'clean-up']
        assert names(report) == rows
        assert [path.name for path in ssh.root.rglob('*')] == ['before']
        fingerprint = ssh.server.fingerprint()
        assert row(report, 'host key').value == f'ssh-ed25519 {fingerprint}'

    def test_a_directory_that_is_not_there(self, ssh: SshPlace) -> None:
        with contextlib.closing(ssh.storage()) as storage:
            report = storage.check()
        assert problems(report) == []
        assert 'created' in row(report, 'directory').message
        assert not ssh.root.parent.exists()

    def test_nothing_remains_of_a_check_that_is_interrupted(
        self, ssh: SshPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_scratch: Any) -> Finding:
            assert ssh.files()
            raise Interrupted(15)

        monkeypatch.setattr(ssh_check, 'PROBES', [Probe('read', interrupt)])
        with contextlib.closing(ssh.storage()) as storage:
            with pytest.raises(Interrupted):
                storage.check()
        assert not ssh.root.parent.exists()


class TestFtp:
    @pytest.fixture
    def ftp(self, vsftpd_tls: Vsftpd, tmp_path: Path) -> FtpPlace:
        return FtpPlace(vsftpd_tls, tmp_path / 'not' / 'there')

    def test_backups_can_be_made_and_nothing_remains(self, ftp: FtpPlace) -> None:
        ftp.write('before', b'content')
        with contextlib.closing(ftp.storage()) as storage:
            report = storage.check()
        assert problems(report) == []
        probed = [probe.name for probe in ftp_check.PROBES]
        assert names(report) == [
            *('encryption', 'directory', 'write'),
            *probed,
            'clean-up',
        ]
        assert [path.name for path in ftp.root.rglob('*')] == ['before']
        assert str(row(report, 'encryption').value).startswith('TLSv1')

    def test_a_directory_that_is_not_there(self, ftp: FtpPlace) -> None:
        with contextlib.closing(ftp.storage()) as storage:
            report = storage.check()
        assert problems(report) == []
        assert 'created' in row(report, 'directory').message
        assert not ftp.root.parent.exists()

    def test_nothing_remains_of_a_check_that_is_interrupted(
        self, ftp: FtpPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_scratch: Any) -> Finding:
            assert ftp.files()
            raise Interrupted(15)

        monkeypatch.setattr(ftp_check, 'PROBES', [Probe('read', interrupt)])
        with contextlib.closing(ftp.storage()) as storage:
            with pytest.raises(Interrupted):
                storage.check()
        assert not ftp.root.parent.exists()


class Faulty(LocalStorage):
    """A file system that errs in all ways that a verb shows."""

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        return super().read_file(path, limit)[1:]

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        # The probe of deletions asks for a listing: that one is right.
        if path.endswith('/deleted'):
            yield from super().list_tree(path)

    def write_file(self, path: str, content: bytes) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # In place, and for everybody.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, content, 0)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)

    def delete_files(self, paths: Any) -> None:
        pass


class TestLocalFaults:
    @pytest.mark.parametrize(
        'name', ['read', 'list', 'rename', 'delete', 'permissions']
    )
    def test_verbs(self, name: str, tmp_path: Path) -> None:
        report = Faulty(str(tmp_path), PART, skip_prepare=True).check()
        result = NOTE if name == 'permissions' else PROBLEM
        assert row(report, name).result is result
        assert list(tmp_path.iterdir()) == []

    def test_places_are_not_exclusive(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = os.mkdir

        def make_again(path: str, mode: int = 0o777) -> None:
            if not os.path.isdir(path):
                make(path, mode)

        monkeypatch.setattr(os, 'mkdir', make_again)
        report = LocalPlace(tmp_path).storage().check()
        assert row(report, 'exclusive').result is PROBLEM

    def test_limits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(path_probes, '_SLOW_SYNC_SECONDS', 0.0)
        monkeypatch.setattr(path_probes, '_LITTLE_SPACE', 2**60)
        monkeypatch.setattr(os, 'pathconf', lambda *_: 143)
        report = LocalPlace(tmp_path).storage().check()
        assert problems(report) == []
        for name in ('sync', 'space', 'long names'):
            assert row(report, name).result is NOTE
        assert row(report, 'long names').value == 143

    def test_names_of_one_case(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = os.mkdir

        def fold(path: str, mode: int = 0o777) -> None:
            folder, name = os.path.split(path)
            make(os.path.join(folder, name.lower()), mode)

        monkeypatch.setattr(os, 'mkdir', fold)
        report = LocalPlace(tmp_path).storage().check()
        found = row(report, 'odd names')
        assert (found.result, found.message) == (NOTE, 'not kept: upper and lower case')


# Several


def test_each_member_has_rows(tmp_path: Path) -> None:
    members: dict[str, Storage] = {
        'first': LocalPlace(tmp_path / 'a').storage(),
        'broken': LocalStorage('/proc/nowhere', PART, skip_prepare=True),
        'last': LocalPlace(tmp_path / 'b').storage(),
    }
    report = Repository(members).check()
    rows = {
        name: [row for row in report.rows if row.storage == name] for name in members
    }
    assert sum(map(len, rows.values())) == len(report.rows)
    assert len(rows['first']) == len(rows['last']) > 10
    (broken,) = rows['broken']
    assert report.problems == [broken]
    assert '/proc/nowhere' in broken.finding.message


def test_a_row_of_its_own_for_each_thing() -> None:
    """Names tell rows apart, for programs too."""
    assert len(set(ALL_ROWS)) == len(ALL_ROWS)
    local = [probe.name for probe in local_check.PROBES]
    assert len(set(local)) == len(local)
