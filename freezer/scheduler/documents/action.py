"""One action of a job document, and the agent's job file made of it. Pure.

The agent reads exactly the values of the document. A value that a job file cannot hold
is rejected.
"""

import dataclasses
import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from freezer.common import plugins, upstream
from freezer.common.job_options import JobKeys
from freezer.common.jobfile import STORAGE_PREFIX
from freezer.exceptions import ConfigError

DEFAULT_RETRY_SECONDS = 60
_STORAGE_NAME = re.compile(r'[A-Za-z0-9_.-]+\Z')
# The scheduler writes the agent's job file; the agent would not read a second one.
_FORBIDDEN_KEYS = dict.fromkeys(
    ('config', 'config_file', 'config_dir'), 'the scheduler writes the job file'
) | {
    'encrypt_pass_fd': 'agents of the scheduler have no such file descriptor: use '
    'encrypt_pass_file or encrypt_pass_command'
}
# The only option of oslo.log that writes no file and runs no code.
_HARMLESS = 'debug'
_HIDDEN = '***'
_MOUNT = 'mount'
# With it, main options and sections name different storages.
_COPY = 'copy'
# Only action exec runs it.
_EXEC_COMMAND = 'command'
# Options that choose a program that the agent knows.
_PRESETS = ('stream',)


@functools.cache
def keys() -> JobKeys:
    """The agent's keys. Cached, because it reads the options of every storage."""
    return JobKeys()


@dataclasses.dataclass(frozen=True)
class Action:
    """The agent's options, and what to do when the agent fails.

    :param options: key -> text, for the main part of the agent's job file
    :param storages: NAME -> options, for each ``[storage:NAME]``
    :param mandatory: run it even if an earlier action failed
    :param retries: further attempts after the first one
    :param line: of the options, in the document
    """

    options: Mapping[str, str]
    storages: Mapping[str, Mapping[str, str]]
    mandatory: bool = False
    retries: int = 0
    retry_seconds: float = DEFAULT_RETRY_SECONDS
    line: int = dataclasses.field(default=1, compare=False)

    @property
    def name(self) -> str:
        return self._option('action', default='backup')

    @property
    def own_command(self) -> str:
        """How the job chooses a command to run, in words; empty if it does not."""
        if self.name == 'exec':
            return 'an exec action'
        commands = [
            name
            for name in self.options
            if name in _PRESETS
            or (name != _EXEC_COMMAND and keys().takes_command(name))
        ]
        return next((name for name in commands if self._option(name)), '')

    @property
    def mode(self) -> str:
        return self._option('mode', default='fs')

    @property
    def engine(self) -> str:
        given = self._option('engine_name', 'engine', default=plugins.DEFAULT_ENGINE)
        return plugins.engine_of(self.mode, given)

    @property
    def performer(self) -> str:
        """The engine; or the mode, if the backups of the mode are made elsewhere."""
        declared = plugins.options(plugins.MODES).get(self.mode)
        return self.mode if declared and declared.elsewhere else self.engine

    @property
    def storage_kinds(self) -> tuple[str, ...]:
        """The storage drivers it uses: s3, local."""
        sections = tuple(each.get('storage', '') for each in self.storages.values())
        if sections and self.name != _COPY:
            return sections
        return (*sections, *self.main_kinds)

    @property
    def main_kinds(self) -> tuple[str, ...]:
        """The drivers that its main options may be for. If the job names no storage,
        the agent's configuration files do."""
        if self.storages and self.name != _COPY:
            return self.storage_kinds
        kind = self._option('storage')
        return (kind,) if kind else ()

    def ini(self) -> str:
        """The agent's job file. It contains secrets."""
        sections = {'action': self.options} | {
            STORAGE_PREFIX + name: values for name, values in self.storages.items()
        }
        return '\n'.join(
            f'[{name}]\n' + ''.join(_line(key, values[key]) for key in values)
            for name, values in sections.items()
        )

    def without_secrets(self, text: str) -> str:
        """The text, with every secret of this action replaced by ``***``."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    @property
    def has_secrets(self) -> bool:
        return any(self._secrets())

    def _secrets(self) -> Iterator[str]:
        for values in (self.options, *self.storages.values()):
            for key, value in values.items():
                if value and keys().is_secret(key):
                    yield value

    def _option(self, *names: str, default: str = '') -> str:
        for name in names:
            # The agent reads these as the default.
            if self.options.get(name, '') not in upstream.UNSET:
                return self.options[name]
        return default


def _line(key: str, value: str) -> str:
    # Continuation lines must be indented; the agent reads %% as %, as Freezer 19 did.
    text = value.replace('%', '%%').replace('\n', '\n\t')
    return f'{key} = {text}\n'


class _Wrong(Exception):
    """The value of a key is invalid; the text says why."""


def parse(
    given: Mapping[str, Any], **others: Any
) -> tuple[Action | None, list[tuple[tuple[str, ...], str]]]:
    """Parse the object ``freezer_action``.

    :param others: of the action: mandatory, retries, retry_seconds, line
    :returns: the action, or None if there is a problem; and (path in the object,
        message) of each problem
    """
    problems: list[tuple[tuple[str, ...], str]] = []
    storages: dict[str, dict[str, str]] = {}
    options: dict[str, str] = {}
    set_by: dict[object, tuple[str, object]] = {}
    for name, value in given.items():
        try:
            if name.startswith(STORAGE_PREFIX):
                section = _storage(name, value)
                storages[name.removeprefix(STORAGE_PREFIX)] = section
                continue
            key, text = _key(name), _text(name, value)
            if key in options:
                raise _Wrong('duplicate key')
            if text is not None:
                _refuse_forbidden(key, text)
                keys().check(key, text)
                if setting := keys().setting(key, text):
                    option, value = setting
                    first, other = set_by.setdefault(option, (name, value))
                    if value != other:
                        raise _Wrong(f'contradicts {first}')
                options[key] = text
        except (_Wrong, ConfigError) as error:
            problems.append(((name,), str(error).removeprefix('agent: ')))
    if problems:
        return None, problems
    return Action(options, storages, **others), []


def _refuse_forbidden(key: str, text: str) -> None:
    if reason := _FORBIDDEN_KEYS.get(key):
        raise _Wrong(f'not allowed: {reason}')
    if key == 'action' and text == _MOUNT:
        raise _Wrong(
            'action mount is not allowed in a job, because it does not end by itself: '
            'run freezer-agent'
        )
    if keys().is_of_log(key) and key != _HARMLESS and text not in upstream.UNSET:
        raise _Wrong(
            'not allowed in a job, because it can run code or write files: set it in '
            'freezer-agent.conf'
        )


def _key(name: str) -> str:
    return name.strip().lower().replace('-', '_')


def _storage(name: str, value: Any) -> dict[str, str]:
    short = name.removeprefix(STORAGE_PREFIX)
    if not _STORAGE_NAME.match(short):
        raise _Wrong('invalid storage name: use letters, digits, and _ . -')
    if not isinstance(value, dict):
        raise _Wrong('must be an object with the options of a storage')
    texts = {_key(key): _text(_key(key), part) for key, part in value.items()}
    if len(texts) < len(value):
        raise _Wrong('duplicate key')
    section = {key: text for key, text in texts.items() if text is not None}
    keys().check_storage(short, section)
    return section


def _text(name: str, value: Any) -> str | None:
    """The value as it is written in a job file; None for null.

    :raises _Wrong: the agent would not read the same value back
    """
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return str(value)
    if keys().takes_lines(_key(name)):
        return _lines(value if isinstance(value, list) else str(value).split('\n'))
    if isinstance(value, list) and keys().takes_command(_key(name)):
        value = shlex.join(_words(value))
    if not isinstance(value, str):
        raise _Wrong('must be text, a number, true, false or null')
    _check_text(value)
    return value


def _words(items: list[Any]) -> list[str]:
    """The program and arguments of a command."""
    if not all(isinstance(item, str) for item in items):
        raise _Wrong('must be a list of texts')
    return items


def _lines(items: list[Any]) -> str:
    kept: list[str] = []
    for item in items:
        if not isinstance(item, str):
            raise _Wrong('must be a list of texts')
        _check_text(item)
        if not item:
            continue
        if kept and item[0] in '#;':
            # configparser would take it for a comment.
            raise _Wrong(f'a line cannot begin with {item[0]}: write [{item[0]}]')
        kept.append(item)
    return '\n'.join(kept)


def _check_text(text: str) -> None:
    if len(text.splitlines()) > 1 or text[-1:] in ('\n', '\r') or '\0' in text:
        raise _Wrong('contains a line break, which a job file cannot hold')
    if text != text.strip():
        raise _Wrong('begins or ends with a space, which a job file cannot hold')
    if any('\ud800' <= character <= '\udfff' for character in text):
        raise _Wrong('not valid text: contains half of a surrogate pair')
