"""Run freezer-scheduler: a command, and job files in a directory."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from freezer.tests import agent
from freezer.tests.agent import Result, environment

#: seconds after which a test stops waiting
PATIENCE = int(os.environ.get('FREEZER_TEST_PATIENCE') or 150)

Action = dict[str, Any]

_STARTED = 'reading jobs from'


def command() -> tuple[str, ...]:
    """How to start the scheduler."""
    return agent.script('freezer-scheduler', 'freezer.scheduler.main')


def until(
    condition: Callable[[], object], what: Callable[[], object] = lambda: ''
) -> None:
    """Wait for a condition.

    :param what: returns details for the error message
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def document(*actions: Mapping[str, Any], **schedule: Any) -> dict[str, Any]:
    """A job with these actions: objects with the agent's options, or whole actions."""
    return {
        'job_actions': [
            dict(each) if 'freezer_action' in each else {'freezer_action': dict(each)}
            for each in actions
        ],
        'job_schedule': schedule,
    }


def backup_to(folder: Path, tree: Path, **options: Any) -> Action:
    """A backup of the tree to a local storage."""
    where = {'storage': 'local', 'container': str(folder)}
    what = {'path_to_backup': str(tree), 'backup_name': 'bk'}
    return {'action': 'backup', **where, **what, **options}


def executes(command: str) -> Action:
    return {'action': 'exec', 'command': command}


class Scheduler:
    """A scheduler with its own directories, stopped at the end of a ``with`` block."""

    def __init__(self, directory: Path, env: Mapping[str, str | None] = {}) -> None:
        self.jobs = directory / 'jobs'
        self.runtime = directory / 'run'
        self.state = directory / 'state'
        self.log = directory / 'log'
        self.jobs.mkdir(parents=True)
        self.env = environment(env)
        self._process: subprocess.Popen[bytes] | None = None
        self.options: tuple[str, ...] = ('--interval', '1')
        #: the job files; () for freezer-api
        self.source: tuple[str, ...] = ('--no-api',)

    @property
    def places(self) -> tuple[str, ...]:
        return (
            *('--jobs-dir', str(self.jobs), '--scheduler-runtime-dir'),
            *(str(self.runtime), '--scheduler-state-dir', str(self.state)),
        )

    def __enter__(self) -> 'Scheduler':
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def job(self, name: str, job: Mapping[str, Any]) -> Path:
        """Write a job file, atomically."""
        path = self.jobs / f'{name}.conf'
        new = self.jobs / f'.{name}'
        new.write_text(json.dumps(job, indent=1))
        new.replace(path)
        return path

    def start(self, *options: str) -> 'Scheduler':
        """Start it, with --no-daemon, and wait until it has started."""
        before = self.logged.count(_STARTED)
        with self.log.open('ab') as log:
            self._process = subprocess.Popen(
                [
                    *(*command(), 'start', '--no-daemon', *self.source),
                    *(*self.places, *self.options, *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                # The scheduler has to set its own.
                umask=0,
            )
        until(
            lambda: self.logged.count(_STARTED) > before or self.ended,
            lambda: self.logged,
        )
        return self

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        self.send(signal.SIGTERM)
        assert self.wait() == 0, self.logged

    @property
    def logged(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ''

    def call(self, *arguments: object) -> Result:
        """Run another command."""
        argv = (*command(), *map(str, arguments), *self.places)
        ended = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=PATIENCE,
            check=False,
        )
        return Result(argv, ended.returncode, ended.stdout, ended.stderr)

    def record(self, name: str) -> dict[str, Any]:
        """The record of a job; empty if there is none."""
        try:
            found: dict[str, Any] = json.loads(
                (self.state / f'{name}.json').read_text()
            )
        except FileNotFoundError:
            return {}
        return found

    def until(self, name: str, **values: Any) -> dict[str, Any]:
        """Wait until the record of a job has these values."""
        until(
            lambda: values.items() <= self.record(name).items(),
            lambda: (values, self.record(name), self.logged),
        )
        return self.record(name)

    def until_successes(self, name: str, count: int) -> None:
        """Wait until the job has succeeded so many times."""
        until(
            lambda: self.record(name).get('successes', 0) >= count, lambda: self.logged
        )

    def until_logged(self, text: str) -> None:
        until(lambda: text in self.logged, lambda: f'not logged: {text}\n{self.logged}')
