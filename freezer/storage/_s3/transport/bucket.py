"""The few verbs a backup needs of a bucket."""

import logging
import time
from typing import Any

from botocore.exceptions import ClientError

from freezer.storage import exceptions as e
from freezer.storage._s3.options import DEFAULT_REGION
from freezer.storage._s3.transport.clock import epoch
from freezer.storage._s3.transport.multipart import Multipart

LOG = logging.getLogger(__name__)

_NO_SUCH_LOCATION = ('InvalidLocationConstraint', 'IllegalLocationConstraintException')


class Bucket(Multipart):
    """The bucket itself, and by inheritance what is in it."""

    def exists(self) -> bool:
        """Whether it is there; one that the store does not show is taken to be."""
        try:
            self._run('look at', '', lambda: self._ask('head_bucket'))
        except e.NotFound:
            return False
        except (e.AccessDenied, e.Rejected) as error:
            if not isinstance(error.__cause__, ClientError):
                # The store was not asked.
                raise
            # HeadBucket needs ListBucket; what is really needed will be asked for. And
            # why a HEAD is refused its answer cannot say.
            LOG.info('not looked at; going on: %s', error.message)
        return True

    def create(self, *, locks: bool = False) -> None:
        """Make it, in the region that requests are signed for.

        :param locks: with object lock, which cannot be had later everywhere
        """
        arguments: dict[str, Any] = {}
        if locks:
            arguments['ObjectLockEnabledForBucket'] = True
        region, constraint = self._client.meta.region_name, 'CreateBucketConfiguration'
        if region != DEFAULT_REGION:
            arguments[constraint] = {'LocationConstraint': region}

        def call() -> None:
            try:
                self._ask('create_bucket', **arguments)
            except ClientError as error:
                # The region is what requests are signed for; whether the store knows
                # a location of that name is another matter (Ceph's zone groups).
                code = error.response.get('Error', {}).get('Code')
                if code not in _NO_SUCH_LOCATION or constraint not in arguments:
                    raise
                del arguments[constraint]
                self._ask('create_bucket', **arguments)

        try:
            self._run('create', '', call)
        except e.Conflict:
            if not self.exists():
                raise
        LOG.info('created bucket %s at %s', self.name, self.endpoint)

    def locks_objects(self) -> bool:
        """Whether objects in it can be locked; if it may not be asked, they can."""

        def call() -> Any:
            return self._ask('get_object_lock_configuration')

        try:
            answer = self._run('look at object lock of', '', call)
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False
        except (e.AccessDenied, e.Rejected) as error:
            LOG.info('whether objects can be locked is not known: %s', error.message)
            return True
        found = answer.get('ObjectLockConfiguration', {})
        return bool(found.get('ObjectLockEnabled') == 'Enabled')

    def keeps_versions(self, *, must_know: bool = False) -> bool:
        """Whether what is deleted or overwritten is kept as a version.

        A store that has no versions, or does not say, keeps none.

        :param must_know: it is an error if the keys may not ask
        """
        try:
            answer = self._run(
                'versioning of', '', lambda: self._ask('get_bucket_versioning')
            )
        except (e.AccessDenied, e.NotFound, e.Rejected) as error:
            if must_know and isinstance(error, e.AccessDenied):
                raise
            LOG.info('whether versions are kept is not known: %s', error)
            return False
        return answer.get('Status') in ('Enabled', 'Suspended')

    def store_time(self) -> float:
        """The store's clock, epoch seconds; this machine's if it does not say."""
        try:
            answer = self._run('look at', '', lambda: self._ask('head_bucket'))
        except e.AccessDenied as error:
            LOG.info("the store's time is not known: %s", error)
            return time.time()
        headers = answer.get('ResponseMetadata', {}).get('HTTPHeaders', {})
        told = epoch(headers.get('date', ''))
        return time.time() if told is None else told
