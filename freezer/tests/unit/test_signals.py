"""Signals: seen at once, undone in time, or the end."""

import signal
import sys
import textwrap

import pytest

from freezer.tests.commands import run_command

BEGIN = """
import os, signal, sys, threading, time
from freezer.utils import signals

def on_timeout(interruption):
    print('out of time:', interruption.name, flush=True)

def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)

def wait_for_ever():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def run(code: str) -> tuple[int, list[str]]:
    """Status and lines of a process that must not hang."""
    script = BEGIN + textwrap.dedent(code)
    ended = run_command(sys.executable, '-c', script, timeout=60)
    assert ended.stderr == ''
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP'])
def test_it_is_raised_and_passed_on(name: str) -> None:
    status, lines = run(f"""
        with signals.as_exceptions(on_timeout):
            try:
                send(signal.{name})
                wait_for_ever()
            except signals.Interrupted as interruption:
                print(interruption.name, flush=True)
                interruption.pass_on()
    """)
    assert (status, lines) == (-signal.Signals[name], [name])


def test_it_is_seen_though_the_main_thread_was_not_woken() -> None:
    # As one that came between Python's look for signals and its wait for the lock.
    status, lines = run("""
        def to_itself():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

        with signals.as_exceptions(on_timeout):
            try:
                threading.Timer(0.3, to_itself).start()
                wait_for_ever()
            except signals.Interrupted as interruption:
                print(interruption.name, flush=True)
    """)
    assert (status, lines) == (0, ['SIGTERM'])


def test_a_second_one_does_not_interrupt_the_undoing() -> None:
    status, lines = run("""
        with signals.as_exceptions(on_timeout):
            try:
                send()
            except signals.Interrupted:
                send(signal.SIGINT)
                time.sleep(0.3)
                print('undone', flush=True)
    """)
    assert (status, lines) == (0, ['undone'])


def test_undoing_that_takes_too_long_is_the_end() -> None:
    status, lines = run("""
        signals.GRACE_SECONDS = 0.3
        with signals.as_exceptions(on_timeout):
            with signals.on_forced_exit(lambda: print('not this', flush=True)):
                pass
            def slowly():
                time.sleep(0.3)
                print('first this', flush=True)

            with signals.on_forced_exit(slowly):
                try:
                    send()
                except signals.Interrupted:
                    wait_for_ever()
    """)
    assert (status, lines) == (-signal.SIGTERM, ['first this', 'out of time: SIGTERM'])


def test_it_is_raised_at_the_end_of_a_block_that_defers_it() -> None:
    status, lines = run("""
        signals.GRACE_SECONDS = 0.3
        with signals.as_exceptions(on_timeout):
            try:
                with signals.deferred(30):
                    send()
                    time.sleep(0.6)
                    print('done', flush=True)
                    raise ValueError('an error of the block')
            except signals.Interrupted as interruption:
                print(interruption.name, flush=True)
                with signals.deferred(30):
                    time.sleep(0.6)
                    print('also done', flush=True)
                wait_for_ever()
    """)
    last = 'out of time: SIGTERM'
    assert (status, lines) == (-15, ['done', 'SIGTERM', 'also done', last])


def test_a_deferral_has_a_limit() -> None:
    status, lines = run("""
        signals.GRACE_SECONDS = 0.1
        with signals.as_exceptions(on_timeout), signals.deferred(0.3):
            send()
            wait_for_ever()
    """)
    assert (status, lines) == (-15, ['out of time: SIGTERM'])


def test_the_end_comes_whatever_fails_before_it() -> None:
    status, lines = run("""
        signals.GRACE_SECONDS = 0.3

        def fail():
            raise OSError('no such process')

        with signals.as_exceptions(on_timeout), signals.on_forced_exit(fail):
            try:
                send()
            except signals.Interrupted:
                wait_for_ever()
    """)
    assert (status, lines) == (-signal.SIGTERM, ['out of time: SIGTERM'])


def test_afterwards_everything_is_as_before() -> None:
    status, lines = run("""
        signals.GRACE_SECONDS = 0.3
        with signals.as_exceptions(on_timeout):
            try:
                send()
            except signals.Interrupted:
                pass
        time.sleep(0.6)
        assert threading.active_count() == 1
        assert signal.set_wakeup_fd(-1) == -1
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        print('alive', flush=True)
    """)
    assert (status, lines) == (0, ['alive'])
