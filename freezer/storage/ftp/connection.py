"""Connections to an FTP server, for threads: each has one for itself while it works."""

import contextlib
import ftplib
import logging
import ssl
import threading
import time
from collections.abc import Iterator

from freezer.storage.exceptions import StorageConfigError
from freezer.storage.ftp.client import Client, Features
from freezer.storage.ftp.errors import translate
from freezer.storage.ftp.options import FtpOptions
from freezer.storage.paths import NEVER

LOG = logging.getLogger(__name__)

# A server may have ended a connection that was idle for longer.
_FRESH_SECONDS = 15.0


class Connections:
    """Logs in when it must, and keeps connections that are idle.

    :ivar limit: how many may work at the same time for one call
    """

    def __init__(self, options: FtpOptions) -> None:
        self.server = options.server
        self.limit = options.connections
        self._options = options
        self._lock = threading.Lock()
        self._idle: list[tuple[Client, float]] = []
        self._context: ssl.SSLContext | None = None
        self._features: Features | None = None

    def close(self) -> None:
        """May be called more than once; another call connects again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for client, _since in idle:
            client.leave()

    @contextlib.contextmanager
    def use(self, where: str, cancelled: threading.Event = NEVER) -> Iterator[Client]:
        """A connection for some commands.

        :param where: the file that they are about, for errors
        """
        client = self.take(where, cancelled)
        try:
            with self.translated(where):
                yield client
        finally:
            self.give_back(client)

    @contextlib.contextmanager
    def translated(self, where: str) -> Iterator[None]:
        """Errors of FTP and of connections as exceptions of storages."""
        try:
            yield
        except (ftplib.Error, OSError, EOFError) as error:
            raise translate(error, where, self.server) from error

    def take(self, where: str, cancelled: threading.Event = NEVER) -> Client:
        """:raises StorageException: there is no connection, or no login"""
        while True:
            with self._lock:
                client, since = self._idle.pop() if self._idle else (None, 0.0)
            if client is None:
                return self._open(where, cancelled)
            if _is_alive(client, since):
                client.cancelled = cancelled
                return client

    def give_back(self, client: Client) -> None:
        """It is kept if it is fit for other commands."""
        client.cancelled = NEVER
        if client.in_sync:
            with self._lock:
                if len(self._idle) < self._options.connections:
                    self._idle.append((client, time.monotonic()))
                    return
        client.leave()

    def features(self) -> Features:
        if self._features is None:
            with self.use(self.server):
                pass
        assert self._features is not None
        return self._features

    def _open(self, where: str, cancelled: threading.Event) -> Client:
        with self._lock:
            if self._context is None and self._options.secure:
                self._context = _context(self._options)
        client = Client(self._options, self._context)
        client.cancelled = cancelled
        try:
            # The server, not a file.
            with self.translated(self.server):
                client.log_in()
                if self._features is None:
                    self._features = client.features()
        except BaseException:
            client.leave()
            raise
        LOG.debug('logged in to %s for %s', self.server, where)
        return client


def _is_alive(client: Client, since: float) -> bool:
    if time.monotonic() - since < _FRESH_SECONDS:
        return True
    try:
        client.voidcmd('NOOP')
    except (ftplib.Error, OSError, EOFError):
        client.leave()
        return False
    return True


def _context(options: FtpOptions) -> ssl.SSLContext:
    """:raises StorageConfigError: a file holds no certificate, or no key"""
    try:
        context = ssl.create_default_context(cafile=options.ca_bundle)
    except ssl.SSLError as error:
        raise StorageConfigError(
            f'ftp-ca-bundle {options.ca_bundle}: no certificates in PEM format'
        ) from error
    # Python takes a connection that was cut for one that was ended, and so half of a
    # listing for all of it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.certfile:
        try:
            # A passphrase would be asked for on the terminal.
            context.load_cert_chain(
                options.certfile, options.keyfile, password=lambda: ''
            )
        except (ssl.SSLError, ValueError) as error:
            raise StorageConfigError(
                f'ftp-certfile {options.certfile}: not a certificate with its private '
                f'key, unencrypted, in PEM format'
            ) from error
    return context
