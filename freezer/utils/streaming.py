"""The bounded queue between the one who makes a stream and the one who stores it."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from freezer.utils.blocks import Block

# How long a blocked put waits before it looks whether the consumer is still there.
_POLL_SECONDS = 0.2


class ConsumerGone(Exception):
    """The consumer has stopped reading: the producer may stop as well."""


class RichQueue:
    """Bounded, and it carries the producer's error to the consumer.

    The producer calls :meth:`put_messages` in its thread, the consumer iterates
    :meth:`get_messages` in its own. When one of them stops, the other is never left
    waiting: the consumer gets the producer's exception in place of the end of the
    stream, and the producer gets :class:`ConsumerGone`.

    :param size: messages that may wait in it
    """

    def __init__(self, size: int = 2) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._closed = threading.Event()
        self.drained = False
        """Whether the consumer has come to the end of the stream."""

    def put_messages(self, messages: Iterable[Block]) -> None:
        """Put all messages, then the end; an exception is passed on and not raised.

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
            # A generator's own cleaning up happens here, in the thread it ran in.
            close: Callable[[], None] | None = getattr(iterator, 'close', None)
            if close is not None:
                close()

    def put(self, message: Block) -> None:
        """:raises ConsumerGone: the consumer has stopped"""
        self._put(message)

    def end(self, error: BaseException | None = None) -> None:
        """No more messages; the consumer gets the error, if there is one.

        :raises ConsumerGone: the consumer has stopped
        """
        self._put(_End(error))

    def get_messages(self) -> Iterator[Block]:
        """The messages.

        :raises: what the producer raised, after the messages before it
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
        """The consumer wants no more: a producer that waits is woken."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _put(self, item: 'Block | _End') -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_SECONDS)
                return
        raise ConsumerGone


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
