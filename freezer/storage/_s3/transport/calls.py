"""One request of a bucket: what the options add to it, translated, checked, retried."""

import contextlib
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from freezer.storage import exceptions as e
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.clock import StoreClock
from freezer.storage._s3.transport.errors import (
    Refusal,
    refusal,
    translate,
    wants_digest,
)
from freezer.storage._s3.transport.parameters import Parameters
from freezer.storage._s3.transport.wire import Wire
from freezer.storage.objects import ObjectKind
from freezer.storage.retry import Retry
from freezer.utils.progress import Progress

T = TypeVar('T')

CLEAN_UP_SECONDS = 20.0
WIRE_ERRORS = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


class Calls:
    """The way to one bucket. Safe to share between threads.

    :param client: for all calls
    :param patient_client: makes a client that waits long enough for Complete
    :param secrets: tells what no error may repeat
    :param parameters: what the options add to requests
    :param wire: what the clients are attached to
    :param clock: what the clients are attached to
    :param progress: is told of parts and ranges
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        client: Any,
        patient_client: Callable[[], Any],
        retry: Retry,
        secrets: Callable[[], Sequence[str]] = tuple,
        parameters: Parameters | None = None,
        list_version: int = 2,
        wire: Wire | None = None,
        clock: StoreClock | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._client = client
        self._make_patient = patient_client
        self._retry = retry
        self._secrets = secrets
        self._parameters = parameters or Parameters(S3Options())
        self.list_version = list_version
        self._wire = wire or Wire()
        self._clock = clock or StoreClock(endpoint)
        self.progress = progress or Progress()
        self._patient: Any = None
        self._patient_lock = threading.Lock()

    def url(self, key: str = '') -> str:
        return f's3://{self.name}/{key}' if key else f's3://{self.name}'

    def close(self) -> None:
        for client in (self._client, self._patient):
            if client is not None:
                client.close()

    def cleaning_up(self) -> contextlib.AbstractContextManager[None]:
        """A block whose calls give up soon: an error is waiting to be told."""
        return self.at_most(CLEAN_UP_SECONDS)

    def at_most(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """A block whose calls have no more time than that, with all repetitions."""
        return self._retry.at_most(seconds)

    def _members(self, operation: str) -> Container[str]:
        """The names of the arguments an operation knows."""
        name = self._client.meta.method_to_api_mapping[operation]
        shape = self._client.meta.service_model.operation_model(name).input_shape
        members: Container[str] = shape.members
        return members

    def _ask(
        self,
        operation: str,
        kind: ObjectKind | None = None,
        client: Any = None,
        **arguments: Any,
    ) -> Any:
        """One request, with what the options add to it.

        :param kind: of the object it creates
        :param client: another one than usual
        """
        added = self._parameters.of(self._members(operation), kind)
        call = getattr(client or self._client, operation)
        return call(Bucket=self.name, **added, **arguments)

    def _patient_client(self) -> Any:
        with self._patient_lock:
            if self._patient is None:
                self._patient = self._make_patient()
            return self._patient

    def _etag(self, answer: Any, doing: str, key: str) -> str:
        etag = answer.get('ETag')
        if not etag:
            raise e.IncompleteAnswer(
                f'{doing} {self.url(key)} at {self.endpoint}: the answer has no ETag'
            )
        return str(etag)

    def _translate(
        self, error: Exception, doing: str, key: str, kind: ObjectKind | None = None
    ) -> e.StorageException:
        translated = translate(error, f'{doing} {self.url(key)}', self.endpoint)
        message = translated.message
        # Stores that do not know what was asked for often say no more than that.
        refused = isinstance(translated, e.Rejected | e.ServerError | e.AccessDenied)
        options = self._parameters.options(kind)
        if refused and options and '--s3-' not in message:
            message += f'; sent with {", ".join(options)}'
        # Some stores repeat the access key, or what was signed. In the error itself as
        # well: its text is in the log's traceback.
        error.args = tuple(map(self._without_secrets, error.args))
        if isinstance(translated, e.ClockSkew) and self._clock.offset:
            message += '; the time that the store itself tells is refused as well'
        made = type(translated)(self._without_secrets(message))
        made.retry_after = translated.retry_after
        return made

    def _without_secrets(self, text: Any) -> Any:
        if isinstance(text, str):
            # The longest first: one may be part of another.
            for secret in sorted(filter(None, self._secrets()), key=len, reverse=True):
                text = text.replace(secret, '***')
        return text

    def _run(
        self,
        doing: str,
        key: str,
        call: Callable[[], T],
        cancelled: threading.Event | None = None,
        kind: ObjectKind | None = None,
    ) -> T:
        def translated() -> T:
            try:
                with self._wire.cancelled_by(cancelled):
                    return self._with_digest(lambda: self._clock.run(call))
            except WIRE_ERRORS as error:
                raise self._translate(error, doing, key, kind) from error

        return self._retry.run(translated, cancelled)

    def _with_digest(self, call: Callable[[], T]) -> T:
        """The call's result; one that was refused for want of Content-MD5 is made once
        more, with it, as are all that follow: the bucket locks what is put into it."""
        sent = self._parameters.with_md5
        try:
            return call()
        except ClientError as error:
            if sent or not wants_digest(error):
                raise
        self._parameters.with_md5 = True
        return call()

    def probe(
        self,
        operation: str,
        key: str = '',
        kind: ObjectKind | None = None,
        **arguments: Any,
    ) -> Any:
        """The answer to any operation of the client; a :class:`Refusal` is one too.

        Only what may be granted at another time is asked again.

        :param kind: of the object it creates
        """
        members = self._members(operation)
        if not all(name in members for name in arguments):
            return Refusal('this botocore does not know it', 0)
        where = {'Key': key} if key else {}

        def call() -> Any:
            try:
                return self._ask(operation, kind, **where, **arguments)
            except ClientError as error:
                refused = refusal(error)
                if refused is None:
                    raise
                return refused

        return self._run(operation.replace('_', ' '), key, call)

    @contextlib.contextmanager
    def hook(self, event: str, act: Callable[..., None]) -> Iterator[None]:
        """A block in which botocore calls a function at one of its events."""
        events = self._client.meta.events
        events.register(event, act)
        try:
            yield
        finally:
            events.unregister(event, act)
