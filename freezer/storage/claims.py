"""Claims: one agent at a time in a level's folder.

Two agents of one name that start in the same second would write the same keys. So each
claims the folder before it reads the source: with a conditional put, which one of them
loses. A store may ignore the condition, which is tested; then the claim has a name of
its own, and any other claim in the listing means that neither may go on. Keys that may
not list have only the conditional put, and no protection where it is ignored.

The claim is also the write test: keys that may not write fail here. It names the
process that holds it. It is checked again once the backup is committed: whoever
considered the agent dead has removed it first (``leftovers.py``).
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
#: seconds to wait before each listing that should have a new object
LISTING_DELAYS = (0, 0.5, 1, 2, 4)


@dataclass(frozen=True)
class Claim:
    """A claimed folder.

    :param key: of the claim
    :param keys: to delete when the claim is no longer needed
    :param exclusive: whether the store itself refuses a second claim
    :param listed: whether the folder could be listed
    """

    key: str
    content: bytes
    keys: tuple[str, ...]
    exclusive: bool
    listed: bool = True

    def is_held(self, bucket: ObjectStore) -> bool:
        """Whether the claim is still there."""
        try:
            return bucket.get(self.key) == self.content
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False

    def is_held_write_only(self, bucket: ObjectStore) -> bool:
        """The same for keys that may not read: an existing claim cannot be put again.

        True if the store ignores the condition, as nothing is known then.
        """
        if not self.exclusive:
            return True
        return not bucket.put_if_absent(self.key, self.content, ObjectKind.TEMPORARY)


def is_claim(key: str) -> bool:
    name = key.rpartition('/')[2]
    return name == CLAIM or name.startswith(f'{CLAIM}.')


def held_here(bucket: ObjectStore, folder: str) -> bool:
    """Whether a live process of this machine holds a claim in the folder."""
    for item in bucket.list(f'{folder}/{CLAIM}'):
        try:
            owner = json.loads(bucket.get(item.key, _MAX_CLAIM))['process']
            if process.is_alive(owner):
                return True
        except (e.NotFound, e.IntegrityError, ValueError, KeyError, TypeError):
            # A probe, or a claim of an older agent that names no process.
            continue
    return False


def take(bucket: ObjectStore, folder: str) -> Claim:
    """Claim a folder.

    :param folder: the key of the level's folder, without a slash at its end
    :raises Conflict: another agent has claimed it or written to it
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
        LOG.info('the folder cannot be listed: %s', error.message)
        return replace(ours, listed=False)
    if ours.key not in listed:
        bucket.delete(ours.keys)
        raise e.Rejected(
            f'{bucket.url(ours.key)} at {bucket.endpoint} was written and is not '
            f'listed: the store changes this name; choose another backup name'
        )
    if listed.difference(ours.keys):
        bucket.delete(ours.keys[:1])
        raise _taken(bucket, folder)
    return ours


def _listing_with(bucket: ObjectStore, folder: str, key: str) -> set[str]:
    """The folder's keys, once they include a key, or after seconds of waiting.

    A store may list late (Swift), or never: SeaweedFS turns a backslash into a slash,
    and a backup that is not listed does not exist.
    """
    for delay in LISTING_DELAYS:
        time.sleep(delay)
        listed = {item.key for item in bucket.list(f'{folder}/')}
        if key in listed:
            break
    return listed


def _put_conditionally(bucket: ObjectStore, key: str, content: bytes) -> bool:
    """Whether the store honours the condition, so that ours is the only claim."""
    try:
        if not bucket.put_if_absent(key, content, ObjectKind.TEMPORARY):
            raise _taken(bucket, key.rpartition('/')[0])
        # A second one, with other content, must be refused.
        with contextlib.suppress(e.Conflict):
            return not bucket.put_if_absent(key, b'probe', ObjectKind.TEMPORARY)
        return True
    except e.Rejected as error:
        LOG.debug('the store has no conditional put: %s', error)
        return False


def _taken(bucket: ObjectStore, folder: str) -> e.Conflict:
    return e.Conflict(
        f'{bucket.url(folder)} at {bucket.endpoint} is taken: another backup of this '
        f'name started in the same second; run it again'
    )
