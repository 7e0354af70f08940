"""The backend that several schedulers share, by tooz: locks, and a group of members.

Each member publishes a small document with its membership, which is gone when the
member has been dead for the lifetime. One thread uses it.
"""

import contextlib
import importlib
import logging
import os
import socket
import urllib.parse
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler import private

LOG = logging.getLogger(__name__)

#: seconds that a lock outlives its last renewal, unless the URL says otherwise
LIFETIME = 60
_SHORTEST_LIFETIME = 5
# Seconds that one request to a server may take.
_REQUEST_SECONDS = 10
# Scheme of the URL -> option that is the lifetime. lock_timeout for any other scheme.
_LIFETIME_OPTIONS = {'file': 'timeout', 'kazoo': 'timeout', 'zookeeper': 'timeout'}
# Attributes of tooz's lock of etcd, which its public methods do not replace.
_ETCD_LOCK = ('_lease', '_key', '_uuid')
# Scheme of the URL -> the package that its driver needs, and the usual port.
_DRIVERS = {
    'redis': ('redis', 6379),
    'etcd3+http': ('etcd3gw', 2379),
    'etcd3+https': ('etcd3gw', 2379),
    'memcached': ('pymemcache', 11211),
    'kazoo': ('kazoo', 2181),
    'zookeeper': ('kazoo', 2181),
    'file': ('fasteners', 0),
}


class BackendError(FreezerError):
    """The backend is unavailable, or refused a request."""


def lifetime(url: str) -> int:
    """The seconds that a lock outlives its last renewal.

    :raises ConfigError: the URL is malformed, or its scheme is not supported
    """
    scheme, found, _ = url.partition('://')
    if not found or scheme not in _DRIVERS:
        raise ConfigError(
            '[coordination] backend-url must begin with one of '
            f'{", ".join(f"{scheme}://" for scheme in _DRIVERS)}'
        )
    try:
        parsed = urllib.parse.urlsplit(url)
        _address(url)
    except ValueError:
        # The error may have part of a password.
        raise ConfigError(
            '[coordination] backend-url: host or port is malformed'
        ) from None
    if parsed.scheme == 'file' and (parsed.netloc or parsed.path in ('', '/')):
        raise ConfigError('[coordination] backend-url: write file:///DIRECTORY')
    option = _LIFETIME_OPTIONS.get(parsed.scheme, 'lock_timeout')
    given = urllib.parse.parse_qs(parsed.query).get(option, [str(LIFETIME)])[-1]
    if not given.isdecimal() or int(given) < _SHORTEST_LIFETIME:
        raise ConfigError(
            f'[coordination] backend-url: {option} must be a number of seconds, at '
            f'least {_SHORTEST_LIFETIME}'
        )
    return int(given)


def check(url: str) -> None:
    """:raises ConfigError: see :func:`lifetime`; or a package is not installed, or the
    directory is not private"""
    lifetime(url)
    scheme = urllib.parse.urlsplit(url).scheme
    for package in ('tooz', _DRIVERS[scheme][0]):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f'[coordination] needs {package}, which is not installed: pip install '
                f"'freezer[coordination]'"
            ) from error
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise ConfigError('[coordination] needs Linux 5.3 or later') from error
    directory = _directory(url)
    if directory is not None:
        private.directory(directory)


def _directory(url: str) -> Path | None:
    """That of driver file."""
    parsed = urllib.parse.urlsplit(url)
    return Path(parsed.path) if parsed.scheme == 'file' else None


def _address(url: str) -> tuple[str, int] | None:
    """Of the server; None for several, and for files."""
    parsed = urllib.parse.urlsplit(url)
    if not parsed.netloc or ',' in parsed.netloc:
        return None
    return parsed.hostname or 'localhost', parsed.port or _DRIVERS[parsed.scheme][1]


@contextlib.contextmanager
def _errors(directory: Path | None = None) -> Iterator[None]:
    """The drivers let errors of their client libraries through.

    :param directory: must exist: driver file would create another one, where nobody
        else looks
    """
    try:
        if directory is not None and not directory.is_dir():
            raise FileNotFoundError(f'{directory} does not exist')
        yield
    except Exception as error:
        text = ' '.join(str(error).split()) or type(error).__name__
        raise BackendError(f'coordination backend: {text}') from error


class Backend:
    """A connection. Lost ones are replaced by a new object.

    :param member: unique among all processes
    :param group: of the schedulers that share jobs
    :raises BackendError: it is unavailable
    """

    def __init__(self, url: str, member: str, group: str) -> None:
        # Part of the extra [coordination].
        self._api: Any = importlib.import_module('tooz.coordination')
        self._not_implemented = importlib.import_module('tooz').NotImplemented
        self._directory = _directory(url)
        self._member, self._group = member.encode(), group.encode()
        parsed = urllib.parse.urlsplit(url)
        seconds = lifetime(url)
        self._is_etcd = parsed.scheme.startswith('etcd3')
        self._seconds = min(_REQUEST_SECONDS, seconds // 3)
        options = {_LIFETIME_OPTIONS.get(parsed.scheme, 'lock_timeout'): seconds}
        if 'lock_timeout' in options:
            options['membership_timeout'] = seconds
            options['timeout'] = self._seconds
        # Options of the call have precedence over those in the URL.
        given = urllib.parse.parse_qs(parsed.query)
        options = {key: value for key, value in options.items() if key not in given}
        self._address = _address(url)
        self.ping()
        with _errors(self._directory):
            self._coordinator = self._api.get_coordinator(url, self._member, **options)
            self._coordinator.start()
        self._join({})

    def ping(self) -> None:
        """Connect to the server: the drivers may retry for minutes if it is away."""
        if self._address is not None:
            try:
                socket.create_connection(self._address, self._seconds).close()
            except OSError as error:
                host, port = self._address
                raise BackendError(
                    f'coordination backend: {host}:{port}: {error.strerror or error}'
                ) from error

    def _join(self, document: dict[str, Any]) -> None:
        with _errors(self._directory):
            with contextlib.suppress(self._api.GroupAlreadyExist):
                self._coordinator.create_group(self._group).get()
            with contextlib.suppress(self._api.MemberAlreadyExist):
                self._coordinator.join_group(self._group, document).get()

    def close(self) -> None:
        """Leave the group."""
        with _errors(self._directory):
            with contextlib.suppress(self._api.MemberNotJoined):
                self._coordinator.leave_group(self._group).get()
            self._coordinator.stop()

    # -- Members ----------------------------------------------------------------------

    def beat(self) -> None:
        """Renew the membership."""
        with _errors(self._directory):
            self._coordinator.heartbeat()

    def publish(self, document: dict[str, Any]) -> None:
        """Replace this member's document."""
        with _errors(self._directory):
            try:
                self._coordinator.update_capabilities(self._group, document).get()
                return
            except (self._api.MemberNotJoined, self._api.GroupNotCreated):
                pass
            except (NotImplementedError, self._not_implemented):
                # Driver file.
                with contextlib.suppress(self._api.MemberNotJoined):
                    self._coordinator.leave_group(self._group).get()
        self._join(document)

    def members(self) -> dict[str, dict[str, Any]]:
        """The document of each live member."""
        found = {}
        with _errors(self._directory):
            for member in self._coordinator.get_members(self._group).get():
                request = self._coordinator.get_member_capabilities
                with contextlib.suppress(self._api.MemberNotJoined):
                    document = request(self._group, member).get()
                    name = member.decode() if isinstance(member, bytes) else member
                    found[name] = document if isinstance(document, dict) else {}
        return found

    # -- Locks ------------------------------------------------------------------------

    def lock(self, name: str) -> Any:
        """The lock, acquired; None if another member holds it."""
        with _errors(self._directory):
            lock = self._coordinator.get_lock(name.encode())
            if not lock.acquire(blocking=False):
                return None
            if self._is_etcd and not all(hasattr(lock, each) for each in _ETCD_LOCK):
                lock.release()
                raise NotImplementedError(
                    'this version of tooz is not supported with etcd; use 6 to 9, or '
                    'another backend'
                )
            return lock

    def renew(self, lock: Any) -> bool:
        """False if the lock is lost.

        :raises BackendError: that is unknown
        """
        with _errors(self._directory):
            try:
                if self._is_etcd:
                    # etcd: heartbeat() ignores the answer, and no method compares the
                    # value.
                    values = self._coordinator.client.get(lock._key.decode())
                    ours = any(
                        b64encode(each).decode() == lock._uuid for each in values
                    )
                    return ours and bool(lock._lease.refresh() >= 0)
                renew = getattr(lock, 'heartbeat', None)
                return (renew is None or bool(renew())) and bool(lock.is_still_owner())
            except self._api.ToozConnectionError:
                raise
            except self._api.OperationTimedOut:
                raise
            except self._api.ToozError:
                # redis: it belongs to nobody, or to another one.
                return False

    def release(self, lock: Any) -> None:
        """It may be lost already."""
        with _errors(self._directory):
            lock.release()
