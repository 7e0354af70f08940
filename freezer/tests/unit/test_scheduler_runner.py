"""Runs of jobs, with agents that misbehave."""

import json
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler import private
from freezer.scheduler.documents import document
from freezer.scheduler.runs import runner
from freezer.scheduler.runs.metadata import MetadataFiles
from freezer.scheduler.runs.runner import JobRun, RunResult
from freezer.scheduler.runs.watchdog import Watchdog, now
from freezer.tests.scheduler import until

BACKUP = {'storage': 's3', 'container': 'b', 'secret_key': 'sk/secret'}
Make = Callable[..., JobRun]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """A run with this code as its agent; ``job`` in it is the agent's job file."""
    lock = private.Lock(tmp_path / 'lock')
    results = tmp_path / 'results'
    results.mkdir()

    def run(code: str, *actions: dict[str, Any]) -> JobRun:
        begin = 'import os, signal, sys, time\njob = open(sys.argv[2]).read()\n'
        command = (sys.executable, '-c', begin + textwrap.dedent(code))
        monkeypatch.setattr(runner, 'AGENT', command)
        given = actions or ({'freezer_action': BACKUP},)
        text = json.dumps({'job_actions': given})
        made = document.parse('/a.conf', text.encode(), 'a')
        return JobRun(made, lock, dict(os.environ), MetadataFiles(results))

    yield run
    lock.close()


def action(name: str, **others: Any) -> dict[str, Any]:
    return {'freezer_action': {**BACKUP, 'backup_name': name}, **others}


def abort_when(path: Path, run: JobRun, for_good: bool = False) -> RunResult:
    """Execute the run, and abort it when the agent has created a file."""

    def abort() -> None:
        until(path.exists)
        run.abort(for_good)

    thread = threading.Thread(target=abort)
    thread.start()
    result = run.execute()
    thread.join()
    return result


def test_metadata_of_a_backup_is_kept(make: Make, tmp_path: Path) -> None:
    metadata = {'curr_backup_level': 2, 'time_stamp': 5, 'ssh_key': 'no'}
    result = make(f"""
        assert sys.argv[3] == '--metadata-out'
        open(sys.argv[4], 'w').write({json.dumps(metadata)!r})
    """).execute()
    assert (result.result, result.exit_code) == ('success', 0)
    assert result.backup == {'curr_backup_level': 2, 'time_stamp': 5}
    assert list((tmp_path / 'results').iterdir()) == []


def test_error_message_of_the_agent(make: Make) -> None:
    result = make("""
        print('Error: no sk/secret\\a here', file=sys.stderr)
        print('and more', file=sys.stderr)
        sys.exit(1)
    """).execute()
    assert (result.result, result.exit_code) == ('fail', 1)
    assert result.error == 'Error: no ***\\x07 here'


INCOMPLETE = """
    import json
    if len(sys.argv) > 4:
        found = {'curr_backup_level': 1, 'incomplete': 2}
        json.dump(found, open(sys.argv[4], 'w'))
    if 'action = exec' in job:
        sys.exit(0)
    sys.exit(3)
"""


def test_incomplete_backup_is_a_success_with_a_warning(
    make: Make, tmp_path: Path
) -> None:
    reported: list[dict[str, Any]] = []
    command = {'freezer_action': {'action': 'exec', 'command': 'true'}}
    run = make(INCOMPLETE, action('a', max_retries=2), command)
    run._on_backup = lambda _document, backup: reported.append(backup)
    result = run.execute()
    assert (result.result, result.exit_code, result.error) == ('success', 3, '')
    assert 'could not be read' in result.warning
    # Once: it is not tried again.
    assert reported[0] == {'curr_backup_level': 1, 'incomplete': 2}
    assert len(reported) == 2


def test_warnings_of_a_backup_are_a_warning_of_the_run(make: Make) -> None:
    metadata = {'curr_backup_level': 0, 'warnings': 2}
    result = make(f"""
        open(sys.argv[4], 'w').write({json.dumps(metadata)!r})
    """).execute()
    assert (result.result, result.exit_code) == ('success', 0)
    assert result.warning == '2 warnings; the log of the agent lists them'


def test_exit_code_3_of_another_action_is_a_failure(make: Make) -> None:
    command = {'freezer_action': {'action': 'exec', 'command': 'x'}}
    for each in (
        command,
        action('a') | {'freezer_action': BACKUP | {'action': 'info'}},
    ):
        result = make('sys.exit(3)', each).execute()
        assert (result.result, result.exit_code, result.warning) == ('fail', 3, '')


def test_failure_after_an_incomplete_backup(make: Make) -> None:
    code = "sys.exit(1 if 'backup_name = b' in job else 3)"
    result = make(code, action('a'), action('b')).execute()
    assert (result.result, result.exit_code) == ('fail', 1)


def test_job_file_is_in_memory_and_private(make: Make) -> None:
    result = make("""
        assert 'secret_key = sk/secret' in job
        assert os.stat(sys.argv[2]).st_mode & 0o777 == 0o600
        assert 'memfd' in os.readlink(sys.argv[2])
        assert 'sk/secret' not in ''.join(sys.argv) + str(os.environ)
        assert os.getpgid(0) == os.getpid()
        sys.exit(7)
    """).execute()
    assert result.exit_code == 7


def test_more_output_than_a_pipe_holds(make: Make) -> None:
    result = make("""
        for stream in (sys.stdout, sys.stderr):
            stream.write('x' * 5_000_000)
    """).execute()
    assert (result.result, result.backup) == ('success', {})


def test_child_that_keeps_the_pipe_open(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, '_STDERR_SECONDS', 0.1)
    ended = tmp_path / 'ended'
    result = make(f"""
        if not os.fork():
            while not os.path.exists({str(ended)!r}):
                time.sleep(0.02)
    """).execute()
    ended.touch()
    assert result.result == 'success'


def test_agent_that_ignores_sigterm_is_killed(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, 'KILL_SECONDS', 0.2)
    began = tmp_path / 'began'
    run = make(f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(began)!r}, 'w').close()
        time.sleep(600)
    """)
    result = abort_when(began, run)
    assert (result.result, result.exit_code) == ('aborted', -9)


@pytest.mark.parametrize('for_good', [False, True])
def test_mandatory_actions_run_after_an_abort(
    make: Make, tmp_path: Path, for_good: bool
) -> None:
    log, began = tmp_path / 'log', tmp_path / 'began'
    actions = [
        action(name, mandatory=name != 'other', max_retries=3)
        for name in ('first', 'other', 'last')
    ]
    run = make(
        f"""
        name = job.split('backup_name = ')[1].split()[0]
        print(name, file=open({str(log)!r}, 'a'), flush=True)
        if name == 'first':
            open({str(began)!r}, 'w').close()
            time.sleep(600)
        """,
        *actions,
    )
    result = abort_when(began, run, for_good)
    assert result.result == 'aborted'
    assert log.read_text().split() == ['first'] + ([] if for_good else ['last'])


def test_agent_that_succeeds_during_an_abort(make: Make, tmp_path: Path) -> None:
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
    result = abort_when(began, run)
    # The first succeeded, and the second was skipped.
    assert (result.result, result.error) == ('aborted', 'aborted')


def test_no_retries_while_the_scheduler_stops(make: Make) -> None:
    retries = {'max_retries': 1, 'max_retries_interval': 600}
    run = make('sys.exit(4)', action('bk', **retries))
    threading.Timer(0.1, run.skip_retries).start()
    result = run.execute()
    assert (result.result, result.exit_code) == ('fail', 4)


def test_success_after_a_failure_is_a_failure(make: Make) -> None:
    actions = [action(name, mandatory=True) for name in ('bad', 'good')]
    result = make('sys.exit(4 if "bad" in job else 0)', *actions).execute()
    assert (result.result, result.exit_code) == ('fail', 4)


def test_agent_that_cannot_be_started(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make('')
    monkeypatch.setattr(runner, 'AGENT', ('/nonexistent/agent',))
    result = run.execute()
    assert (result.result, result.exit_code) == ('fail', 1)
    assert 'cannot start the agent' in result.error


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog()
    yield made
    made.close()


def test_no_agent_starts_when_the_locks_may_have_expired(
    make: Make, tmp_path: Path, watchdog: Watchdog
) -> None:
    run = make(f"open({str(tmp_path / 'started')!r}, 'w')")
    run._watchdog = watchdog
    watchdog.valid_until(now(), now() + 60)
    assert run.execute().result == 'aborted'
    assert not (tmp_path / 'started').exists()


def test_what_ignores_sigterm_is_killed_with_its_agent(
    make: Make, tmp_path: Path, watchdog: Watchdog
) -> None:
    """Another scheduler may repeat the run."""
    run = make(f"""
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid()))
            os.rename({str(tmp_path / 'child')!r}, {str(tmp_path / 'ready')!r})
        time.sleep(60)
    """)
    run._watchdog = watchdog
    result = abort_when(tmp_path / 'ready', run, for_good=True)
    assert result.result == 'aborted'
    child = Path('/proc', (tmp_path / 'ready').read_text(), 'stat')
    until(lambda: not child.exists() or child.read_text().split()[2] == 'Z')
