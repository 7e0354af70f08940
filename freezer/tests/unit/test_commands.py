"""Commands that a user configured, with a time limit."""

import os
from pathlib import Path

import pytest

from freezer.exceptions import ConfigError
from freezer.tests.functional.waiting import gone, until_group_gone
from freezer.utils import commands


def test_the_time_limit_also_ends_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, 'LIMIT_SECONDS', 0.5)
    command = f"sh -c 'echo $$ >{tmp_path}/group; sleep 600; :'"
    with pytest.raises(ConfigError, match=r'^x sh: was killed, .* longer than 0.5 s$'):
        commands.run('x', f'{command} | cat')
    group = int((tmp_path / 'group').read_text())
    assert gone(group)
    until_group_gone(group)


def test_a_process_that_is_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    command = f"sh -c 'echo first; sleep 30 & echo $! >{tmp_path}/child'"
    assert commands.run('x', command) == b'first'
    os.kill(int((tmp_path / 'child').read_text()), 9)


@pytest.mark.parametrize(
    'command, line',
    [
        ('echo "one  two"', b'one  two'),
        (r"printf 'a\r\nb\n'", b'a\r'),
        (r"printf '\377'", b'\xff'),
        (r"printf '\nb\n'", b''),
        ('true', b''),
        ("sh -c 'echo first; head -c 3000000 /dev/zero; echo >&2'", b'first'),
        ('cat | tr a-z A-Z', b'GIVEN'),
    ],
)
def test_the_first_line(command: str, line: bytes) -> None:
    assert commands.run('x', command, b'given\nmore') == line


@pytest.mark.parametrize(
    'script, message',
    [
        ('exit 5', 'x sh: exited with 5'),
        ('echo why >&2; echo; exit 1', 'x sh: exited with 1: why'),
        ('seq 1 9 >&2; exit 1', 'x sh: exited with 1: 5; 6; 7; 8; 9'),
        ('echo secret; echo no secret >&2; exit 1', 'x sh: exited with 1: no ***'),
        (r'printf "a\033[0m\377" >&2; exit 1', r'x sh: exited with 1: a\x1b[0m\xff'),
    ],
)
def test_failures(script: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        commands.run('x', f"sh -c '{script}'")
    assert str(caught.value) == message
