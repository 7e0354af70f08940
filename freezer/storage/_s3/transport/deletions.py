"""Deletes objects, in batches where the store accepts them."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.listings import Version
from freezer.storage._s3.transport.requests import Requests

LOG = logging.getLogger(__name__)

DELETE_BATCH = 1000


class Deletions(Requests):
    """Deletes objects and versions."""

    _batches_refused = False

    def delete(self, keys: Sequence[str]) -> None:
        self._delete([{'Key': key} for key in keys])

    def delete_versions(self, versions: Sequence[Version]) -> None:
        """Delete for good, in this order.

        :raises PartialDelete: some still exist
        """
        self._delete([{'Key': v.key, 'VersionId': v.version_id} for v in versions])

    def _delete(self, objects: Sequence[dict[str, Any]]) -> None:
        failed: dict[str, str] = {}
        for start in range(0, len(objects), DELETE_BATCH):
            batch = objects[start : start + DELETE_BATCH]
            if len(batch) == 1 or self._batches_refused:
                failed |= self._delete_singly(batch)
                continue
            try:
                failed |= self._delete_batch(batch)
            except e.Rejected as error:
                LOG.info('the store refuses batches, deleting one by one: %s', error)
                self._batches_refused = True
                failed |= self._delete_singly(batch)
        if failed:
            key, reason = next(iter(failed.items()))
            right = 's3:DeleteObject' + ('Version' if 'VersionId' in objects[0] else '')
            if 'AccessDenied' in reason and right not in reason:
                reason += f': it needs {right}'
            raise e.PartialDelete(
                f'{len(failed)} of {len(objects)} objects could not be deleted from '
                f'{self.where()}, first {key}: {reason}; --action admin tries again'
            )

    def _delete_batch(self, objects: Sequence[dict[str, Any]]) -> dict[str, str]:
        request = {'Objects': list(objects), 'Quiet': False}

        def call() -> dict[str, str]:
            answer = self.send('delete_objects', Delete=request)
            errors = {
                item.get('Key', '?'): f'{item.get("Code")} {item.get("Message", "")}'
                for item in answer.get('Errors', ())
                if item.get('Code') != 'NoSuchKey'
            }
            reported = len(answer.get('Deleted', ())) + len(answer.get('Errors', ()))
            if reported < len(objects):
                raise e.IncompleteAnswer(
                    f'deleting, {self.where()}: the answer does not list every object'
                )
            return errors

        what = f'{objects[0]["Key"]} and {len(objects) - 1} more'
        return self.run('delete', what, call)

    def _delete_singly(self, objects: Sequence[dict[str, Any]]) -> dict[str, str]:
        failed = {}
        for one in objects:
            call = functools.partial(self.send, 'delete_object', **one)
            try:
                self.run('delete', one['Key'], call)
            except e.BucketNotFound:
                raise
            except e.NotFound:
                continue
            except e.AccessDenied as error:
                failed[one['Key']] = error.message
        return failed
