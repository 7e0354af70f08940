"""Listings, of which no page may be missed; and what is deleted by them."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.calls import Calls
from freezer.storage.objects import (
    ListedObject,
    OpenUpload,
    Upload,
    UploadedParts,
)

LOG = logging.getLogger(__name__)

DELETE_BATCH = 1000


class Version(NamedTuple):
    """One version of an object; a delete marker has no size."""

    key: str
    version_id: str
    size: int
    is_latest: bool
    is_marker: bool


@dataclass(frozen=True)
class _Listing:
    """How one kind of listing is asked for.

    :ivar following: of a page that is cut off, what asks for the next one
    """

    operation: str
    doing: str
    following: Callable[[Any], dict[str, Any]]


def _told(**markers: str) -> Callable[[Any], dict[str, Any]]:
    """Arguments for the next page, from the members of this one that have them."""
    return lambda page: {
        argument: page[member]
        for argument, member in markers.items()
        if page.get(member)
    }


def _after_keys(page: Any) -> dict[str, Any]:
    # Not NextMarker where it can be had from the page: botocore decodes it, and
    # SeaweedFS and Ceph do not encode it, so a key with a plus would be another.
    if page.get('CommonPrefixes'):
        return {'Marker': max(_keys(page))}
    # The last one, not the highest: SeaweedFS lists directory by directory.
    if page.get('Contents'):
        return {'Marker': page['Contents'][-1]['Key']}
    return _told(Marker='NextMarker')(page)


def _after_versions(page: Any) -> dict[str, Any]:
    told = _told(KeyMarker='NextKeyMarker', VersionIdMarker='NextVersionIdMarker')(page)
    keys = _keys(page)
    # For the same reason as in _after_keys.
    return {**told, 'KeyMarker': max(keys)} if keys else told


_OBJECTS = {
    1: _Listing('list_objects', 'list', _after_keys),
    2: _Listing(
        'list_objects_v2', 'list', _told(ContinuationToken='NextContinuationToken')
    ),
}
_VERSIONS = _Listing('list_object_versions', 'list versions of', _after_versions)
_UPLOADS = _Listing(
    'list_multipart_uploads',
    'list uploads of',
    _told(KeyMarker='NextKeyMarker', UploadIdMarker='NextUploadIdMarker'),
)
_PARTS = _Listing(
    'list_parts', 'list parts of', _told(PartNumberMarker='NextPartNumberMarker')
)


class Listings(Calls):
    """What a bucket holds.

    Of each listing: never an end before the end. A page that could not be had, or is
    not one of the listing that was asked for, raises StorageException.
    """

    _batches_refused = False

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key starts with the prefix."""
        for page in self._pages(_OBJECTS[self.list_version], prefix, Prefix=prefix):
            for item in page.get('Contents', ()):
                yield ListedObject(
                    item['Key'], item['Size'], _epoch(item, 'LastModified')
                )

    def list_children(self, prefix: str) -> Iterator[str]:
        """The names below a prefix that ends with ``/``, up to the next slash."""
        listing = _OBJECTS[self.list_version]
        for page in self._pages(listing, prefix, Prefix=prefix, Delimiter='/'):
            for key in _keys(page):
                if key != prefix:
                    yield key[len(prefix) :].rstrip('/')

    def list_versions(self, prefix: str) -> Iterator[Version]:
        """Every version and delete marker of the keys that start with the prefix; those
        of one key together."""
        for page in self._pages(_VERSIONS, prefix, Prefix=prefix):
            found = [
                Version(
                    item['Key'],
                    item['VersionId'],
                    item.get('Size', 0),
                    item['IsLatest'],
                    kind == 'DeleteMarkers',
                )
                for kind in ('Versions', 'DeleteMarkers')
                for item in page.get(kind, ())
            ]
            yield from sorted(found, key=lambda version: version.key)

    def list_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        """Open uploads of keys that start with the prefix."""
        try:
            for page in self._pages(_UPLOADS, prefix, Prefix=prefix):
                for item in page.get('Uploads', ()):
                    upload = Upload(item['Key'], item['UploadId'])
                    yield OpenUpload(upload, _epoch(item, 'Initiated'))
        except e.UploadNotFound:
            # rclone serve s3, of a bucket that has none.
            return

    def parts(self, upload: Upload) -> UploadedParts:
        """What an open upload holds.

        :raises NotFound: it is not open any more (NoSuchUpload; NoSuchKey on Ceph)
        """
        size, modified = 0, 0.0
        for page in self._pages(
            _PARTS, upload.key, Key=upload.key, UploadId=upload.upload_id
        ):
            for item in page.get('Parts', ()):
                size += item['Size']
                modified = max(modified, _epoch(item, 'LastModified'))
        return UploadedParts(size, modified)

    def _pages(self, listing: _Listing, what: str, **where: Any) -> Iterator[Any]:
        """:param what: the key, or what every key that is listed starts with"""
        after: dict[str, Any] = {}

        def call() -> Any:
            page = self._ask(listing.operation, **where, **after)
            self._check(page, listing, what, after)
            return page

        while True:
            page = self._run(listing.doing, what, call)
            yield page
            if not page.get('IsTruncated'):
                return
            after = listing.following(page)

    def _check(
        self, page: Any, listing: _Listing, what: str, after: Mapping[str, Any]
    ) -> None:
        """:raises StorageException: the page is none of this listing, or no new one"""
        problem = ''
        # What a proxy in trouble answers passes; a store that lists wrongly stays so.
        kind: type[e.StorageException] = e.IncompleteAnswer
        following = listing.following(page) if page.get('IsTruncated') else None
        if page.keys().isdisjoint(('IsTruncated', 'Name', 'Bucket')):
            problem = 'the answer is not a listing'
        elif following == {}:
            problem = 'the listing is cut off and does not say where it goes on'
        elif following and following == after:
            problem = 'the listing goes on where it began'
            kind = e.Rejected
        elif not all(key.startswith(what) for key in _keys(page)):
            problem = 'the listing names keys that were not asked for'
            kind = e.Rejected
        if problem:
            where = f'{self.url(what)} at {self.endpoint}'
            raise kind(f'{listing.doing} {where}: {problem}')

    def listing_with(self, version: int) -> Self:
        """The same bucket, but for the version of ListObjects."""
        other = copy.copy(self)
        other.list_version = version
        return other

    # Deleting

    def delete(self, keys: Sequence[str]) -> None:
        """Delete in this order; keys that are not there are no error.

        :raises PartialDelete: some are still there
        """
        self._delete([{'Key': key} for key in keys])

    def delete_versions(self, versions: Sequence[Version]) -> None:
        """Delete for good, in this order.

        :raises PartialDelete: some are still there
        """
        self._delete([{'Key': v.key, 'VersionId': v.version_id} for v in versions])

    def _delete(self, objects: Sequence[dict[str, str]]) -> None:
        failed: dict[str, str] = {}
        for start in range(0, len(objects), DELETE_BATCH):
            batch = objects[start : start + DELETE_BATCH]
            if len(batch) == 1 or self._batches_refused:
                failed |= self._delete_singly(batch)
                continue
            try:
                failed |= self._delete_batch(batch)
            except e.Rejected as error:
                LOG.info('deleting one by one, batches are refused: %s', error)
                self._batches_refused = True
                failed |= self._delete_singly(batch)
        if failed:
            key, reason = next(iter(failed.items()))
            right = 's3:DeleteObject' + ('Version' if 'VersionId' in objects[0] else '')
            if 'AccessDenied' in reason and right not in reason:
                reason += f': it takes {right}'
            raise e.PartialDelete(
                f'{len(failed)} of {len(objects)} objects could not be deleted from '
                f'{self.url()} at {self.endpoint}, first {key}: {reason}; --action '
                f'admin tries again'
            )

    def _delete_batch(self, objects: Sequence[dict[str, str]]) -> dict[str, str]:
        request = {'Objects': list(objects), 'Quiet': False}

        def call() -> dict[str, str]:
            answer = self._ask('delete_objects', Delete=request)
            errors = {
                item.get('Key', '?'): f'{item.get("Code")} {item.get("Message", "")}'
                for item in answer.get('Errors', ())
                if item.get('Code') != 'NoSuchKey'
            }
            told = len(answer.get('Deleted', ())) + len(answer.get('Errors', ()))
            if told < len(objects):
                raise e.IncompleteAnswer(
                    f'deleting, {self.url()} at {self.endpoint}: the answer does not '
                    f'say what became of every object'
                )
            return errors

        what = f'{objects[0]["Key"]} and {len(objects) - 1} more'
        return self._run('delete', what, call)

    def _delete_singly(self, objects: Sequence[dict[str, str]]) -> dict[str, str]:
        failed = {}
        for one in objects:
            try:
                self._run(
                    'delete',
                    one['Key'],
                    lambda one=one: self._ask('delete_object', **one),  # type: ignore[misc]
                )
            except e.BucketNotFound:
                raise
            except e.NotFound:
                continue
            except e.AccessDenied as error:
                failed[one['Key']] = error.message
        return failed


def _keys(page: Any) -> list[str]:
    """Every key that a page names, or what it begins with."""
    kinds = ('Contents', 'Versions', 'DeleteMarkers', 'Uploads')
    keys = [item['Key'] for kind in kinds for item in page.get(kind, ())]
    return keys + [item['Prefix'] for item in page.get('CommonPrefixes', ())]


def _epoch(item: Any, name: str) -> float:
    """A date in an answer; one that is missing counts as now, so as nothing old."""
    moment = item.get(name)
    return float(moment.timestamp()) if moment is not None else time.time()
