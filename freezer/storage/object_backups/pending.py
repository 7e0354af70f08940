"""Writes one level to a store of objects: claim, upload, verification, commit."""

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from freezer.storage import claims, manifest
from freezer.storage.backup import (
    Backup,
    LevelPaths,
    PendingBackup,
    Readable,
    StoredLevel,
    StreamPaths,
    WrittenBackup,
    read_manifest,
    split_parts,
)
from freezer.storage.exceptions import Conflict, IntegrityError, StorageException
from freezer.storage.index_file import OutgoingIndex
from freezer.storage.journal import Journal, Place
from freezer.storage.object_backups import keys
from freezer.storage.object_backups.read_probe import ReadProbe
from freezer.storage.object_backups.threads import (
    begin,
    have_ended,
    in_background,
    threads,
)
from freezer.storage.object_backups.upload import (
    StreamUpload,
    confirm,
    confirm_object,
    store_object,
)
from freezer.storage.object_backups.volumes import UploadPlan, VolumeWriter
from freezer.storage.objects import BackupStore, ObjectKind
from freezer.utils.blocks import Block, PartStart
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


class Names(NamedTuple):
    """What messages call an option, and what credentials need to read and list."""

    stale_after: str
    reading: str
    listing: str


class ObjectPendingBackup(PendingBackup):
    """A level whose folder is claimed.

    :param storage: reads back what was written
    :param names: for messages
    :raises Conflict: another agent has the folder
    """

    def __init__(
        self,
        storage: Readable,
        bucket: BackupStore,
        backup: Backup,
        plan: UploadPlan,
        journal: Journal,
        names: Names,
    ) -> None:
        super().__init__(backup)
        self.storage = storage
        self.names = names
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
        key = keys.key_of(path)
        request = Future[object]()
        with threads(1, 'put') as pool:
            try:
                begin(pool, request, self.bucket.put, key, content, ObjectKind.RECORD)
                request.result()
            except BaseException as error:
                if not have_ended([request], error):
                    self.entry.keep()
                raise

    def put_identity(self, identity: bytes) -> None:
        self.put(self.paths.identity, identity)

    def write(self, blocks: Iterable[Block | PartStart]) -> WrittenBackup:
        written = {
            part: self._write_stream(self.paths.stream(part), content)
            for part, content in split_parts(blocks)
        }
        return _ObjectWrittenBackup(self, written)

    def _write_stream(
        self, paths: StreamPaths, blocks: Iterable[Block]
    ) -> manifest.Manifest:
        """:raises StorageConfigError: its keys would be too long"""
        keys.check_folder(paths.folder)
        folder = keys.key_of(paths.folder)
        with self.writer(secrets.token_hex(16), ObjectKind.VOLUME) as writer:
            written = StreamUpload(writer, folder).write(blocks)
        LOG.info(
            'stored %s: %d bytes in %d volumes',
            self.bucket.url(folder),
            written.size,
            len(written.volumes),
        )
        return written

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


class _ObjectWrittenBackup(WrittenBackup):
    """:param written: the manifest of each stream, as it was sent"""

    def __init__(
        self, pending: ObjectPendingBackup, written: Mapping[str, manifest.Manifest]
    ) -> None:
        self._pending = pending
        self._written = written

    @property
    def _tokens(self) -> dict[str, str]:
        return {part: written.token for part, written in self._written.items()}

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
        document = manifest.commit_marker(marker, self._tokens, state, record)
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
        outgoing, token = OutgoingIndex(index), secrets.token_hex(16)
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
        """Check that the store has the volumes and manifests that it confirmed.

        :raises IntegrityError: the store does not have one of them
        """
        for part, written in self._written.items():
            paths = self._pending.paths.stream(part)
            self._verify_stream(paths, written, probe)

    def _verify_stream(
        self, paths: StreamPaths, written: manifest.Manifest, probe: ReadProbe
    ) -> None:
        storage, bucket = self._pending.storage, self._pending.bucket
        with in_background(
            lambda: probe.attempt(lambda: read_manifest(storage, paths, written.token))
        ) as read:
            confirm(bucket, keys.key_of(paths.folder), written, probe)
        found = read.result()
        if found is not None and found != written:
            raise IntegrityError(
                f'{storage.location(paths.manifest)} differs from what was written: '
                f'run the backup again'
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
            where = pending.storage.location(pending.paths.marker)
            if manifest.stream_tokens(stored.marker, where) != self._tokens:
                raise IntegrityError(
                    f'{where} differs from what was written: run the backup again'
                )
        if not held.result():
            raise self._claim_lost_error()

    def _claim_lost_error(self) -> Conflict:
        option = self._pending.names.stale_after
        return Conflict(
            f'{self._pending.location}: another machine treated this backup as dead '
            f'({option}) and may have deleted parts of it: run it again, and raise '
            f'--{option} there'
        )

    def _warn_unverified(self, read_denied: bool) -> None:
        """Print one line if something could not be checked."""
        claim = self._pending.claim
        names = self._pending.names
        unverified = []
        if read_denied:
            unverified.append(
                f"not read back ({names.reading} denied); relying on the store's "
                f'write confirmations'
            )
        if not claim.listed:
            unverified.append(
                f'the keys may not list ({names.listing}), so other backups of this '
                f'name are unknown'
                + ('' if claim.exclusive else ', and may start in the same second')
            )
        if unverified:
            NOTICES.warning(
                '%s is stored; %s', self._pending.location, '; '.join(unverified)
            )
