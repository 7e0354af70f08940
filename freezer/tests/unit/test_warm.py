"""Agents that are forks are as those that are started from nothing."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freezer.tests import agent, warm
from freezer.tests.agent import Process


@pytest.fixture(params=[False, True], ids=['warm', 'cold'])
def start(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Process]:
    monkeypatch.setattr(agent, 'COLD', request.param)

    def start(*arguments: object, **env: str | None) -> Process:
        process = Process(*arguments, env=env)
        assert isinstance(process._process, warm.Child) is not request.param
        return process

    return start


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of one who does not answer."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        yield f'http://127.0.0.1:{listening.getsockname()[1]}'


def test_what_it_says_and_ends_with(start: Callable[..., Process]) -> None:
    with start('--version') as process:
        done = process.wait()
    assert (done.code, done.out.split()[0], done.err) == (0, 'freezer-agent', '')
    with start('--no-such-option') as process:
        done = process.wait()
    assert (done.code, done.out) == (2, '')
    assert '--no-such-option' in done.err


def test_what_it_is_given(
    start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = 'sh -c "{ pwd; umask; date +%Z; echo $GIVEN; } >said"'
    before = os.umask(0o027)
    try:
        options = ('--action', 'exec', '--command', command)
        with start(*options, GIVEN='this one', TZ='XYZ-3') as process:
            process.wait().check()
    finally:
        os.umask(before)
    said = (tmp_path / 'said').read_text().splitlines()
    assert said == [str(tmp_path), '0027', 'XYZ', 'this one']


def test_a_signal(start: Callable[..., Process], silent: str) -> None:
    options = ('--action', 'info', '--storage', 's3', '--container', 'bucket')
    keys = {'ACCESS_KEY': 'a', 'SECRET_KEY': 'b', 'ENDPOINT': silent}
    with start(*options, **keys) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process._process.wait(1)
        assert not process.ended
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert process.ended


def test_one_that_hangs_says_where(
    start: Callable[..., Process], silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, 'TIMEOUT', 2)
    options = ('--action', 'info', '--storage', 's3', '--container', 'bucket')
    keys = {'ACCESS_KEY': 'a', 'SECRET_KEY': 'b', 'ENDPOINT': silent}
    with (
        start(*options, **keys) as process,
        pytest.raises(AssertionError, match=r'it hangs[^$]*in list_tree'),
    ):
        process.wait()


@pytest.mark.parametrize('name', ['PYTHONPATH', 'LC_ALL', 'LD_LIBRARY_PATH'])
def test_what_is_read_at_the_start_is_for_those_from_nothing(name: str) -> None:
    with Process('--version', env={name: '/elsewhere'}) as process:
        assert isinstance(process._process, subprocess.Popen)
        process.wait()
