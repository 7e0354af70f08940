"""What claims, the journal, clean-up and the survey need of a store of objects.

Any driver whose storage has keys and no directories can offer this, and gets those
four for it. S3 does (``_s3/transport/bucket.py``).
"""

import enum
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from freezer.storage.exceptions import StorageException
from freezer.utils.progress import Progress


class ObjectKind(enum.Enum):
    """What an object is for: it decides which options apply to it."""

    VOLUME = enum.auto()
    """Data of a backup: may go to a cold storage class."""
    RECORD = enum.auto()
    """Metadata, manifest, digests: kept as long as the data, and always at hand."""
    TEMPORARY = enum.auto()
    """A claim or a probe: never locked, because it is deleted after use."""


class ListedObject(NamedTuple):
    """Size in bytes; ``modified`` in epoch seconds of the store's clock."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class Upload:
    """An unfinished upload: what was sent, and is not an object yet."""

    key: str
    upload_id: str


class OpenUpload(NamedTuple):
    """A listed upload; ``initiated`` in epoch seconds of the store's clock."""

    upload: Upload
    initiated: float


class UploadedParts(NamedTuple):
    """What an open upload holds: bytes, and the time of its last part; 0 for none."""

    size: int
    modified: float


class Head(NamedTuple):
    """What the store reports of an object: size in bytes, ETag, our token if it has
    one.

    ``locked_until`` is epoch seconds. What the store does not report is None.
    """

    size: int
    etag: str
    token: str | None
    storage_class: str | None = None
    lock_mode: str | None = None
    locked_until: int | None = None
    legal_hold: bool = False


class Sent(NamedTuple):
    """A stored part: its ETag, and its checksum as Complete has to repeat it."""

    etag: str
    checksum: Mapping[str, Any]


class UncertainComplete(StorageException):
    """It is not known whether the upload became an object: it must not be aborted.

    On Ceph an Abort that races a Complete leaves an object that lists and cannot be
    read (ceph #60771).
    """


class ObjectStore(Protocol):
    """One bucket or container. Every method may raise StorageException.

    :ivar name: of the bucket
    :ivar endpoint: URL of the service
    """

    name: str
    endpoint: str

    def url(self, key: str = '') -> str:
        """How messages name an object, or the bucket."""

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key starts with the prefix: complete, or it raises."""

    def get(self, key: str, limit: int | None = None) -> bytes:
        """A small object's content.

        :raises NotFound: there is no such object
        :raises IntegrityError: it has more bytes than ``limit``
        """

    def put(self, key: str, body: bytes, kind: ObjectKind) -> str:
        """Write an object, and return its ETag. Atomic."""

    def put_if_absent(self, key: str, body: bytes, kind: ObjectKind) -> bool:
        """Write an object unless the key exists; whether ours is stored. Atomic.

        A store that ignores the condition overwrites, and returns True.

        :raises Rejected: the store has no such condition
        """

    def has(self, key: str) -> bool:
        """Whether the object exists."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete in this order; missing keys are no error.

        :raises PartialDelete: some still exist
        """

    def list_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        """Open uploads of keys that start with the prefix.

        :raises Rejected: the store has no such list
        """

    def parts(self, upload: Upload) -> UploadedParts:
        """What an open upload holds.

        :raises NotFound: it is no longer open
        :raises Rejected: the store does not say
        """

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts; one that is gone is no error."""

    def store_time(self) -> float:
        """The store's clock in epoch seconds; this machine's if unknown."""

    def cleaning_up(self) -> 'ObjectStore':
        """The same store, but calls give up soon: an error waits to be reported."""


class BackupStore(ObjectStore, Protocol):
    """What writing and reading backups needs besides (``object_backups``).

    Every method may raise StorageException.

    :ivar progress: gets parts reported
    """

    progress: Progress

    def where(self, key: str = '') -> str:
        """:meth:`url`, with the endpoint, for messages."""

    def limited(self, seconds: float, when: Callable[[], bool]) -> 'BackupStore':
        """See :meth:`Retry.limited`."""

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        kind: ObjectKind,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write an object, and return its ETag. Atomic.

        :param token: is stored with it
        :param cancelled: once set, nothing more is sent
        """

    def head(self, key: str) -> Head:
        """:raises NotFound: there is no such object"""

    def get_range(
        self,
        key: str,
        start: int,
        end: int,
        etag: str | None,
        cancelled: threading.Event | None = None,
        buffer: bytearray | None = None,
    ) -> memoryview:
        """Bytes ``start`` to ``end`` (exclusive) of the object with this ETag.

        After a broken connection the next attempt continues where it broke.

        :param etag: None for any
        :param buffer: filled with them; at least that large
        :raises Conflict: the object has been replaced
        :raises IntegrityError: the object is shorter
        """

    def replace(self, key: str, body: bytes, kind: ObjectKind, etag: str) -> None:
        """Write an object in place of the one with this ETag. Atomic.

        :raises NotFound: it was deleted
        :raises Conflict: it was replaced
        """

    def create_upload(
        self, key: str, token: str, kind: ObjectKind = ObjectKind.VOLUME
    ) -> Upload:
        """Begin an object of several parts."""

    def upload_part(
        self,
        upload: Upload,
        number: int,
        body: bytes | bytearray,
        cancelled: threading.Event | None = None,
    ) -> Sent:
        """Send part ``number``, from 1. Attempts never overlap."""

    def complete(
        self, upload: Upload, sent: Sequence[Sent], size: int, token: str
    ) -> str | None:
        """Make the parts an object of ``size`` bytes, and return its ETag if the store
        gives one. Atomic.

        :raises UncertainComplete: it may be an object, or become one later
        """

    def apply_lock_and_tags(self, key: str) -> None:
        """Lock and tag a completed object, if the store has not done so."""
