"""Backups on an FTP server, with TLS (storage ftps) or without (storage ftp)."""

import threading
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, ClassVar

from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import StorageConfigError, StorageException
from freezer.storage.ftp.options import UNSENDABLE, FtpOptions
from freezer.storage.remote_paths import RemotePathStorage
from freezer.utils.blocks import Block
from freezer.utils.ranges import Range
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.storage.ftp.server import FtpServer


class FtpStorage(RemotePathStorage['FtpServer']):
    """A directory of an FTP server."""

    _type = 'ftp'
    required = ('ftp-host', 'ftp-username')
    needs_utf8: ClassVar[bool] = True
    request_bytes: ClassVar[int] = 256 * 1024
    secure: ClassVar[bool] = False
    options: FtpOptions

    @classmethod
    def parse_options(cls, settings: StorageSettings) -> FtpOptions:
        if UNSENDABLE.search(settings.container):
            raise StorageConfigError(
                f'container {settings.container!r}: FTP cannot send line breaks: name '
                f'another one'
            )
        return FtpOptions.parse(settings.options, cls.secure, settings.insecure)

    def connect(self) -> 'FtpServer':
        if not self.secure:
            NOTICES.warning(
                'storage ftp is not encrypted: anyone between this machine and %s can '
                'read the password and the backups, and change them; set storage ftps',
                self.options.host,
            )
        # Nothing that --help needs.
        from freezer.storage.ftp.connection import Connections
        from freezer.storage.ftp.server import FtpServer

        return FtpServer(Connections(self.options), self.location)

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

        return check(self)


class FtpsStorage(FtpStorage):
    """The same with TLS for commands and data, requested by AUTH TLS."""

    _type = 'ftps'
    secure: ClassVar[bool] = True
