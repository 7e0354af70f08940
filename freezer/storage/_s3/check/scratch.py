"""The prefix below which a check writes, and how all of it is removed."""

import datetime
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage import manifest
from freezer.storage._s3.checksums import md5
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import Finding, Result, note, ok, problem
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.object_backups.volumes import UploadPlan
from freezer.storage.objects import ObjectKind, Upload

LOG = logging.getLogger(__name__)

# No further step of the clean-up begins after so many seconds.
CLEAN_UP_SECONDS = 120.0
# How long objects are locked, where they have to be.
LOCKED_SECONDS = 5
# How long a probe may repeat requests to a store that fails, in seconds.
PROBE_SECONDS = 15.0

SMALL = b'What a check of the storage wrote; it can be deleted.\n'


@dataclass
class ScratchPrefix:
    """What was written, and what is known about the store so far.

    :param bucket: one that locks nothing; its requests soon give up
    :param folder: the prefix, without a slash at its end
    :param plan: of a backup
    :param options: of a backup
    """

    bucket: Bucket
    folder: str
    plan: UploadPlan
    options: S3Options
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    made_bucket: bool = False
    wrote: bool = False
    uploads: list[Upload] = field(default_factory=list)
    """May be open."""
    stream: manifest.Manifest | None = None
    """Uploaded to measure throughput."""
    versioned: bool = False
    locks: bool = False
    """Whether the bucket locks every object by default."""
    locked_until: float = 0.0
    """Monotonic time."""
    listed_late: float = 0.0
    """Seconds until the store listed a written object."""
    clock_offset: float = 0.0
    """Seconds that the store's clock is ahead of this machine's."""
    crc32_checked: bool = False

    def __post_init__(self) -> None:
        self._bucket = self.bucket
        self.bucket = self.bucket.within(PROBE_SECONDS)

    def key(self, name: str) -> str:
        return f'{self.folder}/{name}'

    # The verbs of a backup

    def put(self, name: str, body: bytes) -> str:
        return self.bucket.put(self.key(name), body, ObjectKind.TEMPORARY)

    def get(self, name: str) -> bytes:
        return self.bucket.get(self.key(name))

    def has(self, name: str) -> bool:
        return self.bucket.has(self.key(name))

    def listed(self, name: str) -> list[str]:
        """The keys that start with this one."""
        return [item.key for item in self.bucket.list(self.key(name))]

    def open_upload(self, name: str) -> Upload:
        upload = self.bucket.create_upload(self.key(name), self.token)
        self.uploads.append(upload)
        return upload

    def abort(self, upload: Upload) -> None:
        self.bucket.abort(upload)
        self.uploads.remove(upload)

    # Any other operation: its answer, or a Refusal

    def probe(self, operation: str, name: str = '', **arguments: Any) -> Any:
        key = self.key(name) if name else ''
        return self.bucket.probe(operation, key, **arguments)

    def probe_put(self, name: str, body: bytes, **arguments: Any) -> Any:
        if self.locks or 'ObjectLockMode' in arguments:
            # S3 insists on it where objects are locked.
            arguments.setdefault('ContentMD5', md5(body))
        return self.bucket.probe(
            'put_object', self.key(name), ObjectKind.TEMPORARY, Body=body, **arguments
        )

    # Locks

    def brief_lock(self) -> dict[str, Any]:
        """Arguments that lock an object for seconds; :meth:`clean_up` waits for it."""
        until = datetime.datetime.now(datetime.UTC)
        until += datetime.timedelta(seconds=self.clock_offset + LOCKED_SECONDS)
        # A second more: clocks and dates are not exact.
        self.locked_until = time.monotonic() + LOCKED_SECONDS + 1
        return {'ObjectLockMode': 'GOVERNANCE', 'ObjectLockRetainUntilDate': until}

    def unlock_soon(self, params: dict[str, Any], **_event: Any) -> None:
        """Shorten the lock that a bucket sets by default, so that it can be removed.

        :param params: of an operation that creates an object
        """
        if not self.locks or 'ObjectLockMode' in params:
            return
        params.update(self.brief_lock())
        if self.options.locks and 'Body' in params:
            # As for a backup with locks.
            params.setdefault('ContentMD5', md5(params['Body']))

    def clean_up(self) -> Finding:
        """Remove everything; may be called again. Raises no StorageException.

        :returns: a problem where objects or uploads may remain: backups could not be
            removed either
        """
        deadline = time.monotonic() + CLEAN_UP_SECONDS
        steps: list[tuple[Callable[[], None], Callable[[str], Finding]]] = []
        if self.wrote:
            time.sleep(max(0.0, self.locked_until - time.monotonic()))
            steps += [
                (self._abort_all, problem),
                (self._delete_all, problem),
                (self._delete_versions, note),
            ]
        if self.made_bucket:
            steps.append((self._remove_bucket, note))
        findings = []
        self.bucket = self._bucket.cleaning_up()
        for step, finding in steps:
            try:
                if time.monotonic() > deadline:
                    raise e.Unreachable('there was no more time')
                step()
            except e.StorageException as error:
                LOG.error('cleaning up after a check: %s', error)
                where = self.bucket.url(self.key(''))
                findings.append(
                    finding(f'something may remain below {where}: {error.message}')
                )
                if isinstance(error, e.Unreachable):
                    break
        # Problems before notes.
        findings.sort(key=lambda finding: finding.result is Result.NOTE)
        return findings[0] if findings else ok('nothing remains')

    def _abort_all(self) -> None:
        for upload in list(self.uploads):
            self.abort(upload)
        try:
            for upload, _initiated in list(self.bucket.list_uploads(self.key(''))):
                self.bucket.abort(upload)
        except (e.AccessDenied, e.Rejected) as error:
            # The known ones were aborted by their ids.
            LOG.info('%s', error)

    def _delete_all(self) -> None:
        # Objects that are listed late would be missed.
        time.sleep(self.listed_late)
        for delay in LISTING_DELAYS:
            time.sleep(delay)
            keys = self.listed('')
            if not keys:
                return
            self.bucket.delete(keys)
        raise e.StorageException(
            f'{len(keys)} objects are still listed, first {keys[0]}'
        )

    def _delete_versions(self) -> None:
        """Delete markers too."""
        try:
            for _ in range(2):
                versions = list(self.bucket.list_versions(self.key('')))
                if not versions:
                    return
                self.bucket.delete_versions(versions)
        except (e.AccessDenied, e.Rejected):
            if self.versioned:
                raise
            return
        raise e.StorageException(f'{len(versions)} versions are still listed')

    def _remove_bucket(self) -> None:
        answer = self.probe('delete_bucket')
        if isinstance(answer, Refusal) and answer.status != 404:
            raise e.StorageException(f'the bucket that was created: {answer}')


def difference(expected: bytes, found: bytes | bytearray | memoryview) -> str:
    """Where two byte strings differ, for a message."""
    if len(expected) != len(found):
        return f'{len(found)} bytes, not {len(expected)}'
    pairs = enumerate(zip(expected, found, strict=True))
    return f'from byte {next(n for n, (a, b) in pairs if a != b)} on'
