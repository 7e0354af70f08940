"""Multipart uploads, which are an object only when they are completed."""

import functools
import logging
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.calls import WIRE_ERRORS
from freezer.storage._s3.transport.listings import Listings
from freezer.storage._s3.transport.objects import TOKEN_KEY, Objects
from freezer.storage.objects import ObjectKind, Upload

LOG = logging.getLogger(__name__)

# No store is known that allows fewer; Swift and Scaleway allow that many.
_FEWEST_PARTS = 1000


class Sent(NamedTuple):
    """A part as the store took it; its checksum as Complete wants it repeated."""

    etag: str
    checksum: Mapping[str, Any]


class UncertainComplete(e.StorageException):
    """Whether the upload became an object is not known: it must not be aborted.

    On Ceph an Abort that races a Complete leaves an object that lists and cannot be
    read (ceph #60771).
    """


class Multipart(Objects, Listings):
    """The way of an upload from its opening to its object, or to its end."""

    def create_upload(self, key: str, token: str) -> Upload:
        """Open a multipart upload. If the answer is lost and it is asked again, the
        upload nobody has the id of is aborted."""
        attempts = 0
        kind = ObjectKind.VOLUME

        def call() -> str:
            nonlocal attempts
            attempts += 1
            answer = self._ask(
                'create_multipart_upload',
                kind,
                Key=key,
                Metadata={TOKEN_KEY: token},
                **self._parameters.of_upload(),
            )
            if not answer.get('UploadId'):
                raise e.IncompleteAnswer(
                    f'open upload of {self.url(key)} at {self.endpoint}: the answer '
                    f'has no upload id'
                )
            return str(answer['UploadId'])

        upload = Upload(key, self._run('open upload of', key, call, kind=kind))
        if attempts > 1:
            self._abort_others(upload)
        return upload

    def _abort_others(self, ours: Upload) -> None:
        """Nobody else writes to our key, so its other uploads are our lost ones."""
        try:
            for other, _initiated in self.list_uploads(ours.key):
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
        """Send part ``number`` (from 1). Attempts never overlap."""

        def call() -> Sent:
            checksum = self._parameters.of_body(body)
            answer = self._ask(
                'upload_part',
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=body,
                **checksum,
            )
            etag = self._etag(answer, f'upload part {number} of', upload.key)
            checksum.pop('ContentMD5', None)
            return Sent(etag, checksum)

        try:
            return self._run(f'upload part {number} of', upload.key, call, cancelled)
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
        """Make the parts an object of ``size`` bytes; its ETag.

        An answer that is lost, odd or has no ETag is not believed either way: the
        object itself is looked at, and is ours only with our token and size. Its ETag
        comes from there in any case. Where the keys may not look, an answer that is
        whole is believed, and the ETag is None if it has none (Ceph); no other is.

        :raises UncertainComplete: it may have become an object, or become one later
        """
        parts = [
            {'PartNumber': number, 'ETag': part.etag, **part.checksum}
            for number, part in enumerate(sent, 1)
        ]
        uncertain = unseen = False

        def call() -> str | None:
            nonlocal uncertain, unseen
            confirmed = False
            try:
                client = self._patient_client()
                answer = self._clock.run(
                    lambda: self._ask(
                        'complete_multipart_upload',
                        client=client,
                        Key=upload.key,
                        UploadId=upload.upload_id,
                        MultipartUpload={'Parts': parts},
                    )
                )
                if answer.get('ETag'):
                    # An Abort would be one after a Complete.
                    uncertain = True
                    return self._etag_of_completed(upload.key, answer)
                confirmed = _is_about(answer, upload.key)
                error: e.StorageException = e.IncompleteAnswer(
                    f'complete {self.url(upload.key)} at {self.endpoint}: the answer '
                    f'has no ETag'
                )
                cause: Exception | None = None
            except WIRE_ERRORS as failure:
                error = self._translate(failure, 'complete', upload.key)
                cause = failure
            final = not error.temporary and not isinstance(error, e.UploadNotFound)
            if final and not uncertain:
                raise error from cause
            uncertain = True
            try:
                etag = self._completed(upload.key, size, token)
            except e.AccessDenied as refused:
                if confirmed:
                    return None
                unseen = True
                raise error from refused
            if etag is not None:
                return etag
            raise error from cause

        try:
            return self._retry.run(call)
        except e.StorageException as error:
            gone = isinstance(error, e.UploadNotFound) and not unseen
            if uncertain and not gone:
                raise UncertainComplete(
                    f'{error.message}; whether {self.url(upload.key)} was completed is '
                    f'not known, so upload {upload.upload_id} was left as it is'
                ) from error
            raise

    def _etag_of_completed(self, key: str, answer: Any) -> str:
        """As a restore will see it: rclone serve s3 says another when it completes."""
        try:
            return self.head(key).etag
        except e.AccessDenied as error:
            LOG.debug('not looked at: %s', error.message)
            return str(answer['ETag'])

    def _completed(self, key: str, size: int, token: str) -> str | None:
        """The ETag of our object if it is there and can be read."""
        try:
            head = self.head(key)
            if head.token != token or head.size != size:
                return None
            # An object may list and HEAD, and not be readable (ceph #60771).
            self.get_range(key, 0, 1, head.etag)
        except (e.NotFound, e.Conflict, e.IntegrityError):
            return None
        except e.Archived:
            # Written to a class that is not read at once: it is there.
            LOG.debug('%s is archived', self.url(key))
        return head.etag

    def apply_lock_and_tags(self, key: str) -> None:
        """Lock and tag a completed upload, where the store has not done so.

        Ceph 16.2 forgets what it was told when the upload was opened, and gives the
        object the bucket's own retention, if it has one. And an upload may have been
        open for long.
        """
        post_upload_fixes = self._parameters.post_upload_fixes()
        if not post_upload_fixes:
            return
        try:
            found = self._run('look at', key, lambda: self._ask('head_object', Key=key))
        except e.AccessDenied as error:
            LOG.debug('locked and tagged once more, not looked at: %s', error.message)
            found = {}
        for is_there, operation, arguments in post_upload_fixes:
            if not is_there(found):
                call = functools.partial(self._ask, operation, Key=key, **arguments)
                self._run(
                    operation.replace('_', ' '), key, call, kind=ObjectKind.VOLUME
                )

    def abort(self, upload: Upload) -> None:
        """Give up an upload and what it holds; one that is gone is no error."""

        def call() -> None:
            self._ask(
                'abort_multipart_upload', Key=upload.key, UploadId=upload.upload_id
            )

        try:
            self._run('abort upload of', upload.key, call)
        except e.NotFound:
            # NoSuchUpload; Swift says NoSuchKey of one that was completed.
            LOG.debug('upload %s of %s is gone', upload.upload_id, upload.key)


def _is_about(answer: Any, key: str) -> bool:
    """Whether an answer to Complete says what was completed: it is all there."""
    told = str(answer.get('Key') or '')
    return key in (told, urllib.parse.unquote(told))
