"""A run, with agents that misbehave."""

import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler import document, private, runner
from freezer.scheduler.results import Results
from freezer.scheduler.runner import Outcome, Run

BACKUP = {'storage': 's3', 'container': 'b', 'secret_key': 'sk/secret'}
Make = Callable[..., Run]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """A run of a job whose agent is this code; ``job`` is what it was told."""
    lock = private.Lock(tmp_path / 'lock')
    results = tmp_path / 'results'
    results.mkdir()

    def run(code: str, *actions: dict[str, Any]) -> Run:
        begin = 'import os, signal, sys, time\njob = open(sys.argv[2]).read()\n'
        told = (sys.executable, '-c', begin + textwrap.dedent(code))
        monkeypatch.setattr(runner, 'AGENT', told)
        given = actions or ({'freezer_action': BACKUP},)
        text = json.dumps({'job_actions': given})
        made = document.parse('/a.conf', text.encode(), 'a')
        return Run(made, lock, dict(os.environ), Results(results))

    yield run
    lock.close()


def aborted_when(path: Path, run: Run, for_good: bool = False) -> Outcome:
    """Execute, and abort it when the agent has made a file."""

    def abort() -> None:
        while not path.exists():
            time.sleep(0.02)
        run.abort(for_good)

    thread = threading.Thread(target=abort)
    thread.start()
    outcome = run.execute()
    thread.join()
    return outcome


def test_what_is_said_of_a_backup_is_kept(make: Make, tmp_path: Path) -> None:
    said = {'curr_backup_level': 2, 'time_stamp': 5, 'ssh_key': 'no'}
    outcome = make(f"""
        assert sys.argv[3] == '--metadata-out'
        open(sys.argv[4], 'w').write({json.dumps(said)!r})
    """).execute()
    assert (outcome.result, outcome.exit_code) == ('success', 0)
    assert outcome.backup == {'curr_backup_level': 2, 'time_stamp': 5}
    assert list((tmp_path / 'results').iterdir()) == []


def test_the_line_that_says_why(make: Make) -> None:
    outcome = make("""
        print('Error: no sk/secret\\a here', file=sys.stderr)
        print('and more', file=sys.stderr)
        sys.exit(1)
    """).execute()
    assert (outcome.result, outcome.exit_code) == ('fail', 1)
    assert outcome.error == 'Error: no ***\\x07 here'


def test_it_is_told_in_memory_of_its_owner(make: Make) -> None:
    outcome = make("""
        assert 'secret_key = sk/secret' in job
        assert os.stat(sys.argv[2]).st_mode & 0o777 == 0o600
        assert 'memfd' in os.readlink(sys.argv[2])
        assert 'sk/secret' not in ''.join(sys.argv) + str(os.environ)
        assert os.getpgid(0) == os.getpid()
        sys.exit(7)
    """).execute()
    assert outcome.exit_code == 7


def test_more_output_than_a_pipe_holds(make: Make) -> None:
    outcome = make("""
        for stream in (sys.stdout, sys.stderr):
            stream.write('x' * 5_000_000)
    """).execute()
    assert (outcome.result, outcome.backup) == ('success', {})


def test_a_child_that_keeps_the_pipe(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, '_READERS_SECONDS', 0.1)
    ended = tmp_path / 'ended'
    outcome = make(f"""
        if not os.fork():
            while not os.path.exists({str(ended)!r}):
                time.sleep(0.02)
    """).execute()
    ended.touch()
    assert outcome.result == 'success'


def test_an_agent_that_does_not_want_to_end(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, 'KILL_SECONDS', 0.2)
    began = tmp_path / 'began'
    run = make(f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(began)!r}, 'w').close()
        time.sleep(600)
    """)
    outcome = aborted_when(began, run)
    assert (outcome.result, outcome.exit_code) == ('aborted', -9)


@pytest.mark.parametrize('for_good', [False, True])
def test_what_is_mandatory_after_an_abort(
    make: Make, tmp_path: Path, for_good: bool
) -> None:
    log = tmp_path / 'log'
    actions = [
        {
            'freezer_action': {**BACKUP, 'backup_name': name},
            'mandatory': name != 'other',
            'max_retries': 3,
        }
        for name in ('first', 'other', 'last')
    ]
    run = make(
        f"""
        name = job.split('backup_name = ')[1].split()[0]
        print(name, file=open({str(log)!r}, 'a'), flush=True)
        if name == 'first':
            time.sleep(600)
        """,
        *actions,
    )
    outcome = aborted_when(log, run, for_good)
    assert outcome.result == 'aborted'
    assert log.read_text().split() == ['first'] + ([] if for_good else ['last'])


def test_one_that_ends_by_itself_as_it_is_aborted(make: Make, tmp_path: Path) -> None:
    began = tmp_path / 'began'
    run = make(
        f"""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        open({str(began)!r}, 'w').close()
        time.sleep(600)
        """,
        {'freezer_action': BACKUP},
        {'freezer_action': BACKUP},
    )
    outcome = aborted_when(began, run)
    # The first has succeeded, and the second was not run.
    assert (outcome.result, outcome.error) == ('aborted', 'aborted')


def test_it_does_not_wait_to_try_again_when_the_end_is_near(make: Make) -> None:
    action = {'freezer_action': BACKUP, 'max_retries': 1, 'max_retries_interval': 600}
    run = make('sys.exit(3)', action)
    threading.Timer(0.1, run.hurry).start()
    outcome = run.execute()
    assert (outcome.result, outcome.exit_code) == ('fail', 3)


def test_a_success_after_a_failure_is_a_failure(make: Make) -> None:
    def act(name: str) -> dict[str, Any]:
        return {'freezer_action': {**BACKUP, 'backup_name': name}, 'mandatory': True}

    run = make('sys.exit(4 if "bad" in job else 0)', act('bad'), act('good'))
    outcome = run.execute()
    assert (outcome.result, outcome.exit_code) == ('fail', 4)


def test_an_agent_that_cannot_be_started(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make('')
    monkeypatch.setattr(runner, 'AGENT', ('/nonexistent/agent',))
    outcome = run.execute()
    assert (outcome.result, outcome.exit_code) == ('fail', 1)
    assert 'cannot be started' in outcome.error
