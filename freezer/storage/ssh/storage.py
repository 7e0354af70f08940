"""Backups on an SSH server, by SFTP alone: no command is run there."""

import importlib.util
import threading
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, ClassVar

from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import StorageConfigError, StorageException
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.ssh.options import SshOptions
from freezer.utils.blocks import Block
from freezer.utils.ranges import Range

if TYPE_CHECKING:
    from freezer.storage.ssh.server import SftpServer


class SshStorage(RemotePathStorage['SftpServer']):
    """A directory of an SSH server."""

    # The modules that are imported inside functions need asyncssh: an optional package,
    # and slow to import.

    _type = 'ssh'
    required = ('ssh-host',)
    request_bytes: ClassVar[int] = 255 * 1024
    options: SshOptions

    @classmethod
    def parse_options(cls, settings: StorageSettings) -> SshOptions:
        if importlib.util.find_spec('asyncssh') is None:
            raise StorageConfigError(
                "storage ssh needs the package asyncssh: pip install 'freezer[ssh]'"
            )
        return SshOptions.parse(settings.options)

    def connect(self) -> 'SftpServer':
        from freezer.storage.ssh.connection import Connection
        from freezer.storage.ssh.server import SftpServer

        return SftpServer(Connection(self.options), self.location)

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

        return check(self)
