"""Action exec: run a command."""

import logging
import sys

from freezer.exceptions import ConfigError
from freezer.job.job import Job, Outcome
from freezer.utils import commands

LOG = logging.getLogger(__name__)


class ExecJob(Job):
    """Runs a command, without a shell, and exits with its status."""

    def check_options(self) -> None:
        super().check_options()
        self._split()

    def execute(self) -> Outcome:
        pipeline = self._split()
        if self.config.dry_run:
            self.say(f'Would run {self.config.command}')
            return Outcome()
        # The agent's own standard output is for its result.
        with commands.started('command', pipeline, stdout=sys.stderr) as processes:
            for process in processes:
                process.wait()
        code = commands.exit_code(processes)
        LOG.info('%s exited with %d', pipeline[-1][0], code)
        return Outcome(exit_code=code if code >= 0 else 128 - code)

    def _split(self) -> list[list[str]]:
        if not self.config.command:
            raise ConfigError(
                'command is required for action exec: give --command, or command in '
                'the job file'
            )
        return commands.split('command', self.config.command)
