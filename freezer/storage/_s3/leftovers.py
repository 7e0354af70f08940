"""What backups that ended badly left behind: found, measured, removed.

A level's folder whose marker was never written is nobody's, once its agent is gone. Who
is gone is known for sure of this machine's agents (the journal, and the process named
in the claim); of others it is concluded from nothing having changed for long.

Should such a conclusion be wrong, nothing is lost: the claim is removed first, and an
agent that does not find its claim after it has written its marker takes the marker back
and fails. One that finds it had written its marker before, and the marker is looked for
after the claim is gone, and before any data is touched.
"""

import itertools
import logging
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

from freezer.storage import layout
from freezer.storage._s3 import claim
from freezer.storage._s3.bucket import Bucket
from freezer.storage._s3.listings import DELETE_BATCH, Parts, Upload, Version
from freezer.storage._s3.survey import Survey
from freezer.storage.exceptions import AccessDenied, NotFound, PartialDelete, Rejected
from freezer.storage.housekeeping import Leftover

LOG = logging.getLogger(__name__)


def clear(
    bucket: Bucket,
    folder: str,
    marker: str | None,
    named: Collection[Upload] = (),
    *,
    dry_run: bool = False,
) -> Leftover:
    """Remove what is left of a backup nobody works at any more.

    Of one that was committed that is its claim and open uploads; else all of it.

    :param folder: key of the level's folder, without a slash at its end
    :param marker: key of the object that makes it a backup; None if nothing does
    :param named: uploads that are known to have been opened
    :returns: what there was
    """
    try:
        uploads = _open_uploads(bucket, folder, named)
        return _clear(bucket, folder, marker, uploads, dry_run)
    except AccessDenied:
        # As much can be done with keys that may only write.
        if not dry_run:
            for upload in named:
                bucket.abort(upload)
        raise


def _clear(
    bucket: Bucket,
    folder: str,
    marker: str | None,
    uploads: Mapping[Upload, Parts],
    dry_run: bool,
) -> Leftover:
    sizes = {item.key: item.size for item in bucket.list(f'{folder}/')}
    claims = [key for key in sizes if claim.is_claim(key)]
    if not dry_run:
        bucket.delete(claims)
    if marker is not None and bucket.has(marker):
        sizes = {key: sizes[key] for key in claims}
    if not dry_run:
        for upload in uploads:
            bucket.abort(upload)
        bucket.delete([key for key in sizes if key not in claims])
    return Leftover(
        bucket.url(folder),
        objects=len(sizes),
        uploads=len(uploads),
        size=sum(sizes.values()) + sum(held.size for held in uploads.values()),
    )


def clear_stale(
    bucket: Bucket,
    survey: Survey,
    live: Container[str],
    stale_after: float,
    *,
    dry_run: bool = False,
) -> Iterator[Leftover]:
    """Remove what is left in a container, where nothing has changed for so long.

    :param survey: of the container; what is removed is looked at again
    :param live: keys of folders that agents are known to write to
    :param stale_after: seconds
    :returns: what there was, folder by folder
    """
    now = survey.began
    for folder, suspect in survey.suspects().items():
        if folder in live or max(0, now - suspect.newest) < stale_after:
            continue
        uploads = _open_uploads(bucket, folder)
        newest = max((held.modified for held in uploads.values()), default=0.0)
        if max(0, now - newest) < stale_after or claim.held_here(bucket, folder):
            continue
        left = _clear(bucket, folder, suspect.marker, uploads, dry_run)
        if left:
            yield left


def _open_uploads(
    bucket: Bucket, folder: str, named: Iterable[Upload] = ()
) -> dict[Upload, Parts]:
    """The uploads below a folder that are open, as far as the store tells."""
    uploads = set(named)
    try:
        uploads |= {upload for upload, _when in bucket.list_uploads(f'{folder}/')}
    except (AccessDenied, Rejected) as error:
        LOG.info('open uploads cannot be listed: %s', error)
    found = {}
    for upload in uploads:
        try:
            found[upload] = bucket.parts(upload)
        except NotFound:
            continue
        except Rejected:
            found[upload] = Parts(0, 0.0)
    return found


def old_versions(bucket: Bucket, root: str) -> Iterator[Version]:
    """Versions of the container's keys that nobody sees any more."""
    for version in bucket.list_versions(root):
        ours = layout.parse(version.key[len(root) :]) is not None
        if ours and not version.is_latest and not version.is_marker:
            yield version


def purge(bucket: Bucket, root: str) -> None:
    """Delete old versions for good, then the delete markers with nothing below.

    In this order: a key whose delete marker went first would be there again.
    """
    _in_batches(bucket, old_versions(bucket, root))
    _in_batches(bucket, _bare_markers(bucket, root))


def _bare_markers(bucket: Bucket, root: str) -> Iterator[Version]:
    """The delete markers that hide nothing any more."""
    versions = bucket.list_versions(root)
    for key, group in itertools.groupby(versions, key=lambda version: version.key):
        if layout.parse(key[len(root) :]) is None:
            continue
        same = list(group)
        bare = all(version.is_marker for version in same)
        yield from (v for v in same if v.is_marker and (bare or not v.is_latest))


def _in_batches(bucket: Bucket, versions: Iterator[Version]) -> None:
    """:raises PartialDelete: after all others were tried"""
    failure: PartialDelete | None = None
    while batch := list(itertools.islice(versions, DELETE_BATCH)):
        try:
            bucket.delete_versions(batch)
        except PartialDelete as error:
            failure = failure or error
    if failure is not None:
        raise failure
