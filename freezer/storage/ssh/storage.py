"""Backups on an SSH server, by SFTP alone: no command is run there."""

import importlib.util
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, ClassVar, Self

from freezer.storage.backup import Backup, PendingBackup
from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import StorageConfigError, StorageException
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.retry import Retry
from freezer.storage.ssh.options import SshOptions, directory
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress
from freezer.utils.ranges import Range
from freezer.utils.rate import UNLIMITED, Rate

if TYPE_CHECKING:
    from freezer.storage.ssh.server import SftpServer

# Seconds for a request while other storages wait; but two repetitions are possible.
_PATIENCE = 60.0


class SshStorage(RemotePathStorage):
    """A directory of an SSH server.

    :param storage_path: absolute, or relative to the directory in which the user logs
        in
    :param others_wait: whether other storages, with the same backup, wait for this one
    """

    _type = 'ssh'
    request_bytes: ClassVar[int] = 255 * 1024

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        options: SshOptions,
        progress: Progress | None = None,
        others_wait: Callable[[], bool] = bool,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self.options = options
        self.retry = Retry(
            options.retry_budget, progress=progress, store=str(options.server)
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
            'ssh-host': settings.options['ssh_host'],
            'container': settings.container,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing:
            where = f'{settings.section}: ' if settings.name else ''
            flags = ' '.join(f'--{name} …' for name in missing)
            keys = ', '.join(missing).replace('-', '_')
            raise StorageConfigError(
                f'{where}storage ssh needs {", ".join(missing)}: give {flags} on the '
                f'command line, or {keys} in the job file (--config)'
            )
        if importlib.util.find_spec('asyncssh') is None:
            raise StorageConfigError(
                "storage ssh needs the package asyncssh: pip install 'freezer[ssh]'"
            )
        try:
            return cls(
                directory(settings.container),
                settings.max_segment_size,
                skip_prepare=True,
                options=SshOptions.parse(settings.options),
                progress=settings.progress,
                others_wait=settings.others_wait,
                sending=settings.sending,
                receiving=settings.receiving,
            )
        except StorageConfigError as error:
            if not settings.name:
                raise
            raise StorageConfigError(f'{settings.section}: {error.message}') from error

    def __repr__(self) -> str:
        return f'<SshStorage {self.storage_path} at {self.options.server}>'

    @property
    def endpoint(self) -> str:
        return f'ssh://{self.options.server}'

    @property
    def server(self) -> 'SftpServer':
        return self._lazy_server.get()

    def close(self) -> None:
        self._lazy_server.close()

    def location(self, path: str) -> str:
        return f'{self.options.server}:{path}'

    def begin(self, backup: Backup) -> PendingBackup:
        limited = self.limited(_PATIENCE, self._others_wait)
        return super(SshStorage, limited).begin(backup)

    def upload(
        self, path: str, blocks: Iterable[memoryview], cancelled: threading.Event
    ) -> None:
        from freezer.storage.ssh.transfer import Upload

        where = self.location(path)
        Upload(self.server, self.retry, path, where, cancelled).write(blocks)

    def read_ranges(
        self, path: str, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        from freezer.storage.ssh.transfer import Download

        where = self.location(path)
        return Download(self.server, self.retry, path, where).read(ranges)

    def check(self) -> CheckReport:
        from freezer.storage.ssh.check import check

        return check(self, self.server)


class _LazyServer:
    """The server, which is connected at the first use. Copies of a storage share it."""

    def __init__(self, options: SshOptions, location: Callable[[str], str]) -> None:
        self._options = options
        self._location = location
        self._opened: SftpServer | None = None
        self._lock = threading.Lock()

    def get(self) -> 'SftpServer':
        with self._lock:
            if self._opened is None:
                # Slow to import, and an optional package.
                from freezer.storage.ssh.connection import Connection
                from freezer.storage.ssh.server import SftpServer

                self._opened = SftpServer(Connection(self._options), self._location)
            return self._opened

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
