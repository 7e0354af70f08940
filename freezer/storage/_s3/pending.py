"""Writes one level to a bucket: claim, upload, verification, commit."""

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from freezer.storage import claims, manifest
from freezer.storage._s3 import keys
from freezer.storage._s3.read_probe import ReadProbe
from freezer.storage._s3.threads import in_background
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.upload import (
    StreamUpload,
    confirm,
    confirm_object,
    store_object,
)
from freezer.storage._s3.volumes import UploadPlan, VolumeWriter
from freezer.storage.backup import (
    Backup,
    LevelPaths,
    PendingBackup,
    Readable,
    StoredLevel,
    WrittenBackup,
    read_manifest,
)
from freezer.storage.exceptions import Conflict, IntegrityError, StorageException
from freezer.storage.index_file import OutgoingIndex
from freezer.storage.journal import Journal, Place
from freezer.storage.objects import ObjectKind
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


class S3PendingBackup(PendingBackup):
    """A level whose folder is claimed.

    :param storage: reads back what was written
    :raises Conflict: another agent has the folder
    """

    def __init__(
        self,
        storage: Readable,
        bucket: Bucket,
        backup: Backup,
        plan: UploadPlan,
        journal: Journal,
    ) -> None:
        super().__init__(backup)
        self.storage = storage
        self.bucket = bucket
        self.paths = LevelPaths(storage.storage_path, backup)
        keys.check_folder(self.paths.folder)
        self.folder = keys.key_of(self.paths.folder)
        self.marker = keys.key_of(self.paths.marker)
        self._plan = plan
        self._cancelled = threading.Event()
        self.claim = claims.take(bucket, self.folder)
        self.entry = journal.begin(
            Place(bucket.endpoint, bucket.name, self.folder, self.marker)
        )

    @property
    def location(self) -> str:
        return self.storage.location(self.paths.folder)

    def put(self, path: str, content: bytes) -> None:
        self.bucket.put(keys.key_of(path), content, ObjectKind.RECORD)

    def put_identity(self, identity: bytes) -> None:
        self.put(self.paths.identity, identity)

    def write(self, blocks: Iterable[Block | str]) -> WrittenBackup:
        with self.writer(secrets.token_hex(16), ObjectKind.VOLUME) as writer:
            written = StreamUpload(writer, self.folder).write(blocks)
        LOG.info(
            'stored %s: %d bytes in %d volumes',
            self.bucket.url(self.folder),
            written.size,
            len(written.volumes),
        )
        return _S3WrittenBackup(self, written)

    @contextlib.contextmanager
    def writer(self, token: str, kind: ObjectKind) -> Iterator[VolumeWriter]:
        """A writer of objects; what it may leave behind is in the journal."""
        writer = VolumeWriter(
            self.bucket, self._plan, token, self.entry.add, self._cancelled, kind
        )
        try:
            yield writer
        finally:
            if writer.left_behind:
                self.entry.keep()

    def cancel(self) -> None:
        self._cancelled.set()

    def discard(self) -> None:
        bucket = self.bucket.cleaning_up()
        bucket.delete([self.marker])
        bucket.delete([item.key for item in bucket.list(f'{self.folder}/')])
        # Not reached if something remains: the next run finds it in the journal.
        self.entry.close()


class _S3WrittenBackup(WrittenBackup):
    """:param written: the manifest as it was sent"""

    def __init__(self, pending: S3PendingBackup, written: manifest.Manifest) -> None:
        self._pending = pending
        self._written = written

    def commit(
        self,
        engine_metadata: Path,
        marker: Mapping[str, Any],
        index: Path | None = None,
    ) -> None:
        pending, bucket = self._pending, self._pending.bucket
        claim = pending.claim
        state = engine_metadata.read_bytes()
        probe = ReadProbe()
        # Before the marker, which write-only keys could not delete again.
        with in_background(lambda: self._verify_stored_objects(probe)) as verified:
            record = self._store_files(state, index, probe)
        verified.result()
        read_denied = probe.read_denied
        if read_denied and not claim.is_held_write_only(bucket):
            raise self._claim_lost_error()
        document = manifest.commit_marker(marker, self._written.token, state, record)
        pending.put(pending.paths.marker, document)
        if not read_denied:
            self._verify_commit()
        pending.entry.close()
        self._warn_unverified(read_denied)
        if not claim.listed:
            # It still excludes other agents: these keys cannot do that by a listing.
            return
        try:
            bucket.delete(claim.keys)
        except StorageException as error:
            # The backup is committed; a claim left behind does it no harm.
            LOG.warning('a claim remains: %s', error.message)

    def _store_files(
        self, state: bytes, index: Path | None, probe: ReadProbe
    ) -> dict[str, Any] | None:
        """Store the engine's file, and the index if there is one.

        :returns: what the marker records of the index
        :raises IntegrityError: the store does not have the index
        """
        pending, paths = self._pending, self._pending.paths
        if index is None:
            pending.put(paths.engine_metadata, state)
            return None
        outgoing, token = OutgoingIndex(index), self._written.token
        # Like the manifest, it must always be at hand.
        with pending.writer(token, ObjectKind.RECORD) as writer:
            stored = store_object(writer, keys.key_of(paths.index), outgoing.blocks())
        with in_background(
            lambda: confirm_object(pending.bucket, stored, token, probe)
        ) as confirmed:
            pending.put(paths.engine_metadata, state)
        confirmed.result()
        return outgoing.record.dump()

    def _verify_stored_objects(self, probe: ReadProbe) -> None:
        """Check that the store has the volumes and the manifest that it confirmed.

        :raises IntegrityError: the store does not have one of them
        """
        pending, written = self._pending, self._written
        with in_background(
            lambda: probe.attempt(
                lambda: read_manifest(pending.storage, pending.paths, written.token)
            )
        ) as read:
            confirm(pending.bucket, pending.folder, written, probe)
        found = read.result()
        if found is not None and found != written:
            raise IntegrityError(
                f'{pending.storage.location(pending.paths.manifest)} differs from what '
                f'was written: run the backup again'
            )

    def _verify_commit(self) -> None:
        """Check that the marker is stored, and that nobody removed the claim.

        Called once the marker is written: an agent that removes the claim looks for
        the marker afterwards.

        :raises IntegrityError: the store does not have the marker
        :raises Conflict: the claim is gone
        """
        pending = self._pending
        with in_background(lambda: pending.claim.is_held(pending.bucket)) as held:
            stored = StoredLevel(pending.storage, pending.backup)
            if stored.marker.get(manifest.MARKER_KEY) != self._written.token:
                raise IntegrityError(
                    f'{pending.storage.location(pending.paths.marker)} differs from '
                    f'what was written: run the backup again'
                )
        if not held.result():
            raise self._claim_lost_error()

    def _claim_lost_error(self) -> Conflict:
        return Conflict(
            f'{self._pending.location}: another machine treated this backup as dead '
            f'(s3-stale-after) and may have deleted parts of it: run it again, and '
            f'raise --s3-stale-after there'
        )

    def _warn_unverified(self, read_denied: bool) -> None:
        """Print one line if something could not be checked."""
        claim = self._pending.claim
        unverified = []
        if read_denied:
            unverified.append(
                "not read back (s3:GetObject denied); relying on the store's write "
                'confirmations'
            )
        if not claim.listed:
            unverified.append(
                'the keys may not list (s3:ListBucket), so other backups of this name '
                'are unknown'
                + ('' if claim.exclusive else ', and may start in the same second')
            )
        if unverified:
            NOTICES.warning(
                '%s is stored; %s', self._pending.location, '; '.join(unverified)
            )
