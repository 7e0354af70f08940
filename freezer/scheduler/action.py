"""One action of a job: what the agent is told, as the job file it reads. Pure.

Values arrive as they were written, or are refused: a job file cannot hold every text.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from freezer.common.job_options import JobKeys
from freezer.common.jobfile import STORAGE_PREFIX
from freezer.exceptions import ConfigError

DEFAULT_RETRY_SECONDS = 60
_STORAGE_NAME = re.compile(r'[A-Za-z0-9_.-]+\Z')
# The job file is the scheduler's; others the agent would not read from inside it.
_NOT_HERE = ('config', 'config_file', 'config_dir')
_HIDDEN = '***'


@functools.cache
def keys() -> JobKeys:
    """The agent's; made once, as all its storages are looked at for them."""
    return JobKeys()


@dataclasses.dataclass(frozen=True)
class Action:
    """What the agent is run with, and what is done when it fails.

    :param options: key -> text, of the main part of the agent's job file
    :param storages: the same for each ``[storage:NAME]``, by NAME
    :param mandatory: to be run after an action that failed, too
    :param retries: how often more it is tried
    """

    options: Mapping[str, str]
    storages: Mapping[str, Mapping[str, str]]
    mandatory: bool = False
    retries: int = 0
    retry_seconds: float = DEFAULT_RETRY_SECONDS

    @property
    def name(self) -> str:
        return self._option('action', default='backup')

    @property
    def mode(self) -> str:
        return self._option('mode', default='fs')

    @property
    def engine(self) -> str:
        return self._option('engine_name', 'engine', default='tar')

    @property
    def storage_kinds(self) -> tuple[str, ...]:
        """The drivers it uses: s3, local."""
        if self.storages:
            return tuple(values.get('storage', '') for values in self.storages.values())
        kind = self._option('storage')
        return (kind,) if kind else ()

    def ini(self) -> str:
        """The agent's job file. It holds secrets."""
        sections = {'action': self.options} | {
            STORAGE_PREFIX + name: values for name, values in self.storages.items()
        }
        return '\n'.join(
            f'[{name}]\n' + ''.join(_line(key, values[key]) for key in values)
            for name, values in sections.items()
        )

    def without_secrets(self, text: str) -> str:
        """The text with stars for each secret of this action that is in it."""
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
            # The agent takes these for a default.
            if self.options.get(name, '') not in ('', 'None', 'False', 'false'):
                return self.options[name]
        return default


def _line(key: str, value: str) -> str:
    # Lines after the first are part of the value because they are indented; the agent
    # reads %% as %, as Freezer 19 had it written.
    text = value.replace('%', '%%').replace('\n', '\n\t')
    return f'{key} = {text}\n'


class _Wrong(Exception):
    """A value cannot be carried, and why."""


def read(
    given: Mapping[str, Any], **how: Any
) -> tuple[Action | None, list[tuple[tuple[str, ...], str]]]:
    """The object ``freezer_action``.

    :param how: mandatory, retries, retry_seconds
    :returns: the action, and (path in the object, what is wrong) of each problem; no
        action where there is one
    """
    wrong: list[tuple[tuple[str, ...], str]] = []
    storages: dict[str, dict[str, str]] = {}
    options: dict[str, str] = {}
    for name, value in given.items():
        try:
            if name.startswith(STORAGE_PREFIX):
                section = _storage(name, value)
                storages[name.removeprefix(STORAGE_PREFIX)] = section
                continue
            key, text = _key(name), _text(name, value)
            if key in options:
                raise _Wrong('is given twice')
            if text is not None:
                if key in _NOT_HERE:
                    raise _Wrong('the scheduler writes the job file of the agent')
                keys().check(key, text)
                options[key] = text
        except (_Wrong, ConfigError) as error:
            wrong.append(((name,), str(error).removeprefix('agent: ')))
    if wrong:
        return None, wrong
    return Action(options, storages, **how), []


def _key(name: str) -> str:
    return name.strip().lower().replace('-', '_')


def _storage(name: str, value: Any) -> dict[str, str]:
    short = name.removeprefix(STORAGE_PREFIX)
    if not _STORAGE_NAME.match(short):
        raise _Wrong('a name is letters, digits, and _ . -')
    if not isinstance(value, dict):
        raise _Wrong('is not an object with the options of a storage')
    texts = {_key(key): _text(_key(key), part) for key, part in value.items()}
    section = {key: text for key, text in texts.items() if text is not None}
    keys().check_storage(short, section)
    return section


def _text(name: str, value: Any) -> str | None:
    """The value as a job file has it; None if there is none.

    :raises _Wrong: it cannot be written so that the agent reads the same
    """
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return str(value)
    if keys().takes_lines(_key(name)):
        lines = value if isinstance(value, list) else str(value).split('\n')
        return _lines(lines)
    if not isinstance(value, str):
        raise _Wrong('is neither text nor a number, true, false or null')
    _check_text(value)
    return value


def _lines(items: list[Any]) -> str:
    kept: list[str] = []
    for item in items:
        if not isinstance(item, str):
            raise _Wrong('is not a list of texts')
        _check_text(item)
        if not item:
            continue
        if kept and item[0] in '#;':
            # A comment, to the reader of job files.
            raise _Wrong(f'a line cannot begin with {item[0]}: write [{item[0]}]')
        kept.append(item)
    return '\n'.join(kept)


def _check_text(text: str) -> None:
    if len(text.splitlines()) > 1 or text[-1:] in ('\n', '\r') or '\0' in text:
        raise _Wrong('has a line break in it, which the agent cannot be told')
    if text != text.strip():
        raise _Wrong('begins or ends with a space, which the agent cannot be told')
    if any('\ud800' <= character <= '\udfff' for character in text):
        raise _Wrong('is not text: half of a surrogate pair')
