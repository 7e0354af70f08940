"""The S3 servers themselves: what the other tests take for granted about them."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import botocore.exceptions
import pytest

from freezer.tests import servers
from freezer.tests.conftest import HEAVY, on_servers

CHECKS_KEYS = on_servers(lambda kind: kind.properties.checks_keys)
KNOWS_PERMISSIONS = on_servers(lambda kind: kind.readonly_access_key)


def error_code(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    assert isinstance(excinfo.value, botocore.exceptions.ClientError)
    code: str = excinfo.value.response['Error']['Code']
    return code


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process; a zombie that nobody has reaped counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_objects(s3_server: servers.Server) -> None:
    bucket = s3_server.make_bucket()
    assert s3_server.keys(bucket) == {}
    s3_server.put(bucket, 'a/b', b'content')
    s3_server.put(bucket, 'c', b'')
    assert s3_server.get(bucket, 'a/b') == b'content'
    assert s3_server.keys(bucket) == {'a/b': 7, 'c': 0}
    assert s3_server.keys(bucket, 'a/') == {'a/b': 7}
    s3_server.delete(bucket, 'a/b')
    assert s3_server.keys(bucket) == {'c': 0}


def test_keys_of_all_pages(seaweedfs: servers.SeaweedFS) -> None:
    bucket = seaweedfs.make_bucket()
    for number in range(1003):
        seaweedfs.put(bucket, f'{number}', b'')
    assert len(seaweedfs.keys(bucket)) == 1003


def test_multipart(s3_server: servers.Server) -> None:
    bucket = s3_server.make_bucket()
    client = s3_server.client()
    content = os.urandom(5 << 20), b'the end'
    what = {'Bucket': bucket, 'Key': 'big'}
    upload = what | {'UploadId': client.create_multipart_upload(**what)['UploadId']}
    assert s3_server.uploads(bucket) == [('big', upload['UploadId'])]
    parts = []
    for number, body in enumerate(content, 1):
        answer = client.upload_part(**upload, PartNumber=number, Body=body)
        parts.append({'PartNumber': number, 'ETag': answer['ETag']})
    assert s3_server.keys(bucket) == {}
    client.complete_multipart_upload(**upload, MultipartUpload={'Parts': parts})
    assert s3_server.uploads(bucket) == []
    assert s3_server.get(bucket, 'big') == b''.join(content)


@CHECKS_KEYS
def test_wrong_keys_are_refused(s3_server: servers.Server) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as excinfo:
        s3_server.client(secret_key='wrong').list_buckets()
    assert error_code(excinfo) == 'SignatureDoesNotMatch'
    with pytest.raises(botocore.exceptions.ClientError) as excinfo:
        s3_server.client(access_key='wrong').list_buckets()
    assert error_code(excinfo) == s3_server.properties.unknown_key


@KNOWS_PERMISSIONS
def test_readonly_user_reads_and_does_not_write(s3_server: servers.Server) -> None:
    bucket = s3_server.make_bucket()
    s3_server.put(bucket, 'key', b'content')
    reader = s3_server.client(
        s3_server.readonly_access_key, s3_server.readonly_secret_key
    )
    assert reader.get_object(Bucket=bucket, Key='key')['Body'].read() == b'content'
    assert reader.list_objects_v2(Bucket=bucket)['KeyCount'] == 1
    for operation, arguments in (
        ('put_object', {'Bucket': bucket, 'Key': 'key', 'Body': b'other'}),
        ('create_multipart_upload', {'Bucket': bucket, 'Key': 'key'}),
        ('delete_object', {'Bucket': bucket, 'Key': 'key'}),
        ('create_bucket', {'Bucket': f'{bucket}-other'}),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as excinfo:
            getattr(reader, operation)(**arguments)
        assert error_code(excinfo) == 'AccessDenied', operation
    assert s3_server.get(bucket, 'key') == b'content'


def test_no_bucket_appears_or_vanishes_by_itself(s3_server: servers.Server) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as excinfo:
        s3_server.put('no-such-bucket', 'key', b'content')
    assert error_code(excinfo) == 'NoSuchBucket'
    bucket = s3_server.make_bucket()
    s3_server.put(bucket, 'key', b'content')
    with pytest.raises(botocore.exceptions.ClientError) as excinfo:
        s3_server.client().delete_bucket(Bucket=bucket)
    assert error_code(excinfo) == 'BucketNotEmpty'


@pytest.mark.parametrize('s3_server', ['seaweedfs', 'moto'], indirect=True)
def test_kill_and_restart_keep_data(s3_server: servers.Server) -> None:
    endpoint = s3_server.endpoint
    bucket = s3_server.make_bucket()
    s3_server.put(bucket, 'before', b'content')
    upload = s3_server.client().create_multipart_upload(Bucket=bucket, Key='open')
    s3_server.kill()
    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        s3_server.client().list_buckets()
    s3_server.restart()
    assert s3_server.endpoint == endpoint
    s3_server.put(bucket, 'after', b'more')
    assert s3_server.keys(bucket) == {'before': 7, 'after': 4}
    assert s3_server.get(bucket, 'before') == b'content'
    assert s3_server.uploads(bucket) == [('open', upload['UploadId'])]


def test_two_side_by_side_and_nothing_left(seaweedfs: servers.SeaweedFS) -> None:
    bucket = seaweedfs.make_bucket()
    with servers.SeaweedFS() as other:
        assert other.endpoint != seaweedfs.endpoint
        assert other.client().list_buckets()['Buckets'] == []
        other.put(other.make_bucket(), 'key', b'content')
        pids, directory = other.pids, other.directory
        assert len(pids) == 3
    assert not any(map(is_alive, pids))
    assert not directory.exists()
    assert seaweedfs.keys(bucket) == {}
    # It can be started again: afresh, since stop() took the data.
    with other:
        assert other.client().list_buckets()['Buckets'] == []


@pytest.mark.parametrize(
    's3_server, processes',
    [('ceph', 3), ('rclone', 1), ('swift', 5)],
    indirect=['s3_server'],
)
def test_restart_and_nothing_left(
    s3_server: servers.Server, processes: int, tmp_path: Path
) -> None:
    kind = type(s3_server)
    assert issubclass(kind, servers.ProcessServer)
    with kind(tmp_path) as other:
        assert other.endpoint != s3_server.endpoint
        bucket = other.make_bucket()
        other.put(bucket, 'key', b'content')
        pids = other.pids
        assert len(pids) == processes
        assert other.directory.parent == tmp_path
        other.restart()
        assert not any(map(is_alive, pids))
        assert other.get(bucket, 'key') == b'content'
        pids = other.pids
    assert not any(map(is_alive, pids))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', HEAVY)
def test_tests_on_a_heavy_server_share_a_worker(
    request: pytest.FixtureRequest, name: str
) -> None:
    ids = [
        item.nodeid for item in request.session.items if item.get_closest_marker(name)
    ]
    if getattr(request.config.option, 'loadgroup', False):
        assert all(each.endswith(f'@{name}') for each in ids)


def test_version(s3_server: servers.Server) -> None:
    assert re.fullmatch(r'\d+(\.\d+)+', s3_server.version())


class Dying(servers.ProcessServer):
    """Comes up with one process that lives and one that does not."""

    name = 'dying'

    def _prepare(self) -> None:
        self.endpoint = 'http://127.0.0.1:9'

    def _launch(self) -> None:
        self.living = self._spawn('living', ['sleep', '600']).pid
        self._spawn('dying', ['sh', '-c', 'echo the reason; sleep 0.2; exit 3'])


def test_failed_start_shows_logs_and_leaves_nothing(tmp_path: Path) -> None:
    server = Dying(tmp_path)
    with pytest.raises(servers.StartError, match=r'(?s)exited with 3.*the reason'):
        server.start()
    assert not is_alive(server.living)
    assert list(tmp_path.iterdir()) == []


def run_until_killed(program: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


START_AND_DIE = """
    import os, signal, sys, threading
    from pathlib import Path
    from freezer.tests.servers import ProcessServer

    class Sleeping(ProcessServer):
        name = 'sleeping'
        def _prepare(self): pass
        def _launch(self): self._spawn('sleep', ['sleep', '600'])
        def _answers(self): return True

    server = Sleeping(Path(sys.argv[1]))
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    server._tend()  # outlives the thread that started it
    print(*server.pids, flush=True)
"""


def test_sigkill_of_the_tests_takes_the_servers_along(tmp_path: Path) -> None:
    program = START_AND_DIE + '    os.kill(os.getpid(), signal.SIGKILL)\n'
    ended = run_until_killed(program, tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    deadline = time.monotonic() + 10
    while any(is_alive(int(pid)) for pid in ended.stdout.split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Its directory could not be removed. The next one to use the place does that,
    # but not with directories in use.
    (left,) = tmp_path.iterdir()
    first, second = Sleeping(tmp_path), Sleeping(tmp_path)
    with first, second:
        assert {*tmp_path.iterdir()} == {first.directory, second.directory}
        assert left not in tmp_path.iterdir()


class Sleeping(Dying):
    """Comes up."""

    name = 'sleeping'

    def _launch(self) -> None:
        self._spawn('sleep', ['sleep', '600'])

    def _answers(self) -> bool:
        return True


def test_exit_without_stop_leaves_nothing(tmp_path: Path) -> None:
    ended = run_until_killed(START_AND_DIE, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert not any(is_alive(int(pid)) for pid in ended.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_free_ports() -> None:
    ports = servers.free_ports(20)
    assert len(set(ports)) == 20
    assert all(1024 < port < 32768 - 10000 for port in ports)
