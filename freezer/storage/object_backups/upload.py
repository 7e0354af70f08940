"""Stream -> volumes, their digests, and the manifest; or one object."""

import functools
import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from freezer.storage import layout, manifest
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.storage.object_backups.read_probe import ReadProbe
from freezer.storage.object_backups.threads import begin, threads
from freezer.storage.object_backups.volumes import Blocks, VolumeWriter
from freezer.storage.objects import BackupStore, ObjectKind
from freezer.utils.blocks import Block


class StreamUpload:
    """Writes one stream below one folder, of a level or of a part.

    :param folder: its key, without a slash at its end
    """

    def __init__(self, writer: VolumeWriter, folder: str) -> None:
        self._writer = writer
        self._folder = folder
        self._manifest = manifest.ManifestBuilder(writer.token, writer.plan.digest)
        self._digests: Future[None] | None = None

    def write(self, chunks: Iterable[Block | str]) -> manifest.Manifest:
        """Store the stream, then its manifest.

        Not atomic: on failure the open upload is aborted, and what was completed
        before is the caller's to remove.

        :raises UncertainComplete: an upload was left as it is
        """
        blocks = self._writer.blocks(chunks)
        try:
            with threads(self._writer.plan.concurrency, 'upload') as pool:
                for number in itertools.count():
                    if not self._write_volume(number, blocks, pool):
                        break
                found = self._manifest.finish()
                put = functools.partial(self._put, layout.MANIFEST, found.dump())
                self._writer.result(pool, Future(), put)
        finally:
            # After a signal they are not waited for, and may be written later.
            if self._digests is not None and not self._digests.done():
                self._writer.left_behind = True
        return found

    def _write_volume(
        self, number: int, blocks: Blocks, pool: ThreadPoolExecutor
    ) -> bool:
        """One volume and its digests, at the same time; whether more may follow."""
        name = layout.volume_name(number)
        digests_name = layout.digests_name(number)
        key = f'{self._folder}/{name}'
        with self._writer.volume(key, blocks, pool, may_be_empty=number == 0) as volume:
            if volume is None:
                return False
            lines = manifest.dump_digests(volume.digests)
            self._digests = Future()
            put = functools.partial(
                self._put, digests_name, lines, self._writer.cancelled
            )
            try:
                begin(pool, self._digests, put)
                etag = volume.store()
            except BaseException as error:
                # Nothing may be written any more when what is there is removed.
                self._writer.stop([self._digests], error)
                raise
        self._digests.result()
        part_size = self._writer.plan.part_size
        self._manifest.add(name, volume.size, part_size, digests_name, lines, etag)
        return not volume.is_last

    def _put(
        self, name: str, content: bytes, cancelled: threading.Event | None = None
    ) -> None:
        key = f'{self._folder}/{name}'
        self._writer.bucket.put(key, content, ObjectKind.RECORD, None, cancelled)


class Stored(NamedTuple):
    """An object that the store has confirmed. Size in bytes.

    :ivar etag: None if the store gave none
    """

    key: str
    size: int
    etag: str | None


def store_object(
    writer: VolumeWriter, key: str, chunks: Iterable[Block | str]
) -> Stored:
    """Store a stream as one object: with one put, or as a multipart upload.

    Atomic, unless a signal interrupts it.

    :raises UncertainComplete: the upload was left as it is
    :raises StorageException: it is too long for one object
    """
    blocks, plan = writer.blocks(chunks), writer.plan
    with threads(plan.concurrency, 'upload') as pool:
        with writer.volume(key, blocks, pool, may_be_empty=True) as volume:
            assert volume is not None
            etag = volume.store()
    if not volume.is_last and blocks.take() is not None:
        writer.bucket.delete([key])
        raise StorageException(
            f'{writer.bucket.url(key)}: is longer than {plan.parts_per_volume} parts '
            f'of {plan.part_size} bytes, and has to be one object: raise '
            f'--max-segment-size'
        )
    return Stored(key, volume.size, etag)


def confirm(
    bucket: BackupStore, folder: str, written: manifest.Manifest, probe: ReadProbe
) -> None:
    """Check that every volume exists and is the one that was written.

    :param folder: the key of the stream's folder, without a slash at its end
    :raises IntegrityError: names the volume that is not
    """
    for volume in written.volumes:
        stored = Stored(f'{folder}/{volume.name}', volume.size, volume.etag)
        confirm_object(bucket, stored, written.token, probe)


def confirm_object(
    bucket: BackupStore, stored: Stored, token: str, probe: ReadProbe
) -> None:
    """Check that an object exists and is the one that was written.

    :param token: that it was written with
    :raises IntegrityError: it is not
    """
    where = bucket.where(stored.key)
    try:
        head = probe.attempt(functools.partial(bucket.head, stored.key))
    except NotFound as error:
        raise IntegrityError(
            f'{where} is missing: the store confirmed it, and does not have it; '
            f'run the backup again, and --action check'
        ) from error
    if head is None:
        return
    # Some stores drop metadata of multipart uploads (GCS): compare the ETag then.
    ours = head.token == token if head.token is not None else head.etag == stored.etag
    if head.size != stored.size or not ours:
        raise IntegrityError(
            f'{where} differs from what was written: it has {head.size} bytes, '
            f'and {stored.size} were confirmed; run the backup again, and '
            f'--action check'
        )
