"""The queue between the one who makes a stream and the one who stores it."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.utils.streaming import ConsumerGone, RichQueue

SECONDS = 10


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start it; the list gets its result or what it raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - the outcome
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def ended(thread: threading.Thread) -> bool:
    thread.join(SECONDS)
    return not thread.is_alive()


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 3))
def test_messages_arrive(messages: list[bytes], size: int) -> None:
    queue = RichQueue(size)
    thread, _ = in_thread(lambda: queue.put_messages(messages))
    assert list(queue.get_messages()) == messages
    assert ended(thread)


@pytest.mark.parametrize('error', [OSError('gone'), KeyboardInterrupt()], ids=repr)
def test_the_producers_error_comes_after_its_messages(error: BaseException) -> None:
    queue = RichQueue(1)

    def messages() -> Iterator[bytes]:
        yield b'a'
        yield b'b'
        raise error

    thread, outcome = in_thread(lambda: queue.put_messages(messages()))
    got: list[object] = []
    with pytest.raises(type(error)) as caught:
        got.extend(queue.get_messages())
    assert caught.value is error
    assert got == [b'a', b'b']
    assert ended(thread)
    assert outcome == [None]


def test_it_is_bounded() -> None:
    queue = RichQueue(2)
    made = 0
    waiting = threading.Event()

    def messages() -> Iterator[bytes]:
        nonlocal made
        while made < 100:
            made += 1
            if made == 3:
                waiting.set()
            yield b'x'

    thread, _ = in_thread(lambda: queue.put_messages(messages()))
    assert waiting.wait(SECONDS)
    time.sleep(0.05)
    assert made == 3
    assert len(list(queue.get_messages())) == 100
    assert ended(thread)


def test_a_consumer_that_stops_wakes_the_producer() -> None:
    queue = RichQueue(1)
    closed = threading.Event()

    def messages() -> Iterator[bytes]:
        try:
            while True:
                yield b'x'
        finally:
            closed.set()

    thread, outcome = in_thread(lambda: queue.put_messages(messages()))
    received = queue.get_messages()
    assert next(received) == b'x'
    getattr(received, 'close')()  # noqa: B009 - a generator, though typed an Iterator
    assert ended(thread)
    assert isinstance(outcome[0], ConsumerGone)
    # What the producer held is given back: tar is not left running.
    assert closed.is_set()


def test_a_consumer_that_fails_wakes_the_producer() -> None:
    queue = RichQueue(1)

    def consume() -> None:
        received = queue.get_messages()
        try:
            next(received)
            raise OSError('no space')
        finally:
            queue.close()

    producer, outcome = in_thread(lambda: queue.put_messages(iter(lambda: b'x', b'')))
    with pytest.raises(OSError, match='no space'):
        consume()
    assert ended(producer)
    assert isinstance(outcome[0], ConsumerGone)


def test_a_queue_nobody_reads_any_more_takes_nothing() -> None:
    queue = RichQueue()
    queue.close()
    with pytest.raises(ConsumerGone):
        queue.put(b'x')
    with pytest.raises(ConsumerGone):
        queue.end()
    with pytest.raises(ConsumerGone):
        queue.put_messages([b'x'])
