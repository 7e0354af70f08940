"""Runs commands of the user: before and after an action, and to report its result."""

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError, FreezerError
from freezer.job import INCOMPLETE
from freezer.utils import commands, signals
from freezer.utils.progress import Progress
from freezer.utils.text import NOTICES, printable, shortened

LOG = logging.getLogger(__name__)

_LONGEST_MESSAGE = 2000
# Seconds that a post-command has after a signal, when the process would end sooner.
_AFTER_SIGNAL = 30.0


@dataclasses.dataclass
class Result:
    """The result of a run.

    :param message: the error, or the first line of the summary; without secrets
    :param document: JSON for programs; None if there is none
    """

    code: int = 0
    message: str = ''
    document: Any = None


def notify(config: AgentConfig, result: Result, progress: Progress) -> None:
    """Run the command for this result, if there is one.

    :raises ConfigError: it failed
    """
    name = 'on_failure_command' if result.code else 'on_success_command'
    command: str | None = getattr(config, name)
    if not command or config.dry_run:
        return
    _run(name, command, config, result, progress)


class Hooks:
    """``--pre-command`` and ``--post-command``.

    :param say: shows a line on the terminal
    """

    def __init__(
        self, config: AgentConfig, progress: Progress, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._progress = progress
        self._say = say
        self.action = config.action
        self.is_ending = False
        """Whether the post-command runs."""

    def before(self) -> None:
        """Run the pre-command.

        :raises ConfigError: it failed
        """
        command = self._config.pre_command
        if not command:
            return
        if self._config.dry_run:
            self._say(f'Would run {command}')
            return
        self._progress.phase = 'Running the pre-command'
        limit = float(self._config.hook_timeout)
        variables = _variables(self._config)
        try:
            commands.run('pre-command', command, b'', variables, limit)
        except ConfigError as error:
            raise ConfigError(f'{error}; nothing else was done') from error

    def after(self, result: Result) -> None:
        """Run the post-command. To be called whenever :meth:`before` was.

        :raises ConfigError: it failed
        """
        command = self._config.post_command
        if not command:
            return
        if self._config.dry_run:
            self._say(f'Would run {command}')
            return
        self._progress.phase = 'Running the post-command'
        limit = float(self._config.hook_timeout)
        self.is_ending = True
        try:
            # It undoes what the pre-command did.
            with signals.deferred(min(limit, _AFTER_SIGNAL)):
                _run(
                    *('post-command', command, self._config),
                    *(result, self._progress, limit),
                )
        finally:
            self.is_ending = False

    def after_failure(self, result: Result) -> None:
        """The same after an error, which is the one to report."""
        try:
            self.after(result)
        except FreezerError as error:
            LOG.error('%s', error)
            NOTICES.warning('%s', error)


def _run(
    option: str,
    command: str,
    config: AgentConfig,
    result: Result,
    progress: Progress,
    limit: float | None = None,
) -> None:
    """Run a command that gets the result of the action."""
    is_incomplete = result.code == INCOMPLETE and progress.incomplete
    status = 'failure' if result.code else 'success'
    message = result.message or f'{config.action}: exit code {result.code}'
    document = result.document
    commands.run(
        option.replace('_', '-'),
        command,
        b'' if document is None else json.dumps(document).encode() + b'\n',
        {
            **_variables(config),
            'FREEZER_STATUS': 'incomplete' if is_incomplete else status,
            'FREEZER_RESULT': 'ok' if is_incomplete or not result.code else 'failed',
            'FREEZER_EXIT_CODE': str(result.code),
            'FREEZER_LEVEL': '' if progress.level is None else str(progress.level),
            'FREEZER_MESSAGE': shortened(printable(message), _LONGEST_MESSAGE),
        },
        limit,
    )


def _variables(config: AgentConfig) -> dict[str, str]:
    """What is known before the action."""
    return {
        'FREEZER_ACTION': config.action,
        'FREEZER_BACKUP_NAME': printable(config.reported_name),
        'FREEZER_CONTAINER': printable(config.container),
        'FREEZER_HOSTNAME': printable(config.hostname),
    }
