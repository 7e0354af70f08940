"""Requests to one bucket: completed by the options, translated, corrected, retried."""

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Self, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from freezer.storage import exceptions as e
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.clock import StoreClock
from freezer.storage._s3.transport.errors import (
    Refusal,
    is_of_parser,
    refusal,
    translate,
    wrong_scheme,
)
from freezer.storage._s3.transport.parameters import Parameters
from freezer.storage._s3.transport.route import Route
from freezer.storage._s3.transport.sender import Sender
from freezer.storage._s3.transport.transfers import Answer, Transfers
from freezer.storage.http.wire import Wire
from freezer.storage.objects import ObjectKind
from freezer.storage.retry import Retry
from freezer.utils.text import shortened

T = TypeVar('T')

_WIRE_ERRORS = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


class Requests:
    """Sends requests to one bucket. Safe to share between threads.

    :param name: of the bucket
    :param secrets: returns what no error may repeat
    :param client: of botocore
    :param sender: sends the client's requests; None for botocore's own
    :param clock: dates the client's requests
    :ivar list_version: of ListObjects
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        client: Any,
        retry: Retry,
        options: S3Options | None = None,
        secrets: Callable[[], Sequence[str]] = tuple,
        wire: Wire | None = None,
        clock: StoreClock | None = None,
        sender: Sender | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self.client = client
        self.retry = retry
        options = options or S3Options()
        self.parameters = Parameters(options)
        self.list_version = options.list_version
        self.progress = options.progress
        self.wire = wire or Wire()
        self._sender = sender
        self._transfers = Transfers(client, sender)
        self._secrets = secrets
        self._route = Route(endpoint, options.proxy)
        self._clock = clock or StoreClock(endpoint)

    def within(self, seconds: float) -> Self:
        """The same, but no request takes longer than that, repetitions included."""
        limited = copy.copy(self)
        limited.retry = self.retry.within(seconds)
        return limited

    def limited(self, seconds: float, when: Callable[[], bool]) -> Self:
        """See :meth:`Retry.limited`."""
        limited = copy.copy(self)
        limited.retry = self.retry.limited(seconds, when)
        return limited

    def url(self, key: str = '') -> str:
        return f's3://{self.name}/{key}' if key else f's3://{self.name}'

    def where(self, key: str = '') -> str:
        """The same, with the endpoint, for messages."""
        return f'{self.url(key)} at {self.endpoint}'

    def arguments(self, operation: str) -> Container[str]:
        """The names of the arguments an operation has in this botocore."""
        meta = self.client.meta
        name = meta.method_to_api_mapping[operation]
        shape = meta.service_model.operation_model(name).input_shape
        members: Container[str] = shape.members
        return members

    def send(
        self,
        operation: str,
        kind: ObjectKind | None = None,
        *,
        patient: bool = False,
        **arguments: Any,
    ) -> Any:
        """Send one request with what the options add to it, and return the answer.

        To be called inside :meth:`run` or :meth:`attempt`, which translate its errors.

        :param kind: of the object it creates
        :param patient: wait longer for the answer
        """
        arguments |= self.parameters.of(self.arguments(operation), kind)
        with contextlib.ExitStack() as stack:
            if patient and self._sender is not None:
                stack.enter_context(self._sender.patient())
            return getattr(self.client, operation)(Bucket=self.name, **arguments)

    def transfer(self, operation: str, **arguments: Any) -> Answer:
        """:meth:`send`, for a part or a range.

        :param operation: ``upload_part`` or ``get_object``
        """
        arguments |= self.parameters.of(self.arguments(operation), None)
        return self._transfers.send(operation, {'Bucket': self.name, **arguments})

    def close(self) -> None:
        self.client.close()
        if self._sender is not None:
            self._sender.close()

    def run(
        self,
        doing: str,
        key: str,
        call: Callable[[], T],
        cancelled: threading.Event | None = None,
        kind: ObjectKind | None = None,
    ) -> T:
        """The result of a call that sends requests, repeated as the budget allows.

        :param doing: a verb for messages
        :param cancelled: once set, nothing more is sent or repeated
        :param kind: of the object the call creates
        :raises StorageException: the last error, once it is final or time is up
        """
        return self.retry.run(
            functools.partial(self.attempt, doing, key, call, cancelled, kind),
            cancelled,
        )

    def attempt(
        self,
        doing: str,
        key: str,
        call: Callable[[], T],
        cancelled: threading.Event | None = None,
        kind: ObjectKind | None = None,
    ) -> T:
        """:meth:`run`, once.

        A request that the store refused for its date, or because it needs Content-MD5,
        is corrected and sent again: each of the two at most once.
        """
        offset, with_md5 = self._clock.offset, self.parameters.with_md5
        redated = False
        with self.wire.cancelled_by(cancelled):
            while True:
                try:
                    result = call()
                except Exception as error:
                    if not isinstance(error, _WIRE_ERRORS) and not is_of_parser(error):
                        raise
                    if not redated and self._clock.correct(offset, error):
                        redated = True
                    elif self.parameters.add_md5(with_md5, error):
                        with_md5 = True
                    else:
                        translated = self._translate(error, doing, key, kind)
                        if isinstance(translated, e.LocalFailure):
                            # The log has the text of causes, and that of this one
                            # may repeat a header.
                            raise translated from None
                        raise translated from error
                else:
                    self._route.answered = True
                    return result

    def _translate(
        self, error: Exception, doing: str, key: str, kind: ObjectKind | None
    ) -> e.StorageException:
        what = f'{doing} {self.url(key)}'
        translated = translate(error, what, self.endpoint, self._route.proxy)
        if self._route.is_wrong_scheme(error):
            advice = wrong_scheme(self.endpoint)
            translated = e.WrongScheme(f'{what} at {self.endpoint}: {advice}')
        message = translated.message
        # Stores that do not support an option often say no more than that.
        refused = isinstance(translated, e.Rejected | e.ServerError | e.AccessDenied)
        options = self.parameters.options(kind)
        if refused and options and '--s3-' not in message:
            message += f'; sent with {", ".join(options)}'
        # Some stores repeat the access key, or what was signed. In the error itself as
        # well: its text is in the log's traceback.
        error.args = tuple(
            shortened(self._without_secrets(arg)) if isinstance(arg, str) else arg
            for arg in error.args
        )
        if isinstance(translated, e.ClockSkew) and self._clock.offset:
            message += '; the store refused its own time as well'
        made = type(translated)(self._without_secrets(message))
        made.retry_after = translated.retry_after
        return made

    def _without_secrets(self, text: str) -> str:
        # The longest first: one may be part of another.
        for secret in sorted(filter(None, self._secrets()), key=len, reverse=True):
            text = text.replace(secret, '***')
        return text

    def etag(self, etag: str | None, doing: str, key: str) -> str:
        """:raises IncompleteAnswer: there is none in the answer"""
        if not etag:
            raise e.IncompleteAnswer(
                f'{doing} {self.where(key)}: the answer has no ETag'
            )
        return etag

    def probe(
        self,
        operation: str,
        key: str = '',
        kind: ObjectKind | None = None,
        **arguments: Any,
    ) -> Any:
        """The answer to any operation, or the :class:`Refusal` of it.

        Repeated only if the store may grant it later.

        :param kind: of the object it creates
        """
        known = self.arguments(operation)
        if not all(name in known for name in arguments):
            return Refusal('this botocore does not know it', 0)
        if key:
            arguments['Key'] = key

        def call() -> Any:
            try:
                return self.send(operation, kind, **arguments)
            except ClientError as error:
                refused = refusal(error)
                if refused is None:
                    raise
                return refused

        return self.run(operation.replace('_', ' '), key, call)

    @contextlib.contextmanager
    def hook(self, event: str, act: Callable[..., None]) -> Iterator[None]:
        """A block in which botocore calls a function at one of its events."""
        events = self.client.meta.events
        events.register(event, act)
        try:
            yield
        finally:
            events.unregister(event, act)
