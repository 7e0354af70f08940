"""Objects of several segments: writing and examining them."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence

from freezer.storage import exceptions as e
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.objects import (
    Head,
    ObjectKind,
    OpenUpload,
    Sent,
    UncertainComplete,
    Upload,
    UploadedParts,
)
from freezer.storage.swift import large
from freezer.storage.swift.container_requests import ContainerRequests, Segments
from freezer.storage.swift.listings import Listings
from freezer.storage.swift.objects import ITSELF, Objects

LOG = logging.getLogger(__name__)


class SegmentedObjects:
    def __init__(
        self, http: ContainerRequests, listings: Listings, objects: Objects
    ) -> None:
        self._http = http
        self._listings = listings
        self._objects = objects

    def examine(self, key: str) -> Head:
        """The same, by the segments that are there.

        :raises IntegrityError: one is missing
        """
        found = self._objects.look_up(key)
        if not found.segment_size:
            return Head(found.size, found.etag, found.token)
        container, _, prefix = found.prefix.partition('/')
        listed = {
            item.key: (item.size, md5)
            for item, md5 in self._listings.list_with_md5(container, f'{prefix}/')
        }
        segments = [
            listed.get(large.segment(prefix, number))
            or self._examine_segment(container, large.segment(prefix, number))
            for number in range(-(-found.size // found.segment_size))
        ]
        size = sum(size for size, _md5 in segments)
        return Head(size, large.etag_of([md5 for _, md5 in segments]), found.token)

    def _examine_segment(self, container: str, key: str) -> tuple[int, str]:
        """Size and MD5 of a segment that is not listed, or not yet."""
        path = f'{container}/{key}'
        try:
            answer = self._http.run('look up', 'HEAD', path, query=ITSELF)
        except e.NotFound as error:
            raise self._http.missing(path) from error
        found = large.from_headers(path, answer.headers)
        return found.size, found.etag

    def create_upload(
        self, key: str, token: str, kind: ObjectKind = ObjectKind.VOLUME
    ) -> Upload:
        upload = Upload(key, large.segments_of(key, token))
        self._http.shared.uploads[upload] = Segments({}, {})
        return upload

    def upload_part(
        self,
        upload: Upload,
        number: int,
        body: bytes | bytearray,
        cancelled: threading.Event | None = None,
    ) -> Sent:
        parts = self._http.shared.uploads[upload]
        # Before it is sent: if that fails, it may be there.
        parts.sizes[number] = len(body)
        key = large.segment(upload.upload_id, number - 1)
        md5 = parts.md5s[number] = self._objects.put_checked(key, body, {}, cancelled)
        return Sent(md5, {})

    def complete(
        self, upload: Upload, sent: Sequence[Sent], size: int, token: str
    ) -> str:
        """Make the segments an object, once all of them were found.

        :raises IntegrityError: Swift confirmed a segment, and does not have it
        """
        parts = self._http.shared.uploads[upload]
        self._verify(upload, parts)
        etag = large.etag_of([part.etag for part in sent])
        prefix = self._http.path(upload.upload_id)
        headers = large.headers_of(prefix, size, parts.sizes[1], etag, token)
        try:
            self._objects.put_checked(upload.key, b'', headers)
        except e.StorageException as error:
            if not error.temporary:
                raise
            raise UncertainComplete(
                f'{error.message}; it is not known whether '
                f'{self._http.url(upload.key)} was written, so its segments were left '
                f'as they are'
            ) from error
        del self._http.shared.uploads[upload]
        self._delete_older(upload)
        return etag

    def _verify(self, upload: Upload, parts: Segments) -> None:
        """Check that all segments are there, with their sizes and MD5s.

        Swift may list them late. Freezer 19 reads those that are listed, so it is worth
        some seconds; in the end each that is not listed is looked up.
        """
        missing = {
            large.segment(upload.upload_id, number - 1): (size, parts.md5s[number])
            for number, size in parts.sizes.items()
        }
        try:
            for delay in LISTING_DELAYS:
                time.sleep(delay)
                for item, md5 in self._listings.list_with_md5(
                    self._http.name, f'{upload.upload_id}/'
                ):
                    if missing.get(item.key) == (item.size, md5):
                        del missing[item.key]
                if not missing:
                    return
        except e.AccessDenied as error:
            LOG.info('the segments cannot be listed: %s', error.message)
        LOG.warning('%d segments are not listed yet', len(missing))
        with contextlib.suppress(e.AccessDenied):
            for key, (size, md5) in missing.items():
                self._verify_one(key, size, md5)

    def _verify_one(self, key: str, size: int, md5: str) -> None:
        try:
            found = self._objects.look_up(key)
        except e.NotFound as error:
            raise e.IntegrityError(
                f'{self._http.where(key)} is missing: the store confirmed it, and does '
                f'not have it; run the backup again, and --action check'
            ) from error
        if (found.size, found.etag) != (size, md5):
            raise e.IntegrityError(
                f'{self._http.where(key)} differs from what was written: run the '
                f'backup again, and --action check'
            )

    def _delete_older(self, upload: Upload) -> None:
        """Delete the segments that an object had before: of an index."""
        folder = upload.upload_id.rpartition('/')[0]
        if folder != f'{upload.key}.segments':
            return
        ours = f'{upload.upload_id}/'
        try:
            found = [item.key for item in self._listings.list(f'{folder}/')]
        except e.AccessDenied as error:
            # They go with the level. Of a new backup there are none.
            LOG.info('older segments cannot be listed: %s', error.message)
            return
        self._objects.delete([key for key in found if not key.startswith(ours)])

    def apply_lock_and_tags(self, key: str) -> None:
        """Swift has neither."""

    def abort(self, upload: Upload) -> None:
        """Delete the segments of an upload of this process that is not an object.

        Others may belong to an object by now. They are in the folder of their level,
        and go with it.
        """
        parts = self._http.shared.uploads.pop(upload, None)
        if parts is not None:
            self._objects.delete(
                [large.segment(upload.upload_id, n - 1) for n in sorted(parts.sizes)]
            )

    def list_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        """None: segments are objects, and listed as such."""
        return iter(())

    def parts(self, upload: Upload) -> UploadedParts:
        raise e.NotFound(f'{self._http.url(upload.key)}: its segments are objects')
