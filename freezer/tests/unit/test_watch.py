"""Progress: the numbers, and how they are told."""

import gc
import io
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer import watch
from freezer.tests.commands import seen_on_terminal
from freezer.utils import human
from freezer.utils.progress import Progress
from freezer.utils.rate import Rate
from freezer.utils.text import at_most, columns_of, cut_middle
from freezer.watch import Watch


@pytest.mark.parametrize(
    'count, said',
    [
        (0, '0 B'),
        (1023, '1023 B'),
        (1024, '1.0 KiB'),
        (1536, '1.5 KiB'),
        (1024 * 999, '999.0 KiB'),
        (1024 * 1024 - 1, '1.0 MiB'),
        (5 * 2**30, '5.0 GiB'),
        (3 * 2**40, '3.0 TiB'),
        (2000 * 2**50, '2000.0 PiB'),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert human.size(count) == said


@pytest.mark.parametrize(
    'seconds, clock, duration',
    [
        (0, '0:00', '0.0 s'),
        (9.94, '0:09', '9.9 s'),
        (26.7, '0:26', '27 s'),
        (61, '1:01', '1:01'),
        (3723, '1:02:03', '1:02:03'),
        (90061, '1 d 01:01:01', '1 d 01:01:01'),
    ],
)
def test_times(seconds: float, clock: str, duration: str) -> None:
    assert human.clock(seconds) == clock
    assert human.duration(seconds) == duration


def test_counts() -> None:
    assert human.speed(100, 0) == '0 B/s'
    assert human.speed(4096, 2) == '2.0 KiB/s'
    assert human.number(1, 'part') == '1 part'
    assert human.number(0, 'part') == '0 parts'


def test_blocks_are_counted_and_handed_on() -> None:
    progress = Progress()
    assert list(progress.archived([b'ab', b'c'])) == [b'ab', b'c']
    assert list(progress.stored([b'd'])) == [b'd']
    assert (progress.archive_bytes, progress.stored_bytes) == (3, 1)
    progress.begin()
    assert (progress.archive_bytes, progress.stored_bytes) == (0, 0)


def test_what_passes_the_rates_is_what_moved() -> None:
    sending, receiving = Rate(0), Rate(1 << 30)
    progress = Progress(sending, receiving)
    sending.take(5)
    receiving.take(7)
    assert progress.moved == 12


def test_parts_of_many_threads() -> None:
    progress = Progress()
    together = threading.Barrier(8)
    most = []

    def work() -> None:
        with progress.part():
            together.wait()
            most.append(progress.under_way)
            together.wait()
        for _ in range(1000):
            progress.retry()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [8] * 8
    assert (progress.under_way, progress.retries) == (0, 8000)


class Screen(io.StringIO):
    """What a terminal shows, line by line; a carriage return begins the line again."""

    def isatty(self) -> bool:
        return True

    @property
    def drawn(self) -> list[str]:
        """Everything that was ever drawn on a line."""
        return self.getvalue().replace('\n', '\r').split('\r')

    @property
    def shown(self) -> list[str]:
        """What is to be seen at the end."""
        return seen_on_terminal(self.getvalue())


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, 'LINE_SECONDS', 0.01)
    monkeypatch.setattr(watch, 'LIVE_SECONDS', 0.01)
    monkeypatch.setattr(watch, '_FIRST_SECONDS', 0.0)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def restoring() -> Progress:
    receiving = Rate(0)
    progress = Progress(Rate(0), receiving)
    progress.phase = 'Restoring'
    progress.total = 10 << 20
    progress.files = 12
    progress.under_way = 3
    receiving.take(6 << 20)
    progress.stored_bytes = 2 << 20
    return progress


def test_a_live_line_comes_and_goes() -> None:
    progress, screen = restoring(), Screen()
    seen = Watch(progress, screen)
    with seen.watching():
        until(lambda: '40%' in screen.getvalue())
        with seen.interrupted():
            print('a warning', file=screen)
        before = len(screen.getvalue())
        until(lambda: '40%' in screen.getvalue()[before:])
    assert screen.shown == ['a warning', '']
    (line, *_) = [text for text in screen.drawn if '40%' in text]
    assert line.startswith('Restoring: 40%, 4.0 MiB of 10.0 MiB, ')
    assert max(map(len, screen.drawn)) < watch.WIDTH


def test_nothing_is_drawn_after_the_end() -> None:
    progress, screen = restoring(), Screen()
    seen = Watch(progress, screen)
    with seen.watching():
        until(lambda: '40%' in screen.getvalue())
        seen.end()
        print('the end', file=screen)
        time.sleep(0.1)
    assert screen.shown == ['the end', '']


def test_before_there_is_anything_to_see_nothing_is_drawn() -> None:
    progress, screen = Progress(), Screen()
    with Watch(progress, screen).watching():
        time.sleep(0.1)
    assert screen.getvalue() == ''


@pytest.fixture
def logs_on_screen() -> Iterator[Screen]:
    screen = Screen()
    handler = logging.StreamHandler(screen)
    logging.getLogger().addHandler(handler)
    yield screen
    logging.getLogger().removeHandler(handler)


def test_where_the_log_is_written_there_is_no_live_line(logs_on_screen: Screen) -> None:
    progress = restoring()
    with Watch(progress, logs_on_screen).watching():
        until(lambda: logs_on_screen.getvalue().count('\n') > 1)
    assert '\r' not in logs_on_screen.getvalue()


def test_one_who_cannot_be_told_any_more_is_left_alone() -> None:
    progress = restoring()

    class Gone(Screen):
        tried = 0

        def write(self, text: str) -> int:
            self.tried += 1
            raise OSError('the terminal is gone')

    screen = Gone()
    with Watch(progress, screen).watching():
        until(lambda: screen.tried)
        time.sleep(0.1)
    assert screen.tried == 1


@pytest.mark.parametrize('seen', [False, True])
def test_a_terminal_that_goes_while_a_line_is_drawn_stops_nobody(seen: bool) -> None:
    tried = threading.Event()

    class Hung(Screen):
        gone = False

        def write(self, text: str) -> int:
            if self.gone:
                tried.set()
                raise OSError('the terminal is gone')
            return super().write(text)

    screen = Hung()
    told = Watch(restoring(), screen)
    with told.watching():
        until(lambda: '40%' in screen.getvalue())
        screen.gone = True
        # By the thread that draws, or by the one that takes the line away.
        assert not seen or tried.wait(30)
    del told
    gc.collect()


def test_one_who_draws_and_is_stopped_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by Ctrl-S, while a signal ends the run."""
    monkeypatch.setattr(watch, '_PATIENCE_SECONDS', 0.05)
    stopped, on = threading.Event(), threading.Event()

    class Stopped(Screen):
        def write(self, text: str) -> int:
            stopped.set()
            on.wait(30)
            return len(text)

    seen = Watch(restoring(), Stopped())
    began = time.monotonic()
    with seen.watching():
        assert stopped.wait(30)
    assert time.monotonic() - began < 10
    on.set()


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now, number = 0.0, 0
    rate = watch._RateMeter(lambda: number, lambda: now)
    for _ in range(10):
        now, number = now + 1, number + 100
        assert rate.measure() == pytest.approx(100)
    # What is long past does not count: it has stopped.
    for _ in range(60):
        now += 1
        last = rate.measure()
    assert last == 0


@pytest.mark.parametrize('width', [200, 79, 60, 40, 20, 10, 3])
def test_what_does_not_fit_goes(width: int) -> None:
    seen = Watch(restoring(), Screen())
    text = watch._fit('Restoring', seen._pieces(), width)
    assert len(text) <= width
    assert 'Restoring: 40%'.startswith(text[:14])
    assert not text.endswith(', ')


def test_eighty_columns_hold_all_there_is_to_know() -> None:
    progress = restoring()
    progress.files, progress.under_way = 12345, 16
    seen = Watch(progress, Screen())
    progress.receiving.take(2 << 20)
    text = watch._fit('Restoring', seen._pieces(), 79)
    said = r'Restoring: 50%, 5.0 MiB, .*B/s, 12345 files, 16 parts, 0:00, 0:00 left'
    assert re.fullmatch(said, text)


def test_what_is_done_grows_whichever_is_the_slower_one() -> None:
    """A line, or a disk."""
    progress = restoring()
    seen = Watch(progress, Screen())
    done = [seen._done]
    progress.receiving.take(20 << 20)
    done.append(seen._done)
    for stored in (4, 8, 10):
        progress.stored_bytes = stored << 20
        done.append(seen._done)
    # More is received than there is: some of it came twice.
    assert done == [each << 19 for each in (8, 12, 14, 18, 20)]
    # A driver that counts nothing.
    progress = Progress(Rate(0), Rate(0))
    progress.total, progress.stored_bytes = 10, 4
    assert Watch(progress, Screen())._done == 4


def test_a_backup_is_done_as_far_as_it_was_sent() -> None:
    """Some parts of the archive wait in memory."""
    sending = Rate(0)
    progress = Progress(sending, Rate(0))
    progress.begin(stores=True)
    progress.total = 1000
    seen = Watch(progress, Screen())
    assert seen._done == 0
    progress.archive_bytes, progress.stored_bytes = 1000, 500
    done = [seen._done]
    for _ in range(5):
        sending.take(100)
        done.append(seen._done)
    assert done == [0, 200, 400, 600, 800, 1000]
    # What was sent again, and small requests.
    sending.take(500)
    assert seen._done == 1000
    # It does not shrink when the archive grows.
    progress.archive_bytes, progress.stored_bytes = 1100, 5000
    assert seen._done == 1000


# The names of files that a screen may have to show.
SHOWN = st.text(
    st.sampled_from('ab/ .é雪の\u0301\u0308\ufe0f\U0001f328{}'), max_size=40
)


@given(SHOWN, st.integers(1, 40))
def test_names_are_cut_in_the_middle(text: str, columns: int) -> None:
    found = cut_middle(text, columns)
    assert columns_of(found) <= columns
    if columns_of(text) <= columns:
        assert found == text
        return
    head, tail = found.split('…')[0], found.rpartition('…')[2]
    assert text.startswith(head)
    assert text.endswith(tail)
    # As much as fits: each of two more characters could have two columns.
    assert columns_of(found) >= columns - 2
    # What combines with a character stays with it.
    assert not tail or columns_of(tail[0])


@given(SHOWN, st.integers(1, 40))
def test_text_in_lines_loses_nothing(text: str, columns: int) -> None:
    rest, lines = text, []
    while rest:
        lines.append(at_most(rest, columns))
        rest = rest[len(lines[-1]) :]
    assert ''.join(lines) == text
    for line in lines:
        assert columns_of(line) <= max(columns, 2)
