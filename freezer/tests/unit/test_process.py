"""Which process lives, told from a few words."""

import json
import sys

import pytest

from freezer.tests.commands import run_command
from freezer.utils import process

ASK = (
    'from freezer.utils import process; import json; '
    'print(json.dumps(process.identity()))'
)


def test_this_one_lives() -> None:
    assert process.is_alive(process.identity()) is True


def test_one_that_ended_is_dead() -> None:
    other = json.loads(run_command(sys.executable, '-c', ASK, check=True).stdout)
    assert other['pid'] != process.identity()['pid']
    assert process.is_alive(other) is False


def test_an_id_that_is_used_again_is_another_process() -> None:
    assert process.is_alive(process.identity() | {'started': '1'}) is False


@pytest.mark.parametrize('where', ['boot', 'namespace'])
def test_what_is_elsewhere_cannot_be_seen(where: str) -> None:
    assert process.is_alive(process.identity() | {where: 'another'}) is None


@pytest.mark.parametrize('pid', ['x', None, '-1/../1'])
def test_nonsense_says_nothing(pid: str | None) -> None:
    assert process.is_alive(process.identity() | {'pid': pid}) is not True


@pytest.mark.parametrize('told', [{}, [], None, 'x'])
def test_nothing_says_nothing(told: object) -> None:
    assert process.is_alive(told) is None
