"""The arguments that the options add to requests, by kind of object."""

import base64
import datetime
import functools
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from freezer.storage._s3.checksums import Checksum, md5
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.errors import wants_md5
from freezer.storage.objects import ObjectKind

# Which option sets which argument.
_OPTIONS = {
    'RequestPayer': 's3-requester-pays',
    'ExpectedBucketOwner': 's3-expected-bucket-owner',
    'SSECustomerKey': 's3-sse-customer-key-file',
    'ServerSideEncryption': 's3-sse',
    'SSEKMSKeyId': 's3-sse-kms-key-id',
    'ACL': 's3-acl',
    'Tagging': 's3-tags',
    'StorageClass': 's3-storage-class',
    'ObjectLockMode': 's3-object-lock-mode',
    'ObjectLockLegalHoldStatus': 's3-legal-hold',
}


class PostUploadFix(NamedTuple):
    """A request that adds what a store forgot when an upload was completed.

    :param is_there: whether the object has it, by the answer to HeadObject
    :param arguments: of the operation
    """

    is_there: Callable[[Mapping[str, Any]], bool]
    operation: str
    arguments: dict[str, Any]


class Parameters:
    """Arguments of botocore's operations.

    :ivar with_md5: whether every body is sent with Content-MD5
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
        # S3 insists on it where objects are locked, and not every store takes one of
        # the newer checksums in its place. And version 2 of signatures, unlike version
        # 4, does not cover what is sent.
        self.with_md5 = options.locks or options.signature_version == 's3'
        self._lock_mode = options.object_lock_mode
        self._lock_days = options.object_lock_days
        self._legal_hold = options.legal_hold
        self._always: dict[str, Any] = {
            'RequestPayer': 'requester' if options.requester_pays else None,
            'ExpectedBucketOwner': options.expected_bucket_owner,
        }
        key = options.customer_key()
        if key is not None:
            # Encoded here: older botocore does not do it for every operation, and
            # repeats the key where it refuses it.
            self._always |= {
                'SSECustomerAlgorithm': 'AES256',
                'SSECustomerKey': base64.b64encode(key).decode(),
                'SSECustomerKeyMD5': md5(key),
            }
        self._created = {
            'ServerSideEncryption': options.sse,
            'SSEKMSKeyId': options.sse_kms_key_id,
            'ACL': options.acl,
            'Tagging': options.tagging(),
        }
        self._tags = [
            {'Key': name, 'Value': value} for name, value in options.tag_pairs()
        ]
        self._volumes = {'StorageClass': options.storage_class}
        self._checksum = (
            None if options.checksum == 'none' else Checksum(options.checksum)
        )

    def add_md5(self, before: bool, error: Exception) -> bool:
        """From now on send Content-MD5, if the store refused a request without it: the
        bucket locks what is written to it.

        :param before: whether the request had it
        :returns: whether it is worth repeating
        """
        if before or not wants_md5(error):
            return False
        self.with_md5 = True
        return True

    def of(self, members: Container[str], kind: ObjectKind | None) -> dict[str, Any]:
        """The arguments to add.

        :param members: of the operation's input shape
        :param kind: of the object the operation creates; None if it creates none
        """
        # Not every operation has the arguments of _always: leave those out. The rest
        # must never be left out: if an operation lacks one, botocore refuses it.
        return {
            name: value
            for name, value in self._wanted(kind).items()
            if name in members or name not in self._always
        }

    def options(self, kind: ObjectKind | None) -> list[str]:
        """The names of the options that :meth:`of` adds arguments for."""
        names = [_OPTIONS[name] for name in self._wanted(kind) if name in _OPTIONS]
        if kind is not None and self._checksum is not None:
            names.append('s3-checksum')
        return names

    def _wanted(self, kind: ObjectKind | None) -> dict[str, Any]:
        wanted = dict(self._always)
        if kind is not None:
            wanted |= self._created
        if kind is ObjectKind.VOLUME:
            wanted |= self._volumes
        if kind in (ObjectKind.VOLUME, ObjectKind.RECORD):
            wanted |= self._locks()
        return {name: value for name, value in wanted.items() if value}

    def of_body(
        self, body: bytes | bytearray, kind: ObjectKind = ObjectKind.VOLUME
    ) -> dict[str, Any]:
        """The checksum of a body, as arguments; empty for none.

        :param kind: of the object that the body is, or is a part of
        """
        arguments = {} if self._checksum is None else self._checksum.arguments(body)
        # For small bodies it costs nothing, and some stores verify this and not the
        # signed SHA-256 (SeaweedFS 4.48).
        if self.with_md5 or kind is not ObjectKind.VOLUME:
            arguments['ContentMD5'] = md5(body)
        return arguments

    def of_upload(self) -> dict[str, Any]:
        """The algorithm of the parts' checksums, as arguments of a multipart upload."""
        if self._checksum is None:
            return {}
        return {'ChecksumAlgorithm': self._checksum.algorithm}

    def post_upload_fixes(self) -> list[PostUploadFix]:
        """What to check on a completed upload, and add where it is missing."""
        locks = self._locks()
        found = []
        if mode := locks.get('ObjectLockMode'):
            until = locks['ObjectLockRetainUntilDate']
            retained = functools.partial(_is_retained, mode, until)
            retention = {'Retention': {'Mode': mode, 'RetainUntilDate': until}}
            found.append(PostUploadFix(retained, 'put_object_retention', retention))
        if hold := locks.get('ObjectLockLegalHoldStatus'):
            held = functools.partial(_has, 'ObjectLockLegalHoldStatus', hold)
            status = {'LegalHold': {'Status': hold}}
            found.append(PostUploadFix(held, 'put_object_legal_hold', status))
        if self._tags:
            tagged = functools.partial(_has, 'TagCount', len(self._tags))
            tags = {'Tagging': {'TagSet': self._tags}}
            found.append(PostUploadFix(tagged, 'put_object_tagging', tags))
        return found

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


def _has(name: str, value: object, head: Mapping[str, Any]) -> bool:
    return bool(head.get(name) == value)


def _is_retained(mode: str, until: datetime.datetime, head: Mapping[str, Any]) -> bool:
    """Whether the lock is ours, and not a bucket default that ends earlier."""
    found = head.get('ObjectLockRetainUntilDate')
    return (
        head.get('ObjectLockMode') in (mode, 'COMPLIANCE')
        and found is not None
        and found >= until - datetime.timedelta(minutes=1)
    )
