"""What the S3 servers have in common: the contract, processes, ports."""

import abc
import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import itertools
import os
import random
import re
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

REGION = 'us-east-1'
# Below it the servers take a host name's first label for the bucket. There is no such
# domain: a ``proxy.ForwardProxy`` leads there.
DOMAIN = 's3.test'

# A server's children find nothing of the caller's: SeaweedFS takes AWS_ACCESS_KEY_ID
# from the environment for one more administrator, Ceph takes options from CEPH_ARGS.
_PASSED_ON = ('PATH', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'TZ')

# A program that is run by this dies with the process that started it.
_DIE_WITH_US = ('setpriv', '--pdeathsig', 'KILL')

# The kernel sends that signal when the *thread* that started the child ends, and a test
# may well restart a server from a thread of its own. So one thread starts them all.
_spawner = concurrent.futures.ThreadPoolExecutor(1, 'servers')
_running: 'weakref.WeakSet[Server]' = weakref.WeakSet()


_START_ATTEMPTS = 3


class StartError(Exception):
    """A server did not come up. The message ends with the tails of its logs."""


@dataclasses.dataclass(frozen=True)
class Properties:
    """What a server does, as far as servers differ in it and a test has to know.

    The defaults are what AWS does. Tests ask these, and never a server's name.

    :param checks_keys: refuses requests that are signed with other keys
    :param unknown_key: the error code for an access key that nobody has
    :param conditional_put: PutObject with If-None-Match loses to an object
    :param part_limit: the highest number of a part that it takes; None if any
    :param page: objects of one listing, at most
    :param keeps_backslash: it does not take it for a slash
    :param versions: a bucket may keep old versions of its objects
    :param object_lock: a bucket may be made so that it keeps objects from deletion
    :param virtual_hosts: takes a bucket from a host below ``DOMAIN`` as well
    """

    checks_keys: bool = True
    unknown_key: str = 'InvalidAccessKeyId'
    conditional_put: bool = True
    part_limit: int | None = 10000
    page: int = 1000
    keeps_backslash: bool = True
    versions: bool = True
    object_lock: bool = True
    virtual_hosts: bool = True


def _ask_nothing_first(request: Any, **_rest: Any) -> None:
    """Of an object without content an old botocore (1.29) asks SeaweedFS first, and
    takes the permission for the answer; then it waits for the rest of that."""
    request.headers.pop('Expect', None)


class Server(abc.ABC):
    """An S3 server. Start it with ``with`` or :meth:`start`.

    ``readonly_access_key`` and ``readonly_secret_key`` belong to a second user, who may
    list and read the buckets of :meth:`make_bucket` but not write to them. Both are
    empty when the server knows no permissions.
    """

    name: ClassVar[str]
    #: as people know it
    title: ClassVar[str]
    #: how to get it
    source: ClassVar[str]
    properties: ClassVar[Properties] = Properties()
    access_key = 'AKFREEZER'
    secret_key = 'sk/freezer+secret'
    readonly_access_key = ''
    readonly_secret_key = ''

    def __init__(self) -> None:
        self.endpoint = ''

    @classmethod
    @abc.abstractmethod
    def available(cls) -> bool:
        """Tell whether it is installed."""

    @classmethod
    @abc.abstractmethod
    def version(cls) -> str:
        """Return the number of the version that is installed."""

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
            'retries': {'total_max_attempts': 1},
            'proxies': {},  # not those of the environment
        }
        for new in ('request_checksum_calculation', 'response_checksum_validation'):
            if new in botocore.config.Config.OPTION_DEFAULTS:
                settings[new] = 'when_required'
        client = _session().create_client(
            's3',
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=access_key or self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            config=botocore.config.Config(**settings | config),
        )
        client.meta.events.register('before-send.s3', _ask_nothing_first)
        return client

    @functools.cached_property
    def _client(self) -> Any:
        return self.client()

    def make_bucket(self, prefix: str = 'test') -> str:
        """Create a bucket nobody else uses, and return its name."""
        bucket = f'{prefix}-{uuid.uuid4().hex[:12]}'
        self._client.create_bucket(Bucket=bucket)
        return bucket

    def remove_bucket(self, bucket: str) -> None:
        """Delete a bucket with its versions and uploads, if it is there."""
        client = self._client
        with contextlib.suppress(client.exceptions.NoSuchBucket):
            for page in self._pages('list_object_versions', Bucket=bucket):
                for one in page.get('Versions', []) + page.get('DeleteMarkers', []):
                    version = {'Key': one['Key'], 'VersionId': one['VersionId']}
                    client.delete_object(Bucket=bucket, **version)
            for key in self.keys(bucket):
                self.delete(bucket, key)
            for key, upload in self.uploads(bucket):
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            client.delete_bucket(Bucket=bucket)

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

    #: what has to be installed
    programs: ClassVar[tuple[str, ...]]
    #: says its version
    version_command: ClassVar[tuple[str, ...]]
    readonly_access_key = 'AKREADONLY'
    readonly_secret_key = 'sk/readonly+secret'
    start_timeout = 60.0

    def __init__(
        self, parent: Path | None = None, certificate: Path | None = None
    ) -> None:
        """:param certificate: PEM file with a key and its certificate: those that can
        answer at ``secure_endpoint`` too"""
        super().__init__()
        self.secure_endpoint = ''
        self._certificate = certificate
        self._parent = parent or Path(tempfile.gettempdir())
        self._directory: Path | None = None
        self._lock: IO[bytes] | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # The one that may end.
        self._once = ''

    @classmethod
    def available(cls) -> bool:
        return all(which(program) for program in cls.programs)

    @classmethod
    def version(cls) -> str:
        program, *arguments = cls.version_command
        said = subprocess.run(
            [which(program) or program, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        number = re.search(r'\d+(\.\d+)+', said.stdout)
        return number.group() if number else 'unknown'

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
            if process.poll() is not None and name != self._once:
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
        argv = [which(argv[0]) or argv[0], *argv[1:]]
        with (self.directory / 'log' / f'{name}.out').open('ab') as log:
            process = _spawner.submit(
                subprocess.Popen[bytes],
                [*_DIE_WITH_US, *argv],
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
        name = os.path.basename(argv[0])
        self._once = name
        process = self._spawn(name, argv)
        self._wait(lambda: process.poll() is not None, f'end of {name}')
        del self._processes[name]
        if process.returncode:
            raise StartError(f'{argv} exited with {process.returncode}')

    def _wait(self, done: Callable[[], bool], what: str, pause: float = 0.05) -> None:
        """Wait until ``done()``, or raise StartError."""
        deadline = time.monotonic() + self.start_timeout
        while not done():
            self._tend()
            if time.monotonic() > deadline:
                raise StartError(f'no {what} within {self.start_timeout:.0f} s')
            time.sleep(pause)

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


def which(program: str) -> str | None:
    """Return the path of a program. Also found beside a venv's Python."""
    beside = os.path.dirname(sys.executable)
    return shutil.which(program) or shutil.which(program, path=beside)


def free_ports(count: int) -> list[int]:
    """Choose ports that nobody has, nor the port 10000 above each (SeaweedFS's gRPC).

    Both are below the range from which the kernel serves outgoing connections.
    """
    # SystemRandom: test workers often share a seed, and would choose the same ports.
    candidates = random.SystemRandom().sample(range(11000, 22000), 1000)
    usable = (
        p for p in candidates if is_free(p) and is_free(p + 10000) and _reserve(p)
    )
    return list(itertools.islice(usable, count))


# Until a server listens: other workers choose at the same time.
_reserved: collections.deque[socket.socket] = collections.deque()
_MOST_RESERVED = 200


def _reserve(port: int) -> bool:
    """Tell whether no other process of the tests has chosen the port just now."""
    held = socket.socket(socket.AF_UNIX)
    try:
        # A name without a file, which goes with the process.
        held.bind(f'\0freezer-tests-port-{port}')
    except OSError:
        held.close()
        return False
    _reserved.append(held)
    if len(_reserved) > _MOST_RESERVED:
        # Its server listens by now, or has ended.
        _reserved.popleft().close()
    return True


def is_free(port: int) -> bool:
    """Tell whether nobody listens there."""
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
    for held in _reserved:
        held.close()
    for server in list(_running):
        server.stop()
