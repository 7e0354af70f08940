"""Finds, measures and removes what failed backups left behind.

A level's folder without a marker is a leftover once its agent is dead. That is certain
for agents of this machine (the journal, and the process named in the claim). Agents of
other machines are considered dead if nothing has changed for long.

If that is wrong, no backup is damaged. The claim is removed first, and then the marker
is looked for, before any data is removed. An agent checks its claim after it has
written its marker: if the claim is gone, it takes the marker back and fails; if not,
the marker was there in time.
"""

import logging
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

from freezer.storage import claims
from freezer.storage.exceptions import AccessDenied, NotFound, Rejected
from freezer.storage.housekeeping import Leftover
from freezer.storage.objects import ObjectStore, Upload, UploadedParts
from freezer.storage.survey import Survey

LOG = logging.getLogger(__name__)


def clear(
    bucket: ObjectStore,
    folder: str,
    marker: str | None,
    named: Collection[Upload] = (),
    *,
    dry_run: bool = False,
) -> Leftover:
    """Remove what is left of a backup that no agent is writing any more.

    If it was committed, that is its claim and open uploads; else all of it.

    :param folder: key of the level's folder, without a slash at its end
    :param marker: key of its marker; None if it can have none
    :param named: uploads that the journal names
    :returns: what there was
    """
    try:
        uploads = _open_uploads(bucket, folder, named)
        return _clear(bucket, folder, marker, uploads, dry_run)
    except AccessDenied:
        # Write-only keys can do this much.
        if not dry_run:
            for upload in named:
                bucket.abort(upload)
        raise


def _clear(
    bucket: ObjectStore,
    folder: str,
    marker: str | None,
    uploads: Mapping[Upload, UploadedParts],
    dry_run: bool,
) -> Leftover:
    sizes = {item.key: item.size for item in bucket.list(f'{folder}/')}
    claimed = [key for key in sizes if claims.is_claim(key)]
    if not dry_run:
        bucket.delete(claimed)
    if marker is not None and bucket.has(marker):
        sizes = {key: sizes[key] for key in claimed}
    if not dry_run:
        for upload in uploads:
            bucket.abort(upload)
        bucket.delete([key for key in sizes if key not in claimed])
    return Leftover(
        bucket.url(folder),
        objects=len(sizes),
        uploads=len(uploads),
        size=sum(sizes.values()) + sum(held.size for held in uploads.values()),
    )


def clear_stale(
    bucket: ObjectStore,
    survey: Survey,
    live: Container[str],
    stale_after: float,
    *,
    dry_run: bool = False,
) -> Iterator[Leftover]:
    """Remove leftovers from a container, if nothing has changed for so long.

    :param survey: of the container; what is removed is listed again
    :param live: keys of folders that agents are writing to
    :param stale_after: seconds
    :returns: what there was, folder by folder
    """
    now = survey.began
    for folder, suspect in survey.suspects().items():
        if folder in live or max(0, now - suspect.newest) < stale_after:
            continue
        uploads = _open_uploads(bucket, folder)
        newest = max((held.modified for held in uploads.values()), default=0.0)
        if max(0, now - newest) < stale_after or claims.held_here(bucket, folder):
            continue
        left = _clear(bucket, folder, suspect.marker, uploads, dry_run)
        if left:
            yield left


def _open_uploads(
    bucket: ObjectStore, folder: str, named: Iterable[Upload] = ()
) -> dict[Upload, UploadedParts]:
    """The open uploads below a folder, as far as the store reports them."""
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
            found[upload] = UploadedParts(0, 0.0)
    return found
