"""What claims, the journal, clean-up and the survey need of a store of objects.

Any driver whose storage has keys and no directories can offer this, and gets those
four for it. S3 does (``_s3/transport/bucket.py``).
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


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
