"""Backups on an FTP server, with TLS (storage ftps) or without (storage ftp)."""

import threading
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, ClassVar, Self

from freezer.storage.backup import Backup, PendingBackup
from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import StorageConfigError, StorageException
from freezer.storage.ftp.options import FtpOptions, directory
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.retry import Retry
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress
from freezer.utils.ranges import Range
from freezer.utils.rate import UNLIMITED, Rate
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.storage.ftp.server import FtpServer

# Seconds for a request while other storages wait; but two repetitions are possible.
_PATIENCE = 60.0


class FtpStorage(RemotePathStorage):
    """A directory of an FTP server.

    :param storage_path: absolute, or relative to the directory in which a login begins
    :param others_wait: whether other storages, with the same backup, wait for this one
    """

    _type = 'ftp'
    needs_utf8: ClassVar[bool] = True
    request_bytes: ClassVar[int] = 256 * 1024
    secure: ClassVar[bool] = False

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        options: FtpOptions,
        progress: Progress | None = None,
        others_wait: Callable[[], bool] = bool,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self.options = options
        self.retry = Retry(
            options.retry_budget, progress=progress, store=options.server
        )
        self._others_wait = others_wait
        self._lazy_server = _LazyServer(options, self.location)
        super().__init__(
            storage_path,
            max_segment_size,
            skip_prepare,
            sending=sending,
            receiving=receiving,
        )

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        needed = {
            'ftp-host': settings.options['ftp_host'],
            'ftp-username': settings.options['ftp_username'],
            'container': settings.container,
        }
        missing = [name for name, value in needed.items() if not value]
        where = f'{settings.section}: ' if settings.name else ''
        if missing:
            flags = ' '.join(f'--{name} …' for name in missing)
            keys = ', '.join(missing).replace('-', '_')
            raise StorageConfigError(
                f'{where}storage {cls._type} needs {", ".join(missing)}: give {flags} '
                f'on the command line, or {keys} in the job file (--config)'
            )
        try:
            return cls(
                directory(settings.container),
                settings.max_segment_size,
                skip_prepare=True,
                options=FtpOptions.parse(
                    settings.options, cls.secure, settings.insecure
                ),
                progress=settings.progress,
                others_wait=settings.others_wait,
                sending=settings.sending,
                receiving=settings.receiving,
            )
        except StorageConfigError as error:
            if not settings.name:
                raise
            raise StorageConfigError(f'{where}{error.message}') from error

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.storage_path} at {self.options.server}>'

    @property
    def endpoint(self) -> str:
        return f'{self._type}://{self.options.server}'

    @property
    def server(self) -> 'FtpServer':
        return self._lazy_server.get()

    def close(self) -> None:
        self._lazy_server.close()

    def location(self, path: str) -> str:
        return f'{self.options.server}:{path}'

    def begin(self, backup: Backup) -> PendingBackup:
        limited = self.limited(_PATIENCE, self._others_wait)
        return super(FtpStorage, limited).begin(backup)

    def upload(
        self, path: str, blocks: Iterable[memoryview], cancelled: threading.Event
    ) -> None:
        from freezer.storage.ftp.transfer import Upload

        where = self.location(path)
        Upload(self.server, self.retry, path, where, cancelled).write(blocks)

    def read_ranges(
        self, path: str, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        from freezer.storage.ftp.transfer import Download

        where = self.location(path)
        return Download(self.server, self.retry, path, where).read(ranges)

    def check(self) -> CheckReport:
        from freezer.storage.ftp.check import check

        return check(self, self.server)


class FtpsStorage(FtpStorage):
    """The same with TLS for commands and data, requested by AUTH TLS."""

    _type = 'ftps'
    secure: ClassVar[bool] = True


class _LazyServer:
    """The server, which is connected at the first use. Copies of a storage share it."""

    def __init__(self, options: FtpOptions, location: Callable[[str], str]) -> None:
        self._options = options
        self._location = location
        self._opened: FtpServer | None = None
        self._lock = threading.Lock()

    def get(self) -> 'FtpServer':
        with self._lock:
            if self._opened is None:
                if not self._options.secure:
                    NOTICES.warning(
                        'storage ftp is not encrypted: anyone between this machine and '
                        '%s can read the password and the backups, and change them; '
                        'set storage ftps',
                        self._options.host,
                    )
                # Nothing that --help needs.
                from freezer.storage.ftp.connection import Connections
                from freezer.storage.ftp.server import FtpServer

                connections = Connections(self._options)
                self._opened = FtpServer(connections, self._location)
            return self._opened

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
