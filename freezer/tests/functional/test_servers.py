"""The S3 servers themselves: what the other tests take for granted about them."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import botocore.exceptions
import pytest

from freezer.tests import servers
from freezer.tests.conftest import on_servers

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


def test_objects_and_uploads(s3_server: servers.Server) -> None:
    bucket = s3_server.make_bucket()
    assert s3_server.keys(bucket) == {}
    s3_server.put(bucket, 'a/b', b'content')
    s3_server.put(bucket, 'c', b'')
    assert s3_server.get(bucket, 'a/b') == b'content'
    assert s3_server.keys(bucket) == {'a/b': 7, 'c': 0}
    assert s3_server.keys(bucket, 'a/') == {'a/b': 7}
    s3_server.delete(bucket, 'a/b')
    client = s3_server.client()
    content = os.urandom(5 << 20), b'the end'
    what = {'Bucket': bucket, 'Key': 'big'}
    upload = what | {'UploadId': client.create_multipart_upload(**what)['UploadId']}
    assert s3_server.uploads(bucket) == [('big', upload['UploadId'])]
    parts = []
    for number, body in enumerate(content, 1):
        answer = client.upload_part(**upload, PartNumber=number, Body=body)
        parts.append({'PartNumber': number, 'ETag': answer['ETag']})
    assert s3_server.keys(bucket) == {'c': 0}
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


PROCESSES = {'moto': 0, 'seaweedfs': 3, 'ceph': 3, 'rclone': 1, 'swift': 5}


@pytest.mark.parametrize(
    'name, processes',
    [
        pytest.param(*each, marks=[getattr(pytest.mark, each[0])])
        for each in PROCESSES.items()
    ],
)
def test_restart_keeps_data_and_the_end_leaves_nothing(
    name: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = servers.KINDS[name]
    if not kind.available():
        pytest.skip(f'no {kind.title}')
    assert re.fullmatch(r'\d+(\.\d+)+', kind.version())
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    with kind() as server:
        endpoint = server.endpoint
        bucket = server.make_bucket()
        server.put(bucket, 'key', b'content')
        old = getattr(server, 'pids', [])
        assert len(old) == processes
        server.kill()
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            server.client().list_buckets()
        server.restart()
        assert server.endpoint == endpoint
        assert server.get(bucket, 'key') == b'content'
        pids = old + getattr(server, 'pids', [])
    assert not any(map(is_alive, pids))
    assert list(tmp_path.iterdir()) == []


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


START_AND_DIE = """
    import os, signal, sys, threading
    from pathlib import Path
    from freezer.tests.servers import ProcessServer

    class Sleeping(ProcessServer):
        name = 'dying'
        def _prepare(self): pass
        def _launch(self): self._spawn('sleep', ['sleep', '600'])
        def _answers(self): return True

    server = Sleeping(Path(sys.argv[1]))
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    server._tend()  # outlives the thread that started it
    print(*server.pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_of_the_tests_takes_the_servers_along(tmp_path: Path) -> None:
    program = [sys.executable, '-c', textwrap.dedent(START_AND_DIE), str(tmp_path)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    deadline = time.monotonic() + 10
    while any(is_alive(int(pid)) for pid in ended.stdout.split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The next server to use the place removes its directory.
    (left,) = tmp_path.iterdir()
    with pytest.raises(servers.StartError):
        Dying(tmp_path).start()
    assert not left.exists()
