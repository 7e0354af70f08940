"""freezer-scheduler as its users meet it: a command, and files in a directory."""

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

#: seconds after which what should have happened will not
PATIENCE = 60

Action = dict[str, Any]

_BEGINS = 'takes jobs from'


def command() -> tuple[str, ...]:
    """How to start the scheduler."""
    return agent.script('freezer-scheduler', 'freezer.scheduler.main')


def until(
    condition: Callable[[], object], what: Callable[[], object] = lambda: ''
) -> None:
    """Wait for something that will come about.

    :param what: what there is to say if it does not
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def document(*actions: Mapping[str, Any], **schedule: Any) -> dict[str, Any]:
    """A job of these ``freezer_action``s, or whole actions."""
    return {
        'job_actions': [
            dict(each) if 'freezer_action' in each else {'freezer_action': dict(each)}
            for each in actions
        ],
        'job_schedule': schedule,
    }


def executes(command: str) -> Action:
    return {'action': 'exec', 'command': command}


class Scheduler:
    """A scheduler with directories of its own, running or not; with ``with``."""

    def __init__(self, directory: Path, env: Mapping[str, str | None] = {}) -> None:
        self.jobs = directory / 'jobs'
        self.runtime = directory / 'run'
        self.state = directory / 'state'
        self.log = directory / 'log'
        self.jobs.mkdir(parents=True)
        self.env = environment(env)
        self._process: subprocess.Popen[bytes] | None = None
        self.options: tuple[str, ...] = ('--interval', '1')
        #: where jobs come from: files, or () for freezer-api
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
        """Write a job file, in one step."""
        path = self.jobs / f'{name}.conf'
        new = self.jobs / f'.{name}'
        new.write_text(json.dumps(job, indent=1))
        new.replace(path)
        return path

    def start(self, *options: str) -> 'Scheduler':
        """In the foreground, in the background of the test."""
        before = self.said.count(_BEGINS)
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
            )
        until(
            lambda: self.said.count(_BEGINS) > before or self.ended, lambda: self.said
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
        assert self.wait() == 0, self.said

    @property
    def said(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ''

    def call(self, *arguments: object) -> Result:
        """Another command, to its end."""
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
        """What is remembered of a job; nothing of one there is not."""
        try:
            found: dict[str, Any] = json.loads(
                (self.state / f'{name}.json').read_text()
            )
        except FileNotFoundError:
            return {}
        return found

    def until(self, name: str, **values: Any) -> dict[str, Any]:
        """Wait for what is remembered of a job to be so."""
        until(
            lambda: values.items() <= self.record(name).items(),
            lambda: (values, self.record(name), self.said),
        )
        return self.record(name)

    def until_said(self, text: str) -> None:
        until(lambda: text in self.said, lambda: f'not said: {text}\n{self.said}')
