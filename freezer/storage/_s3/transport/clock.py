"""The store's time. A request that is dated by a wrong clock is refused.

botocore dates requests by the clock of the machine, and offers no other: so the signer
is one of ours, which only moves the date.
"""

import datetime
import email.utils
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import botocore.auth
from botocore.exceptions import ClientError

LOG = logging.getLogger(__name__)
T = TypeVar('T')

# Stores accept 15 minutes (AWS, MinIO, Ceph, Swift). Nobody refuses less than this.
_TOLERATED_SECONDS = 60.0
# An answer to HEAD has no body, so it does not say why.
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
        """Let a botocore client date its requests by this."""
        client.meta.events.register('choose-signer.s3', self._choose)

    def run(self, call: Callable[[], T]) -> T:
        """The call's result; one that was refused for its date is made once more."""
        before = self.offset
        try:
            return call()
        except ClientError as error:
            if not self._corrected(error.response, before):
                raise
        return call()

    def _corrected(self, answer: Mapping[str, Any], before: float) -> bool:
        """Whether the time is another now than the one the request was dated by."""
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
        """Our signer, in place of botocore's of the same kind."""
        if signature_version not in ('s3v4', 'v4'):
            return None
        context[_OFFSET] = self.offset
        return _SIGNATURE


class _Signer(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    """Version 4 signatures of the time that the store has, and of digests that are
    known (:class:`~freezer.utils.blocks.Buffer`)."""

    def payload(self, request: Any) -> str:
        known: str | None = getattr(request.body, 'sha256', None)
        return known or str(super().payload(request))

    def _modify_request_before_signing(self, request: Any) -> None:
        here = datetime.datetime.strptime(
            request.context['timestamp'], botocore.auth.SIGV4_TIMESTAMP
        )
        there = here + datetime.timedelta(seconds=request.context[_OFFSET])
        request.context['timestamp'] = there.strftime(botocore.auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)


botocore.auth.AUTH_TYPE_MAPS[_SIGNATURE] = _Signer


def epoch(date: str) -> float | None:
    """Epoch seconds of a date as HTTP writes it; None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
