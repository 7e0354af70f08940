"""Listings: each is complete or raises; none is silently cut off."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.requests import Requests
from freezer.storage.objects import (
    ListedObject,
    OpenUpload,
    Upload,
    UploadedParts,
)


class Version(NamedTuple):
    """One version of an object; a delete marker has no size."""

    key: str
    version_id: str
    size: int
    is_latest: bool
    is_marker: bool


@dataclass(frozen=True)
class _Listing:
    """One kind of listing.

    :ivar following: returns the arguments for the page after a truncated one
    """

    operation: str
    doing: str
    following: Callable[[Any], dict[str, Any]]


def _markers(**names: str) -> Callable[[Any], dict[str, Any]]:
    """Takes the arguments for the next page from members of this one."""
    return lambda page: {
        argument: page[member] for argument, member in names.items() if page.get(member)
    }


def _after_keys(page: Any) -> dict[str, Any]:
    # From the page, and from NextMarker only if the page is empty: botocore
    # decodes NextMarker, SeaweedFS and Ceph do not encode it, and a key with a plus
    # would become another key.
    if page.get('CommonPrefixes'):
        return {'Marker': max(_keys(page))}
    # The last one, not the highest: SeaweedFS lists directory by directory.
    if page.get('Contents'):
        return {'Marker': page['Contents'][-1]['Key']}
    return _markers(Marker='NextMarker')(page)


def _after_versions(page: Any) -> dict[str, Any]:
    markers = _markers(
        KeyMarker='NextKeyMarker', VersionIdMarker='NextVersionIdMarker'
    )(page)
    keys = _keys(page)
    # For the same reason as in _after_keys.
    return {**markers, 'KeyMarker': max(keys)} if keys else markers


_OBJECTS = {
    1: _Listing('list_objects', 'list', _after_keys),
    2: _Listing(
        'list_objects_v2', 'list', _markers(ContinuationToken='NextContinuationToken')
    ),
}
_VERSIONS = _Listing('list_object_versions', 'list versions of', _after_versions)
_UPLOADS = _Listing(
    'list_multipart_uploads',
    'list uploads of',
    _markers(KeyMarker='NextKeyMarker', UploadIdMarker='NextUploadIdMarker'),
)
_PARTS = _Listing(
    'list_parts', 'list parts of', _markers(PartNumberMarker='NextPartNumberMarker')
)


# Pages without a key, one after another: stores that filter late have a few.
_MAX_EMPTY = 1000


class Listings:
    """Lists what a bucket holds.

    A page that could not be fetched, or does not belong to the listing, raises
    StorageException.
    """

    def __init__(self, requests: Requests) -> None:
        self._http = requests

    def list(self, prefix: str) -> Iterator[ListedObject]:
        for page in self._pages(
            _OBJECTS[self._http.list_version], prefix, Prefix=prefix
        ):
            for item in page.get('Contents', ()):
                yield ListedObject(
                    item['Key'], item['Size'], _epoch(item, 'LastModified')
                )

    def list_children(self, prefix: str) -> Iterator[str]:
        """The names directly below a prefix that ends with ``/``."""
        listing = _OBJECTS[self._http.list_version]
        for page in self._pages(listing, prefix, Prefix=prefix, Delimiter='/'):
            for key in _keys(page):
                if key != prefix:
                    yield key[len(prefix) :].rstrip('/')

    def list_versions(self, prefix: str) -> Iterator[Version]:
        """Every version and delete marker of keys that start with the prefix.

        Those of one key come together.
        """
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
        try:
            for page in self._pages(_UPLOADS, prefix, Prefix=prefix):
                for item in page.get('Uploads', ()):
                    upload = Upload(item['Key'], item['UploadId'])
                    yield OpenUpload(upload, _epoch(item, 'Initiated'))
        except e.UploadNotFound:
            # rclone serve s3, if the bucket has none.
            return

    def parts(self, upload: Upload) -> UploadedParts:
        """:raises NotFound: it is no longer open (NoSuchUpload; NoSuchKey on Ceph)"""
        size, modified = 0, 0.0
        for page in self._pages(
            _PARTS, upload.key, Key=upload.key, UploadId=upload.upload_id
        ):
            for item in page.get('Parts', ()):
                size += item['Size']
                modified = max(modified, _epoch(item, 'LastModified'))
        return UploadedParts(size, modified)

    def _pages(self, listing: _Listing, what: str, **where: Any) -> Iterator[Any]:
        """:param what: the key, or the prefix"""
        after: dict[str, Any] = {}
        empty = 0
        before: list[str] = []

        def call() -> Any:
            page = self._http.send(listing.operation, **where, **after)
            self._check(page, listing, what, after)
            return page

        while True:
            page = self._http.run(listing.doing, what, call)
            keys = _keys(page)
            empty = 0 if keys else empty + 1
            # Versions, uploads and parts may fill several pages for one key.
            same = bool(keys) and keys == before and listing in _OBJECTS.values()
            if same or empty > _MAX_EMPTY:
                raise e.Rejected(
                    f'{listing.doing} {self._http.where(what)}: the listing has no end'
                )
            yield page
            if not page.get('IsTruncated'):
                return
            after, before = listing.following(page), keys

    def _check(
        self, page: Any, listing: _Listing, what: str, after: Mapping[str, Any]
    ) -> None:
        """:raises StorageException: a page of another listing, or the same one again"""
        problem = ''
        # A proxy in trouble recovers; a store that lists wrongly will go on doing so.
        kind: type[e.StorageException] = e.IncompleteAnswer
        following = listing.following(page) if page.get('IsTruncated') else None
        if page.keys().isdisjoint(('IsTruncated', 'Name', 'Bucket')):
            problem = 'the answer is not a listing'
        elif following == {}:
            problem = 'the listing is truncated, without a marker for the next page'
        elif following and following == after:
            problem = 'the next page is the same one again'
            kind = e.Rejected
        elif not all(key.startswith(what) for key in _keys(page)):
            problem = 'the listing contains keys without the prefix'
            kind = e.Rejected
        if problem:
            where = self._http.where(what)
            raise kind(f'{listing.doing} {where}: {problem}')


def _keys(page: Any) -> list[str]:
    """Every key and common prefix on a page."""
    kinds = ('Contents', 'Versions', 'DeleteMarkers', 'Uploads')
    keys = [item['Key'] for kind in kinds for item in page.get(kind, ())]
    return keys + [item['Prefix'] for item in page.get('CommonPrefixes', ())]


def _epoch(item: Any, name: str) -> float:
    """A date of an answer in epoch seconds; now if missing, so that it is not old."""
    moment = item.get(name)
    return float(moment.timestamp()) if moment is not None else time.time()
