"""Dates requests by the store's clock, where this machine's is wrong.

Stores refuse requests with a wrong date, and botocore always uses this machine's clock.
So requests are signed by a signer of ours, which only changes the date.
"""

import datetime
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import botocore.auth
from botocore.exceptions import ClientError

from freezer.utils.http_dates import epoch

LOG = logging.getLogger(__name__)

# Stores accept 15 minutes (AWS, MinIO, Ceph, Swift); none refuses less than this.
_TOLERATED_SECONDS = 60.0
# The answer to a HEAD has no body, and so no reason.
_MAY_BE_SKEW = ('RequestTimeTooSkewed', '403')
_SIGNATURE = 'freezer-s3v4'
_OFFSET = 'freezer_clock_offset'


class StoreClock:
    """How far this machine's clock is from a store's. Safe to share between threads.

    :param endpoint: the store, for the log
    :ivar offset: seconds to add to this machine's time
    """

    def __init__(self, endpoint: str, now: Callable[[], float] = time.time) -> None:
        self.offset = 0.0
        self._endpoint = endpoint
        self._now = now
        self._lock = threading.Lock()

    def attach(self, client: Any) -> None:
        """Make a botocore client date its requests by this clock."""
        client.meta.events.register('choose-signer.s3', self._choose)

    def correct(self, before: float, error: Exception) -> bool:
        """Adopt the store's time if that may be why it refused a request.

        :param before: the offset when the request was dated
        :returns: whether the offset has changed since, so that it is worth repeating
        """
        if not isinstance(error, ClientError):
            return False
        answer = error.response
        if answer.get('Error', {}).get('Code') not in _MAY_BE_SKEW:
            return False
        headers = answer.get('ResponseMetadata', {}).get('HTTPHeaders', {})
        with self._lock:
            if self.offset != before:
                return True
            store = epoch(headers.get('date', ''))
            if store is None:
                return False
            offset = store - self._now()
            if abs(offset - self.offset) < _TOLERATED_SECONDS:
                return False
            self.offset = offset
        LOG.warning(
            "this machine's clock is %.0f s %s that of %s: requests are dated by the "
            "store's; set the clock",
            abs(offset),
            'behind' if offset > 0 else 'ahead of',
            self._endpoint,
        )
        return True

    def _choose(
        self, signature_version: Any, context: dict[str, Any], **_rest: Any
    ) -> str | None:
        """The name of our signer, for version 4 signatures."""
        if signature_version not in ('s3v4', 'v4'):
            return None
        context[_OFFSET] = self.offset
        return _SIGNATURE


class _Signer(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    """Signs version 4 with the store's time, and with digests that are known already
    (:class:`~freezer.utils.blocks.Buffer`)."""

    def payload(self, request: Any) -> str:
        known: str | None = getattr(request.body, 'payload', None)
        return known or str(super().payload(request))

    def _modify_request_before_signing(self, request: Any) -> None:
        here = datetime.datetime.strptime(
            request.context['timestamp'], botocore.auth.SIGV4_TIMESTAMP
        )
        there = here + datetime.timedelta(seconds=request.context[_OFFSET])
        request.context['timestamp'] = there.strftime(botocore.auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)


botocore.auth.AUTH_TYPE_MAPS[_SIGNATURE] = _Signer
