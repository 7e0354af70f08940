"""What the options add to requests, by what an object is for."""

import base64
import datetime
import enum
import hashlib
from collections.abc import Callable, Container
from typing import Any

from freezer.storage._s3.checksums import Checksum
from freezer.storage._s3.options import S3Options


class Kind(enum.Enum):
    """What an object is for, and so what it may be given."""

    VOLUME = enum.auto()
    """Data of a backup: may go to a cold storage class."""
    RECORD = enum.auto()
    """Metadata, manifest, digests: kept as long as the data, and always at hand."""
    PASSING = enum.auto()
    """A lease or a probe: has to be removable when it has served."""


class Parameters:
    """Arguments of botocore's operations.

    An operation gets what its input shape knows: not every operation takes all of
    them.

    :raises StorageConfigError: a checksum needs a library that is not there
    """

    def __init__(
        self,
        options: S3Options,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(
            datetime.UTC
        ),
    ) -> None:
        self._now = now
        self._lock_mode = options.object_lock_mode
        self._lock_days = options.object_lock_days
        self._legal_hold = options.legal_hold
        self._always: dict[str, Any] = {
            'RequestPayer': 'requester' if options.requester_pays else None,
            'ExpectedBucketOwner': options.expected_bucket_owner,
        }
        key = options.customer_key()
        if key is not None:
            # botocore makes the base64 and the digest that go with it.
            self._always |= {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': key}
        self._created = {
            'ServerSideEncryption': options.sse,
            'SSEKMSKeyId': options.sse_kms_key_id,
            'ACL': options.acl,
            'Tagging': options.tagging(),
        }
        self._volumes = {'StorageClass': options.storage_class}
        self._checksum = (
            None if options.checksum == 'none' else Checksum(options.checksum)
        )

    def of(self, members: Container[str], kind: Kind | None) -> dict[str, Any]:
        """The arguments to add.

        :param members: of the operation's input shape
        :param kind: of the object the operation creates; None if it creates none
        """
        wanted: dict[str, Any] = dict(self._always)
        if kind is not None:
            wanted |= self._created
        if kind is Kind.VOLUME:
            wanted |= self._volumes
        if kind in (Kind.VOLUME, Kind.RECORD):
            wanted |= self._locks()
        return {k: v for k, v in wanted.items() if v and k in members}

    def of_body(self, body: bytes | bytearray) -> dict[str, Any]:
        """The checksum to send along with a body, as arguments; empty for none."""
        if self._checksum is not None:
            return self._checksum.arguments(body)
        if self._lock_mode or self._legal_hold:
            # S3 insists on a digest in a header where objects are locked.
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            return {'ContentMD5': base64.b64encode(digest).decode()}
        return {}

    def of_upload(self) -> dict[str, Any]:
        """What a multipart upload has to know of the checksums of its parts."""
        if self._checksum is None:
            return {}
        return {'ChecksumAlgorithm': self._checksum.algorithm}

    def _locks(self) -> dict[str, Any]:
        locks: dict[str, Any] = {}
        if self._lock_mode:
            locks['ObjectLockMode'] = self._lock_mode
            locks['ObjectLockRetainUntilDate'] = self._now() + datetime.timedelta(
                days=self._lock_days or 0
            )
        if self._legal_hold:
            locks['ObjectLockLegalHoldStatus'] = 'ON'
        return locks
