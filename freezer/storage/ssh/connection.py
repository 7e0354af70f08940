"""The connection to an SSH server, for threads; it is made anew when it breaks.

asyncssh runs in an event loop, which has a thread of its own. Other threads submit
coroutines to it, and wait for their results.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncssh

from freezer.storage.exceptions import (
    BadCredentials,
    Cancelled,
    Rejected,
    StorageConfigError,
    StorageException,
    Unreachable,
)
from freezer.storage.ssh.errors import translate
from freezer.storage.ssh.host_keys import HostKeys, known_hosts, untrusted
from freezer.storage.ssh.options import Server, SshOptions

T = TypeVar('T')
Call = Callable[[asyncssh.SFTPClient], Awaitable[T]]

# AES in hardware takes half the processor time of asyncssh's first choice (decision
# 0025).
_ENCRYPTION = '^aes128-gcm@openssh.com,aes256-gcm@openssh.com'
# After the kinds of keys that are known: a server that has only others shows one, and
# is refused with its fingerprint.
_ANY_HOST_KEY = '+ssh-ed25519,ecdsa-sha2-nistp*,rsa-sha2-*'
# The server sends this much before it waits: at 40 ms, 200 MB/s.
_WINDOW = 8 * 2**20
_KEEPALIVES = 3
# Seconds between two looks at whether a wait was cancelled.
_POLL_SECONDS = 0.2
_CLOSE_SECONDS = 5.0

# They log each request, and each piece of data that a broken connection does not take;
# errors reach the user as exceptions.
for _name in ('asyncio', 'asyncssh'):
    logging.getLogger(_name).setLevel(logging.ERROR)


class _EventLoop:
    """An event loop in a thread, until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: no exit waits for a server.
        self._thread = threading.Thread(target=self._run, name='ssh', daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def submit(self, call: Callable[[], Awaitable[T]]) -> 'Submitted[T]':
        async def run() -> T:
            return await call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)


Submitted = concurrent.futures.Future


class Session:
    """One login, and an SFTP session in it; broken once :attr:`is_open` is False."""

    def __init__(self, connections: list[Any], sftp: asyncssh.SFTPClient) -> None:
        self.connections = connections
        self.sftp = sftp
        self.is_open = True

    @property
    def host_key(self) -> str:
        """Algorithm and fingerprint of the server's key."""
        key = self.connections[-1].get_server_host_key()
        return f'{key.get_algorithm()} {key.get_fingerprint()}'


class Connection:
    """Sessions with one server, one after the other. Threads may share it."""

    def __init__(self, options: SshOptions) -> None:
        self.server = options.server
        self._options = options
        self._lock = threading.Lock()
        self._loop: _EventLoop | None = None
        self._session: Session | None = None

    def close(self) -> None:
        """May be called more than once; another call connects again."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            if self._session is not None:
                self._abandon(loop, self._session, politely=True)
            self._session = None
            loop.close()

    def session(self, cancelled: threading.Event | None = None) -> Session:
        """The open session, or a new one.

        :raises StorageException: there is no connection, or no login
        """
        with self._lock:
            if self._session is not None and self._session.is_open:
                return self._session
            if self._loop is None:
                self._loop = _EventLoop()
            opening = self._loop.submit(self._open)
            seconds = self._options.connect_timeout * 2 + 1
            self._session = self._result(
                opening, str(self.server), seconds, cancelled or threading.Event()
            )
            return self._session

    def run(self, call: Call[T], where: str, seconds: float | None = None) -> T:
        """The result of one call in the session.

        :param where: the file that it is about, for errors
        :param seconds: that it may take, if it is more than one request
        """
        session = self.session()
        return self.wait(session, self.submit(session, call), where, seconds=seconds)

    def submit(self, session: Session, call: Call[T]) -> 'Submitted[T]':
        loop = self._loop
        if loop is None or not session.is_open:
            failed: Submitted[T] = Submitted()
            failed.set_exception(asyncssh.ConnectionLost('the connection ended'))
            return failed
        return loop.submit(lambda: call(session.sftp))

    def wait(
        self,
        session: Session,
        submitted: 'Submitted[T]',
        where: str,
        cancelled: threading.Event | None = None,
        seconds: float | None = None,
    ) -> T:
        """The result of a submitted call.

        :raises Unreachable: the session broke, or the server does not answer: then it
            counts as broken
        """
        try:
            return self._result(
                submitted,
                where,
                seconds or self._options.timeout,
                cancelled or threading.Event(),
            )
        except Unreachable:
            self._break(session)
            raise

    def _result(
        self,
        submitted: 'Submitted[T]',
        where: str,
        seconds: float,
        cancelled: threading.Event,
    ) -> T:
        ends = time.monotonic() + seconds
        try:
            while True:
                left = ends - time.monotonic()
                try:
                    return submitted.result(min(_POLL_SECONDS, max(left, 0)))
                except TimeoutError:
                    if submitted.done():
                        # The call's own, or it was done just now.
                        return submitted.result()
                if cancelled.is_set():
                    raise Cancelled(
                        'cancelled because another part of the backup failed'
                    )
                if left <= 0:
                    raise Unreachable(f'{self.server}: no answer in {seconds:.0f} s')
        except concurrent.futures.CancelledError as error:
            raise Unreachable(f'{self.server}: the connection ended') from error
        except Exception as error:
            failure = translate(error, where, str(self.server))
            if failure is error:
                raise
            raise failure from error
        finally:
            # After a time-out, or a signal.
            submitted.cancel()

    def _break(self, session: Session) -> None:
        with self._lock:
            if session.is_open and self._loop is not None:
                self._abandon(self._loop, session)

    def _abandon(
        self, loop: _EventLoop, session: Session, politely: bool = False
    ) -> None:
        session.is_open = False

        async def end() -> None:
            for connection in reversed(session.connections):
                if politely:
                    connection.close()
                else:
                    connection.abort()
            if politely:
                for connection in reversed(session.connections):
                    await asyncio.wait_for(connection.wait_closed(), _CLOSE_SECONDS)

        ending = loop.submit(end)
        if politely:
            with contextlib.suppress(Exception):  # all that is lost is a goodbye
                ending.result(_CLOSE_SECONDS)

    # In the event loop

    async def _open(self) -> Session:
        connections: list[Any] = []
        try:
            if self._options.jump is not None:
                connections.append(await self._log_in(self._options.jump, None))
            tunnel = connections[-1] if connections else None
            connections.append(await self._log_in(self.server, tunnel))
            sftp = await asyncio.wait_for(
                connections[-1].start_sftp_client(path_errors='surrogateescape'),
                self._options.connect_timeout,
            )
        except BaseException:
            for connection in connections:
                connection.abort()
            raise
        return Session(connections, sftp)

    async def _log_in(self, server: Server, tunnel: Any) -> Any:
        options = self._options
        known = known_hosts(options, server)
        keys = HostKeys(server, options.host_key if server == self.server else ())
        given: dict[str, Any] = {}
        if options.key is not None:
            given['client_keys'] = [options.key]
            given['agent_path'] = None
        try:
            return await asyncssh.connect(
                server.host,
                server.port,
                username=server.user,
                tunnel=tunnel,
                # A backup depends on nothing that is not in its own options.
                config=None,
                known_hosts=known,
                server_host_key_algs=_ANY_HOST_KEY,
                client_factory=lambda: keys,
                password=options.password or None,
                passphrase=options.key_passphrase or None,
                encryption_algs=_ENCRYPTION,
                compression_algs=['none'],
                connect_timeout=options.connect_timeout,
                login_timeout=options.connect_timeout,
                keepalive_interval=options.timeout / _KEEPALIVES,
                keepalive_count_max=_KEEPALIVES,
                window=_WINDOW,
                **given,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise untrusted(options, server, keys, known, error.reason) from error
        except asyncssh.PermissionDenied as error:
            raise BadCredentials(self._refused(server, error)) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            key = options.key or 'one of id_ed25519, id_ecdsa, id_rsa in ~/.ssh'
            raise StorageConfigError(
                f'ssh-key {key}: {error}; the passphrase of a key is taken from '
                f'SSH_KEY_PASSPHRASE in the environment'
            ) from error
        except asyncssh.ChannelOpenError as error:
            raise self._not_forwarded(server, error) from error
        except (OSError, asyncssh.Error) as error:
            # The server of this login, which may be the jump host.
            raise translate(error, str(server), str(server)) from error

    def _not_forwarded(
        self, server: Server, error: asyncssh.ChannelOpenError
    ) -> StorageException:
        """Why the jump host makes no connection to the server."""
        text = f'{server} through {self._options.jump}: {error.reason}'
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return Rejected(
                f'{text}; the sshd_config of the jump host needs AllowTcpForwarding yes'
            )
        return Unreachable(text)

    def _refused(self, server: Server, error: asyncssh.PermissionDenied) -> str:
        tried = [
            f'the key {self._options.key}'
            if self._options.key
            else 'the keys of the SSH agent and of ~/.ssh'
        ]
        if self._options.password:
            tried.append('the password')
        return (
            f'{server} does not accept the login with {" or ".join(tried)}: '
            f'{error.reason}; check ssh-username, and ssh-key or ssh-password'
        )
