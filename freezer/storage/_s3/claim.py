"""One agent at a time in a level's folder.

Two agents of one name that start in the same second would write the same keys. So the
folder is claimed before the source is read: by a conditional put, which one of them
loses; and on a store that ignores the condition (it is tried out) by a claim of a name
of its own, and a listing: any other claim there means that neither may go on.

The claim is also the write probe: keys that may not write fail here.
"""

import logging
import time

from freezer.storage import exceptions as e
from freezer.storage._s3.bucket import Bucket
from freezer.storage._s3.parameters import Kind

LOG = logging.getLogger(__name__)
CLAIM = 'claim'
_LISTING_DELAYS = (0, 0.5, 1, 2, 4)  # seconds


def take(bucket: Bucket, folder: str, token: str) -> list[str]:
    """Claim a folder; the keys to delete when it is no longer needed.

    :param folder: the key of the level's folder, without a slash at its end
    :raises Conflict: somebody else is or was there
    """
    key = f'{folder}/{CLAIM}'
    if _put_conditionally(bucket, key, token):
        ours = [key]
    else:
        own = f'{key}.{token}'
        bucket.put(own, token.encode(), Kind.PASSING)
        ours = [own, key]
    listed = _listing_with(bucket, folder, ours[0])
    if ours[0] not in listed:
        bucket.delete(ours)
        raise e.Rejected(
            f'{bucket.url(ours[0])} at {bucket.endpoint} is written and not listed: '
            f'the store does not keep this name as it is; choose another backup name'
        )
    if listed - set(ours):
        bucket.delete(ours[:1])
        raise _taken(bucket, folder)
    return ours


def _listing_with(bucket: Bucket, folder: str, key: str) -> set[str]:
    """The folder's keys, once they include a key or the store had time for it.

    A store may list late (Swift), or never: SeaweedFS takes a backslash for a slash,
    and a backup that is not listed is none.
    """
    for delay in _LISTING_DELAYS:
        time.sleep(delay)
        listed = {item.key for item in bucket.list(f'{folder}/')}
        if key in listed:
            break
    return listed


def _put_conditionally(bucket: Bucket, key: str, token: str) -> bool:
    """Whether the store honours the condition, and so ours is the only claim."""
    try:
        if not bucket.put_if_absent(key, token.encode(), Kind.PASSING):
            raise _taken(bucket, key.rpartition('/')[0])
        # A second one, of another content, must be refused.
        return not bucket.put_if_absent(key, b'probe', Kind.PASSING)
    except e.Rejected as error:
        LOG.debug('no conditional put here: %s', error)
        return False


def _taken(bucket: Bucket, folder: str) -> e.Conflict:
    return e.Conflict(
        f'{bucket.url(folder)} at {bucket.endpoint} is taken: another backup of this '
        f'name started in the same second; run it again'
    )
