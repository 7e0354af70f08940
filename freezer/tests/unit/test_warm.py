"""An agent that is a fork behaves as one that was started cold."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from freezer.tests import agent, warm
from freezer.tests.agent import Process


@pytest.fixture(params=[warm.Fork, subprocess.Popen], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.setattr(agent, 'COLD', request.param is subprocess.Popen)
    kind: type = request.param
    return kind


def test_output_exit_code_and_surroundings(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Process('--no-such-option') as process:
        assert isinstance(process._process, kind)
        done = process.wait()
    assert (done.code, done.out) == (2, '')
    assert '--no-such-option' in done.err
    monkeypatch.chdir(tmp_path)
    command = 'sh -c "{ pwd; umask; date +%Z; echo $GIVEN; } >said"'
    before = os.umask(0o027)
    try:
        options = ('--action', 'exec', '--command', command)
        with Process(*options, env={'GIVEN': 'this one', 'TZ': 'XYZ-3'}) as process:
            process.wait().check()
    finally:
        os.umask(before)
    said = (tmp_path / 'said').read_text().splitlines()
    assert said == [str(tmp_path), '0027', 'XYZ', 'this one']


def test_signals_and_the_stack_of_an_agent_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent, 'TIMEOUT', 2)
    options = ('--action', 'info', '--storage', 's3', '--container', 'bucket')
    with socket.create_server(('127.0.0.1', 0)) as silent:
        endpoint = f'http://127.0.0.1:{silent.getsockname()[1]}'
        env = {'ACCESS_KEY': 'a', 'SECRET_KEY': 'b', 'ENDPOINT': endpoint}
        with Process(*options, env=env) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process._process.wait(1)
            process.send(signal.SIGTERM)
            assert process.wait().code == -signal.SIGTERM
        with (
            Process(*options, env=env) as process,
            pytest.raises(AssertionError, match=r'it hangs[^$]*in list_tree'),
        ):
            process.wait()


@pytest.mark.parametrize('name', ['PYTHONPATH', 'LC_ALL', 'LD_LIBRARY_PATH'])
def test_what_is_read_at_the_start_needs_a_cold_start(name: str) -> None:
    with Process('--version', env={name: '/elsewhere'}) as process:
        assert isinstance(process._process, subprocess.Popen)
        process.wait()
