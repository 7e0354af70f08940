"""The calls that a file server has for storages with paths on it: SFTP, FTP."""

import abc
import enum
from collections.abc import Sequence
from typing import NamedTuple

from freezer.storage.exceptions import StorageException


class Kind(enum.Enum):
    FILE = enum.auto()
    FOLDER = enum.auto()
    OTHER = enum.auto()
    """A symbolic link, which nothing here follows, or a device."""


class Listed(NamedTuple):
    """An entry of a folder; size in bytes."""

    name: str
    kind: Kind
    size: int


class FileServer(abc.ABC):
    """The calls of a file server. Each is tried once.

    The first call connects, and the next one after a broken connection does so again.
    All raise Unreachable if the connection breaks, NotFound if a path does not exist,
    and AccessDenied if the user may not.
    """

    @abc.abstractmethod
    def make_folder(self, path: str) -> None:
        """Atomic.

        :raises Conflict: something exists there
        """

    @abc.abstractmethod
    def is_folder(self, path: str) -> bool:
        """Whether it is a folder, or a link to one.

        :raises NotFound: nothing is there
        """

    @abc.abstractmethod
    def exists(self, path: str) -> bool:
        """Whether something is there, if only a link that leads nowhere."""

    @abc.abstractmethod
    def size(self, path: str) -> int:
        """Bytes of a file."""

    @abc.abstractmethod
    def list_folders(
        self, paths: Sequence[str]
    ) -> list[list[Listed] | StorageException]:
        """The entries of each, or the error."""

    @abc.abstractmethod
    def remove_files(self, paths: Sequence[str]) -> list[StorageException | None]:
        """Remove files and links, in any order; the error of each that remains. A path
        where nothing is counts as removed."""

    @abc.abstractmethod
    def remove_folder(self, path: str) -> None:
        """Remove an empty folder.

        :raises Rejected: it is not empty
        """

    @abc.abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Atomic. Replaces a file that is there, or raises Rejected."""

    @abc.abstractmethod
    def read(self, path: str, limit: int | None) -> bytes:
        """A file's content.

        :raises IntegrityError: it has more bytes than ``limit``
        """

    @abc.abstractmethod
    def close(self) -> None: ...
