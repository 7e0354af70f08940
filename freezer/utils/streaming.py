"""A bounded queue between the producer of a stream and its consumer."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from freezer.utils.blocks import Block, PartStart

# A blocked put checks this often whether the consumer has stopped.
_POLL_SECONDS = 0.2


def _never() -> bool:
    return False


class ConsumerGone(Exception):
    """The consumer has stopped reading."""


class RichQueue:
    """A bounded queue that passes the producer's exception to the consumer.

    The producer calls :meth:`put_messages` in its thread, the consumer iterates
    :meth:`get_messages` in its own. When one of them stops, the other does not wait for
    ever: the consumer gets the producer's exception instead of the end of the stream,
    and the producer gets :class:`ConsumerGone`.

    :param size: maximum number of messages in the queue
    """

    def __init__(self, size: int = 2) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._closed = threading.Event()
        self.drained = False
        """Whether the consumer has read the whole stream."""

    def put_messages(self, messages: Iterable[Block | PartStart]) -> None:
        """Put all messages, then the end; an exception of theirs goes to the consumer.

        :raises ConsumerGone: the consumer stopped first
        """
        iterator = iter(messages)
        try:
            for message in iterator:
                self.put(message)
        except ConsumerGone:
            raise
        except BaseException as error:  # noqa: BLE001 - raised in the consumer
            self.end(error)
        else:
            self.end()
        finally:
            # So that a generator cleans up in the thread it ran in.
            close: Callable[[], None] | None = getattr(iterator, 'close', None)
            if close is not None:
                close()

    def put(
        self, message: Block | PartStart, stop: Callable[[], bool] = _never
    ) -> None:
        """
        :param stop: whether to wait no longer; asked again and again
        :raises ConsumerGone: the consumer has stopped, or does not go on
        """
        self._put(message, stop)

    def end(
        self,
        error: BaseException | None = None,
        stop: Callable[[], bool] = _never,
    ) -> None:
        """End the stream; the consumer gets the error, if any.

        :param stop: as for :meth:`put`
        :raises ConsumerGone: the consumer has stopped, or does not go on
        """
        self._put(_End(error), stop)

    def get_messages(self) -> Iterator[Block | PartStart]:
        """The messages.

        :raises: the producer's exception, after the messages before it
        """
        try:
            while True:
                message = self._queue.get()
                if isinstance(message, _End):
                    if message.error is not None:
                        raise message.error
                    self.drained = True
                    return
                yield message
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading; wakes a waiting producer."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _put(self, item: 'Block | PartStart | _End', stop: Callable[[], bool]) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_SECONDS)
                return
            if stop():
                break
        raise ConsumerGone


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
