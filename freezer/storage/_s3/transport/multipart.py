"""Multipart uploads: they become an object when they are completed."""

import functools
import logging
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.listings import Listings
from freezer.storage._s3.transport.objects import TOKEN_KEY, Objects
from freezer.storage._s3.transport.requests import Requests
from freezer.storage.objects import ObjectKind, Sent, UncertainComplete, Upload

LOG = logging.getLogger(__name__)

# No store is known to allow fewer; Swift and Scaleway allow so many.
_FEWEST_PARTS = 1000


def numbered(sent: Sequence[Sent]) -> list[dict[str, Any]]:
    """The parts as Complete lists them."""
    return [
        {'PartNumber': number, 'ETag': part.etag, **part.checksum}
        for number, part in enumerate(sent, 1)
    ]


class Multipart:
    """Opens, fills, completes and aborts uploads."""

    def __init__(
        self, requests: Requests, objects: Objects, listings: Listings
    ) -> None:
        self._http = requests
        self._objects = objects
        self._listings = listings

    def create_upload(
        self, key: str, token: str, kind: ObjectKind = ObjectKind.VOLUME
    ) -> Upload:
        """Open a multipart upload.

        If an answer was lost, the upload whose id was lost with it is aborted.
        """
        attempts = 0

        def call() -> str:
            nonlocal attempts
            attempts += 1
            answer = self._http.send(
                'create_multipart_upload',
                kind,
                Key=key,
                Metadata={TOKEN_KEY: token},
                **self._http.parameters.of_upload(),
            )
            if not answer.get('UploadId'):
                raise e.IncompleteAnswer(
                    f'open upload of {self._http.where(key)}: the answer has no '
                    f'upload id'
                )
            return str(answer['UploadId'])

        upload = Upload(key, self._http.run('open upload of', key, call, kind=kind))
        if attempts > 1:
            self._abort_others(upload)
        return upload

    def _abort_others(self, ours: Upload) -> None:
        """Abort the other uploads of our key: nobody else writes to it."""
        try:
            for other, _initiated in self._listings.list_uploads(ours.key):
                if other.key == ours.key and other != ours:
                    self.abort(other)
        except e.StorageException as error:
            LOG.warning('an upload whose id was lost may remain: %s', error)

    def upload_part(
        self,
        upload: Upload,
        number: int,
        body: bytes | bytearray,
        cancelled: threading.Event | None = None,
    ) -> Sent:
        """Send part ``number``, from 1. Attempts never overlap."""

        def call() -> Sent:
            checksum = self._http.parameters.of_body(body)
            answer = self._http.transfer(
                'upload_part',
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=body,
                **checksum,
            )
            doing = f'upload part {number} of'
            etag = self._http.etag(answer.etag, doing, upload.key)
            checksum.pop('ContentMD5', None)
            return Sent(etag, checksum)

        try:
            return self._http.run(
                f'upload part {number} of', upload.key, call, cancelled
            )
        except e.Rejected as error:
            if number <= _FEWEST_PARTS:
                raise
            raise e.Rejected(
                f'{error.message}; if this store takes no more than {number - 1} parts '
                f'of an object, set --s3-max-parts to that'
            ) from error

    def complete(
        self, upload: Upload, sent: Sequence[Sent], size: int, token: str
    ) -> str | None:
        """Make the parts an object of ``size`` bytes, and return its ETag.

        If the answer is lost, malformed or has no ETag, the object itself is looked up:
        it is ours only with our token and size. The ETag is always the one of the
        object. Without the right to read, a well-formed answer is trusted, and the ETag
        is None if it has none (Ceph); no other answer is.

        :raises UncertainComplete: it may be an object, or become one later
        """
        parts = numbered(sent)
        uncertain = read_denied = False
        where = self._http.where(upload.key)

        def send() -> Any:
            return self._http.send(
                'complete_multipart_upload',
                patient=True,
                Key=upload.key,
                UploadId=upload.upload_id,
                MultipartUpload={'Parts': parts},
            )

        def call() -> str | None:
            nonlocal uncertain, read_denied
            answer: Any = {}
            error: e.StorageException
            try:
                answer = self._http.attempt('complete', upload.key, send)
            except e.StorageException as failure:
                error = failure
            else:
                if answer.get('ETag'):
                    # From here on, an Abort would come after a Complete.
                    uncertain = True
                    return self._etag_of_completed(upload.key, answer)
                error = e.IncompleteAnswer(f'complete {where}: the answer has no ETag')
            final = not error.temporary and not isinstance(error, e.UploadNotFound)
            if final and not uncertain:
                raise error
            uncertain = True
            try:
                etag = self._etag_if_ours(upload.key, size, token)
            except e.AccessDenied as denied:
                if _names_key(answer, upload.key):
                    return None
                read_denied = True
                raise error from denied
            if etag is None:
                raise error
            return etag

        try:
            return self._http.retry.run(call)
        except e.StorageException as error:
            gone = isinstance(error, e.UploadNotFound) and not read_denied
            if not uncertain or gone:
                raise
            raise UncertainComplete(
                f'{error.message}; it is not known whether '
                f'{self._http.url(upload.key)} was completed, so upload '
                f'{upload.upload_id} was left as it is'
            ) from error

    def _etag_of_completed(self, key: str, answer: Any) -> str:
        """The object's own: rclone serve s3 answers Complete with another one."""
        try:
            return self._objects.head(key).etag
        except e.AccessDenied as error:
            LOG.debug('not read back: %s', error.message)
            return str(answer['ETag'])

    def _etag_if_ours(self, key: str, size: int, token: str) -> str | None:
        """The ETag of our object; None if it is not there, or cannot be read."""
        try:
            head = self._objects.head(key)
            if head.token != token or head.size != size:
                return None
            # An object may list and HEAD, and not be readable (ceph #60771).
            self._objects.get_range(key, 0, 1, head.etag)
        except (e.NotFound, e.Conflict, e.IntegrityError):
            return None
        except e.Archived:
            # In a class that cannot be read at once: it is there.
            LOG.debug('%s is archived', self._http.url(key))
        return head.etag

    def apply_lock_and_tags(self, key: str) -> None:
        """Lock and tag a completed upload, if the store has not done so.

        Ceph 16.2 forgets what was set when the upload was opened, and gives the object
        the bucket's own retention, if it has one. And an upload may have been open for
        long.
        """
        fixes = self._http.parameters.post_upload_fixes()
        if not fixes:
            return
        send = functools.partial(self._http.send, Key=key)
        run = self._http.run
        try:
            found = run('look up', key, lambda: send('head_object'))
        except e.AccessDenied as error:
            LOG.debug('locked and tagged without a look: %s', error.message)
            found = {}
        for is_there, operation, arguments in fixes:
            if not is_there(found):
                call = functools.partial(send, operation, **arguments)
                run(operation.replace('_', ' '), key, call, kind=ObjectKind.VOLUME)

    def abort(self, upload: Upload) -> None:
        call = functools.partial(
            self._http.send,
            'abort_multipart_upload',
            Key=upload.key,
            UploadId=upload.upload_id,
        )
        try:
            self._http.run('abort upload of', upload.key, call)
        except e.NotFound:
            # NoSuchUpload; Swift answers NoSuchKey for a completed one.
            LOG.debug('upload %s of %s is gone', upload.upload_id, upload.key)


def _names_key(answer: Any, key: str) -> bool:
    """Whether an answer to Complete is well-formed: it names the key."""
    named = str(answer.get('Key') or '')
    return key in (named, urllib.parse.unquote(named))
