"""Backups in S3-compatible object storage: the storage contract in S3's terms.

The container is ``bucket`` or ``bucket/prefix``; below it the keys are Freezer's. A
stream becomes multipart uploads (``object_backups/upload.py``), a restore ranged GETs
(``object_backups/download.py``); the rest is small objects and listings.

It runs inside Freezer 19.0.0 as well (``tools/install-into-freezer.sh``).
"""

import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from freezer.storage import layout
from freezer.storage._s3 import versions
from freezer.storage._s3.freezer19 import Freezer19Calls
from freezer.storage._s3.keys import check_container, check_endpoint
from freezer.storage._s3.options import (
    MIN_PART_SIZE,
    S3Options,
    with_aws_environment,
)
from freezer.storage._s3.transport.bucket import Bucket, open_bucket
from freezer.storage.backup import Backup, PendingBackup
from freezer.storage.check import CheckReport, run_check
from freezer.storage.exceptions import (
    AccessDenied,
    BucketNotFound,
    OptionsMissing,
    StorageConfigError,
    StorageException,
)
from freezer.storage.housekeeping import OldVersions
from freezer.storage.object_backups import keys
from freezer.storage.object_backups.pending import Names, ObjectPendingBackup
from freezer.storage.object_backups.plan import PATIENCE
from freezer.storage.object_backups.volumes import UploadPlan
from freezer.utils import startup
from freezer.utils.text import unfit

if TYPE_CHECKING:
    # Not at run time: Freezer 19 has a module of this name, without it.
    from freezer.storage.base import StorageSettings

LOG = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PART_SIZE = 5 * 2**30
# A volume ends well before the store's limit of parts: SeaweedFS counts retried
# parts as well (seaweedfs #6821).
USED_OF_MAX_PARTS = 0.9
#: in messages
NAMES = Names('s3-stale-after', 's3:GetObject', 's3:ListBucket')
# In place of missing keys and host names, while the other options are checked.
_ABSENT = 'absent'


class S3Storage(Freezer19Calls):
    """One bucket, below an optional prefix.

    :param endpoint: ``http(s)://host[:port]``
    :param container: ``bucket`` or ``bucket/prefix``
    :param max_segment_size: bytes of every part but the last; parts of less than 5 MiB
        are not possible on S3, so less counts as 5 MiB
    :param options: without, those of group ``s3`` in oslo.config's global object
    :raises StorageConfigError: something is missing or malformed; nothing was tried
    """

    _type = 's3'
    needs_utf8 = True

    def __init__(
        self,
        access_key: str,
        secret_key: str,
        endpoint: str,
        container: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        options: S3Options | None = None,
    ) -> None:
        if unfit(endpoint):
            raise StorageConfigError(f'endpoint: {unfit(endpoint)}')
        check_endpoint(endpoint)
        container = container.rstrip('/')
        check_container(container)
        if max_segment_size > MAX_PART_SIZE:
            raise StorageConfigError(
                f'max-segment-size {max_segment_size}: a part on S3 has at most '
                f'{MAX_PART_SIZE} bytes'
            )
        self.endpoint = endpoint
        self.container = container
        self.options = options or S3Options.configured()
        self.options.check(
            endpoint,
            keys.bucket_of(container),
            (access_key, secret_key),
            max(max_segment_size, MIN_PART_SIZE),
        )
        self._access_key = access_key
        self._secret_key = secret_key
        self._opened: Bucket | None = None
        self._opened_by = 0
        super().__init__(container, max_segment_size, skip_prepare)

    @classmethod
    def from_settings(cls, settings: 'StorageSettings') -> Self:
        given = with_aws_environment(settings.options, os.environ, settings.insecure)
        profile = given.get('s3_profile')
        needed = {
            'access-key': profile or given['access_key'],
            'secret-key': profile or given['secret_key'],
            'endpoint': given['endpoint'],
            'container': settings.container,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing and settings.name:
            raise StorageConfigError(
                f'{settings.section}: storage s3 needs {", ".join(missing)} in this '
                f'section'
            )
        if 'container' in missing:
            raise StorageConfigError(_how_to_give(missing))
        stand_in = '' if profile else _ABSENT
        group = {
            name.removeprefix('s3_'): value
            for name, value in given.items()
            if name.startswith('s3_')
        }
        options = S3Options(
            **group,
            insecure=settings.insecure,
            proxy=settings.proxy,
            sending=settings.sending,
            receiving=settings.receiving,
            progress=settings.progress,
            others_wait=settings.others_wait,
        )
        try:
            storage = cls(
                given['access_key'] or stand_in,
                given['secret_key'] or stand_in,
                given['endpoint'] or f'https://{_ABSENT}',
                settings.container,
                settings.max_segment_size,
                skip_prepare=True,
                options=options,
            )
        except StorageConfigError as error:
            if not settings.name:
                raise
            raise StorageConfigError(f'{settings.section}: {error.message}') from error
        if missing:
            # Last, because another environment may set them.
            raise OptionsMissing(_how_to_give(missing), storage)
        return storage

    def __repr__(self) -> str:
        return f'<S3Storage {self.container} at {self.endpoint}>'

    @property
    def _bucket(self) -> Bucket:
        """The bucket, with connections that are opened at its first use.

        And again in each child process: Freezer 19 forks two for a restore, which must
        not share connections.
        """
        if self._opened is None or self._opened_by != os.getpid():
            with startup.no_garbage_collection():
                self._opened = self._open(self.options)
            self._opened_by = os.getpid()
        return self._opened

    def _open(self, options: S3Options) -> Bucket:
        return open_bucket(
            keys.bucket_of(self.container),
            self.endpoint,
            self._access_key,
            self._secret_key,
            options,
        )

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _make_ready(self) -> None:
        """Create the bucket if it is missing; needs no list of all buckets."""
        bucket, where = self._bucket, self._bucket.where()
        if bucket.exists():
            if self.options.locks and not bucket.locks_objects():
                # Most stores report it only after the first volume.
                raise StorageConfigError(
                    f'{where} has no object lock, which s3-object-lock-mode and '
                    f's3-legal-hold need; most stores can enable it only when a bucket '
                    f'is created'
                )
            return
        if not self.options.create_bucket:
            raise BucketNotFound(
                f'{where} does not exist, and s3-create-bucket is off: check '
                f'--container and --endpoint'
            )
        try:
            bucket.create(locks=self.options.locks)
        except AccessDenied as error:
            raise BucketNotFound(
                f'{where} does not exist, and the keys may not create it: check '
                f'--container, or have it created: {error.message}'
            ) from error

    def check(self) -> CheckReport:
        # Takes 5 ms to import, and no other action needs it.
        from freezer.storage._s3.check.run import addressing_style_hint, rows
        from freezer.storage._s3.check.scratch import ScratchPrefix

        folder = layout.join(self.container, layout.CHECK, secrets.token_hex(16))
        # Locks are tested by one probe: everything else must be removable.
        bucket = self._open(
            replace(
                self.options,
                object_lock_mode=None,
                object_lock_days=None,
                legal_hold=False,
            )
        )
        scratch = ScratchPrefix(bucket, keys.key_of(folder), self._plan, self.options)
        try:
            return run_check(
                self.container, rows(scratch, self._make_ready), scratch.clean_up
            )
        except StorageException as error:
            advice = addressing_style_hint(
                error,
                self._bucket,
                self.options.addressing_style,
                lambda style: self._open(replace(self.options, addressing_style=style)),
            )
            if not advice:
                raise
            raise type(error)(f'{error.message}; {advice}') from error
        finally:
            bucket.close()

    # A backup

    def begin(self, backup: Backup) -> PendingBackup:
        bucket = self._bucket.limited(PATIENCE, self.options.others_wait)
        return ObjectPendingBackup(
            self, bucket, backup, self._plan, self._journal, NAMES
        )

    @property
    def _plan(self) -> UploadPlan:
        part_size = max(self.max_segment_size, MIN_PART_SIZE)
        by_count = int(self.options.max_parts * USED_OF_MAX_PARTS)
        by_size = self.options.max_object_size // part_size
        return UploadPlan(
            part_size=part_size,
            parts_per_volume=max(1, min(by_count, by_size)),
            concurrency=self.options.at_once(part_size),
            digest=self.options.digest,
        )

    def _at_once(self, size: int) -> int:
        return self.options.at_once(size)

    # Housekeeping

    @property
    def _stale_after(self) -> float | None:
        return self.options.stale_after

    @property
    def needs_cleanup(self) -> bool:
        return super().needs_cleanup or self.options.purge_versions

    def _old_versions(self, dry_run: bool) -> tuple[OldVersions, ...]:
        root = keys.tree_prefix(self.container)
        purge = self.options.purge_versions
        if not self._bucket.keeps_versions(must_know=purge):
            return ()
        count = size = 0
        for version in versions.old_versions(self._bucket, root):
            count += 1
            size += version.size
        if purge and not dry_run:
            versions.purge(self._bucket, root)
        if not count:
            return ()
        return (OldVersions(self._bucket.url(root), count, size, purge),)


def _how_to_give(missing: Sequence[str]) -> str:
    """The message that names the missing options, and all ways to give them."""
    flags = ' '.join(f'--{name} …' for name in missing)
    job_keys = ', '.join(missing).replace('-', '_')
    variables = job_keys.upper().replace('CONTAINER', 'OS_DEFAULT__CONTAINER')
    return (
        f'storage s3 needs {", ".join(missing)}: give {flags} on the command line, or '
        f'{job_keys} in the job file (--config), or {variables} in the environment'
    )
