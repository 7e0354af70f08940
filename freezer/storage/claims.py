"""One agent at a time in a level's folder.

Two agents of one name that start in the same second would write the same keys. So the
folder is claimed before the source is read: by a conditional put, which one of them
loses; and on a store that ignores the condition (it is tried out) by a claim of a name
of its own, and a listing: any other claim there means that neither may go on. Keys that
may not list have the conditional put alone, and nothing where it is ignored.

The claim is also the write probe: keys that may not write fail here. It says which
process holds it, and it is looked for again once the backup is committed: whoever took
the agent for dead has removed it first (``leftovers.py``).
"""

import contextlib
import json
import logging
import secrets
import time
from dataclasses import dataclass, replace

from freezer.storage import exceptions as e
from freezer.storage.objects import ObjectKind, ObjectStore
from freezer.utils import process

LOG = logging.getLogger(__name__)
CLAIM = 'claim'
_MAX_CLAIM = 4096
#: seconds to wait before each look for what was just written
LISTING_DELAYS = (0, 0.5, 1, 2, 4)


@dataclass(frozen=True)
class Claim:
    """A folder that is taken.

    :param key: of the object that says so
    :param keys: to delete when it is no longer needed
    :param exclusive: whether the store itself lets nobody else take it
    :param listed: whether it is known what else is in the folder
    """

    key: str
    content: bytes
    keys: tuple[str, ...]
    exclusive: bool
    listed: bool = True

    def is_held(self, bucket: ObjectStore) -> bool:
        """Whether nobody has taken it away."""
        try:
            return bucket.get(self.key) == self.content
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False

    def is_held_write_only(self, bucket: ObjectStore) -> bool:
        """The same, by keys that may not read: what is there cannot be written again.

        True where the store ignores the condition, as nothing is known then.
        """
        if not self.exclusive:
            return True
        return not bucket.put_if_absent(self.key, self.content, ObjectKind.TEMPORARY)


def is_claim(key: str) -> bool:
    name = key.rpartition('/')[2]
    return name == CLAIM or name.startswith(f'{CLAIM}.')


def held_here(bucket: ObjectStore, folder: str) -> bool:
    """Whether a process that lives on this machine holds a claim in the folder."""
    for item in bucket.list(f'{folder}/{CLAIM}'):
        try:
            owner = json.loads(bucket.get(item.key, _MAX_CLAIM))['process']
            if process.is_alive(owner):
                return True
        except (e.NotFound, e.IntegrityError, ValueError, KeyError, TypeError):
            # A probe, or a claim of an agent that said less.
            continue
    return False


def take(bucket: ObjectStore, folder: str) -> Claim:
    """Claim a folder.

    :param folder: the key of the level's folder, without a slash at its end
    :raises Conflict: somebody else is or was there
    """
    key = f'{folder}/{CLAIM}'
    token = secrets.token_hex(16)
    content = json.dumps({'token': token, 'process': process.identity()}).encode()
    if _put_conditionally(bucket, key, content):
        ours = Claim(key, content, (key,), exclusive=True)
    else:
        own = f'{key}.{token}'
        bucket.put(own, content, ObjectKind.TEMPORARY)
        ours = Claim(own, content, (own, key), exclusive=False)
    try:
        listed = _listing_with(bucket, folder, ours.key)
    except e.AccessDenied as error:
        LOG.info('what else is there is not known: %s', error.message)
        return replace(ours, listed=False)
    if ours.key not in listed:
        bucket.delete(ours.keys)
        raise e.Rejected(
            f'{bucket.url(ours.key)} at {bucket.endpoint} is written and not listed: '
            f'the store does not keep this name as it is; choose another backup name'
        )
    if listed.difference(ours.keys):
        bucket.delete(ours.keys[:1])
        raise _taken(bucket, folder)
    return ours


def _listing_with(bucket: ObjectStore, folder: str, key: str) -> set[str]:
    """The folder's keys, once they include a key or the store had time for it.

    A store may list late (Swift), or never: SeaweedFS takes a backslash for a slash,
    and a backup that is not listed is none.
    """
    for delay in LISTING_DELAYS:
        time.sleep(delay)
        listed = {item.key for item in bucket.list(f'{folder}/')}
        if key in listed:
            break
    return listed


def _put_conditionally(bucket: ObjectStore, key: str, content: bytes) -> bool:
    """Whether the store honours the condition, and so ours is the only claim."""
    try:
        if not bucket.put_if_absent(key, content, ObjectKind.TEMPORARY):
            raise _taken(bucket, key.rpartition('/')[0])
        # A second one, of another content, must be refused.
        with contextlib.suppress(e.Conflict):
            return not bucket.put_if_absent(key, b'probe', ObjectKind.TEMPORARY)
        return True
    except e.Rejected as error:
        LOG.debug('no conditional put here: %s', error)
        return False


def _taken(bucket: ObjectStore, folder: str) -> e.Conflict:
    return e.Conflict(
        f'{bucket.url(folder)} at {bucket.endpoint} is taken: another backup of this '
        f'name started in the same second; run it again'
    )
