"""Parse a job document: the JSON of a ``*.conf`` file, or of freezer-api. Pure.

The format is that of freezer-api and of Freezer 19's scheduler. An unknown key is an
error: a job with a misspelt key in its schedule would run at another time.

In a file, ``event`` holds for as long as it is there. In freezer-api it is a request:
the scheduler clears it once it has handled it, and from then on ``status`` holds.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn
from urllib.parse import quote

from freezer.exceptions import FreezerError
from freezer.scheduler.documents import action, schedule
from freezer.scheduler.documents.action import Action
from freezer.scheduler.documents.positions import KeyPath, Positions, format_path
from freezer.scheduler.documents.schedule import Schedule
from freezer.utils.human import shortened

START, STOP, ABORT, REMOVE = 'start', 'stop', 'abort', 'remove'
EVENTS = ('', START, STOP, ABORT, REMOVE)
#: wanted of a job in freezer-api that is completed, and not started again
REST = 'rest'

_JOB_KEYS = {
    *('job_id', 'client_id', 'user_id', 'project_id', 'description', '_version'),
    *('session_id', 'session_tag', 'session_name', 'user_credentials'),
    *('job_actions', 'job_schedule'),
}
# By the status of a job in freezer-api without an event; START for any other status.
_WANTED = {'stop': STOP, 'removed': REMOVE, 'completed': REST}
# Keys that the scheduler reports to freezer-api; in a file they mean nothing.
_REPORTED = {
    *('status', 'result', 'current_pid'),
    *('time_created', 'time_started', 'time_ended'),
}
_SCHEDULE_KEYS = {'event', *schedule.KEYS, *_REPORTED}
_ACTION_KEYS = {
    *('freezer_action', 'mandatory', 'max_retries', 'max_retries_interval'),
    *('action_id', 'user_id', 'project_id', '_version'),
}
# As in an example in Freezer's documentation.
_OLD_INTERVAL = 'max_retry_interval'
_KINDS: dict[type, str] = {str: 'text', dict: 'an object', list: 'a list'}
_MAX_ID_LENGTH = 64
# Escaped it is a part of names of files, which have 255 bytes.
_MAX_ESCAPED_LENGTH = 200
_MAX_NUMBER = 30 * 86400
_MAX_ACTIONS = 100
# Bounds of the errors of one document: others can write it.
_MAX_PROBLEMS = 50
_MAX_TEXT_LENGTH = 500


@dataclasses.dataclass(frozen=True)
class Problem:
    """An error or a remark, and its place in the file."""

    line: int
    key: str
    text: str

    def __str__(self) -> str:
        return f'line {self.line}: {self.key + ": " if self.key else ""}{self.text}'


class DocumentError(FreezerError):
    """A job file is invalid. It lists every problem, up to a bound."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(_bounded(problems))
        #: without line numbers
        self.texts = tuple((each.key, each.text) for each in problems)
        super().__init__('; '.join(f'{path}: {each}' for each in self.problems))


def _bounded(problems: Sequence[Problem]) -> Iterator[Problem]:
    for each in problems[:_MAX_PROBLEMS]:
        yield dataclasses.replace(
            each,
            key=shortened(each.key, _MAX_TEXT_LENGTH),
            text=shortened(each.text, _MAX_TEXT_LENGTH),
        )
    if left := problems[_MAX_PROBLEMS:]:
        yield Problem(left[0].line, '', f'{len(left)} more problems')


@dataclasses.dataclass(frozen=True)
class ApiState:
    """What freezer-api has stored about a job. Times are epoch seconds, -1 if unset."""

    project_id: str = ''
    trust_id: str = ''
    session_id: str = ''
    session_tag: int = 0
    event: str = ''
    status: str = ''
    result: str = ''
    started: int = -1
    ended: int = -1


@dataclasses.dataclass(frozen=True)
class Document:
    """A valid job document.

    :param wanted: START, STOP, ABORT, REMOVE, or REST
    :param digest: SHA-256 of the file; for a job in freezer-api, of its actions and
        schedule
    :param remarks: warnings for the user
    :param trusted: whether only root and this user can write it
    :param api: None for a job that is not in freezer-api
    """

    path: str
    job_id: str
    client_id: str
    description: str
    wanted: str
    actions: tuple[Action, ...]
    schedule: Schedule
    digest: str
    remarks: tuple[Problem, ...] = ()
    api: ApiState | None = None
    trusted: bool = True

    @property
    def timing(self) -> str:
        """Identifies the times at which the job runs; changes when they do."""
        if self.schedule.once and not self.schedule.start:
            # A changed file is a request to run the job again.
            return self.digest
        return hashlib.sha256(repr(self.schedule).encode()).hexdigest()

    @property
    def has_secrets(self) -> bool:
        return any(each.has_secrets for each in self.actions)


def parse(path: str, content: bytes, default_id: str, in_api: bool = False) -> Document:
    """:param default_id: the job's id, if the document has none
    :param in_api: the document is of freezer-api, and not an operator's file

    :raises DocumentError: with every problem
    """
    return _Parser(path, content, in_api).parse(default_id)


class _Parser:
    def __init__(self, path: str, content: bytes, in_api: bool) -> None:
        self._path = path
        self._content = content
        self._in_api = in_api
        self._problems: list[Problem] = []
        self._remarks: list[Problem] = []
        self._given = self._load()

    def _load(self) -> dict[str, Any]:
        try:
            text = self._content.decode('utf-8-sig')
            given = json.loads(text, parse_constant=_reject_constant)
        except UnicodeDecodeError as error:
            line = self._content.count(b'\n', 0, error.start) + 1
            self._fail(line, 'not UTF-8 text')
        except json.JSONDecodeError as error:
            # Without the text at that place: it may be a secret.
            self._fail(error.lineno, f'not JSON: {error.msg}, column {error.colno}')
        except (ValueError, RecursionError) as error:
            self._fail(1, f'cannot read this JSON: {error}')
        if not isinstance(given, dict):
            self._fail(1, 'not a job: must be a JSON object')
        self._positions = Positions(text)
        for path, line in self._positions.duplicates:
            self._problems.append(Problem(line, format_path(path), 'duplicate key'))
        return given

    def _fail(self, line: int, text: str) -> NoReturn:
        raise DocumentError(self._path, [Problem(line, '', text)])

    def _problem(self, path: KeyPath, text: str) -> None:
        self._problems.append(self._at(path, text))

    def _remark(self, path: KeyPath, text: str) -> None:
        self._remarks.append(self._at(path, text))

    def _at(self, path: KeyPath, text: str) -> Problem:
        return Problem(self._positions.line(path), format_path(path), text)

    def parse(self, default_id: str) -> Document:
        self._reject_unknown((), self._given, _JOB_KEYS)
        job_id = self._get(self._given, 'job_id') or default_id
        if not job_id.isprintable() or not is_file_name(job_id):
            self._problem(
                ('job_id',), f'must be printable, at most {_MAX_ID_LENGTH} characters'
            )
        client_id = self._get(self._given, 'client_id')
        description = self._get(self._given, 'description')
        api = self._api_state()
        wanted, when = self._schedule(self._get(self._given, 'job_schedule', kind=dict))
        actions = self._actions(self._get(self._given, 'job_actions', kind=list))
        if self._problems or when is None:
            self._problems.sort(key=lambda problem: problem.line)
            raise DocumentError(self._path, self._problems)
        return Document(
            path=self._path,
            job_id=job_id,
            client_id=client_id,
            description=description,
            wanted=wanted,
            actions=tuple(actions),
            schedule=when,
            digest=self._digest(),
            remarks=tuple(self._remarks),
            api=api,
            trusted=not self._in_api,
        )

    def _digest(self) -> str:
        if not self._in_api:
            return hashlib.sha256(self._content).hexdigest()
        # The scheduler's own reports do not make it another job.
        schedule = self._get(self._given, 'job_schedule', kind=dict)
        what = {
            'job_actions': self._given.get('job_actions'),
            'job_schedule': {
                key: schedule[key]
                for key in schedule
                if key != 'event' and key not in _REPORTED
            },
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _reject_unknown(
        self, path: KeyPath, given: Mapping[str, Any], known: set[str]
    ) -> None:
        for key in given:
            if key not in known:
                # Matching is slow: a hostile document could have 100,000 unknown keys.
                close = len(self._problems) < 20 and get_close_matches(key, known, 1)
                hint = f'; did you mean {close[0]}?' if close else ''
                self._problem((*path, key), f'unknown key{hint}')

    def _get(self, given: Mapping[str, Any], *path: str, kind: type = str) -> Any:
        """The value at the last key of the path; empty if it is missing or invalid."""
        value = given.get(path[-1])
        if value is not None and not isinstance(value, kind):
            self._problem(path, f'must be {_KINDS[kind]}')
            value = None
        return kind() if value is None else value

    def _api_state(self) -> ApiState | None:
        where = 'user_credentials'
        credentials = self._get(self._given, where, kind=dict)
        trust_id = self._get(credentials, where, 'trust_id')
        session_id = self._get(self._given, 'session_id')
        project_id = self._get(self._given, 'project_id')
        if self._in_api:
            # Values that the scheduler reported earlier; malformed ones are ignored.
            schedule = self._get(self._given, 'job_schedule', kind=dict)
            return ApiState(
                project_id=project_id,
                trust_id=trust_id,
                session_id=session_id,
                session_tag=_integer(self._given.get('session_tag'), 0),
                event=str(schedule.get('event') or ''),
                status=str(schedule.get('status') or ''),
                result=str(schedule.get('result') or ''),
                started=_integer(schedule.get('time_started'), -1),
                ended=_integer(schedule.get('time_ended'), -1),
            )
        if trust_id:
            text = 'ignored: Keystone is not used with --no-api'
            self._remark((where, 'trust_id'), text)
        if session_id:
            text = 'ignored: sessions need freezer-api; the job runs alone'
            self._remark(('session_id',), text)
        return None

    def _schedule(self, given: Mapping[str, Any]) -> tuple[str, Schedule | None]:
        where = ('job_schedule',)
        self._reject_unknown(where, given, _SCHEDULE_KEYS)
        event = given.get('event') or ''
        if event not in EVENTS:
            allowed = ', '.join(EVENTS[1:])
            self._problem((*where, 'event'), f'must be {allowed}, or empty')
        when, problems = schedule.parse(given)
        for key, text in problems:
            self._problem((*where, key), text)
        if when and when.start and when.end and when.end < when.start:
            key = 'schedule_end_date'
            self._problem((*where, key), 'is before schedule_start_date')
        status = given.get('status')
        if self._in_api:
            return event or _WANTED.get(str(status), START), when
        # A job without an event starts, unless it was stopped when it was exported.
        return event or (STOP if status == 'stop' else START), when

    def _actions(self, given: Sequence[Any]) -> list[Action]:
        if not given:
            self._problem(('job_actions',), 'must contain at least one action')
        if len(given) > _MAX_ACTIONS:
            self._problem(('job_actions',), f'must have at most {_MAX_ACTIONS} actions')
            return []
        actions = []
        for number, one in enumerate(given):
            path: KeyPath = ('job_actions', number)
            if not isinstance(one, dict):
                self._problem(path, 'must be an object')
                continue
            parsed = self._action(path, one)
            if parsed is not None:
                actions.append(parsed)
        return actions

    def _action(self, path: KeyPath, given: Mapping[str, Any]) -> Action | None:
        self._reject_unknown(path, given, _ACTION_KEYS | {_OLD_INTERVAL})
        seconds_key = 'max_retries_interval'
        if _OLD_INTERVAL in given:
            self._remark((*path, _OLD_INTERVAL), 'is now spelled max_retries_interval')
            if seconds_key not in given:
                seconds_key = _OLD_INTERVAL
        mandatory = given.get('mandatory') or False
        if not isinstance(mandatory, bool):
            self._problem((*path, 'mandatory'), 'must be true or false')
        retries = self._number(path, given, 'max_retries', 0)
        seconds = self._number(path, given, seconds_key, action.DEFAULT_RETRY_SECONDS)
        options = given.get('freezer_action')
        if not isinstance(options, dict):
            self._problem((*path, 'freezer_action'), 'must be an object with options')
            return None
        parsed, problems = action.parse(
            options,
            mandatory=mandatory,
            retries=retries,
            retry_seconds=seconds,
            line=self._positions.line((*path, 'freezer_action')),
        )
        for inside, text in problems:
            self._problem((*path, 'freezer_action', *inside), text)
        return parsed

    def _number(
        self, path: KeyPath, given: Mapping[str, Any], key: str, default: int
    ) -> int:
        """The dashboard sends numbers as text."""
        value = given.get(key)
        if value is None or value == '':
            return default
        text = str(value).strip()
        digits = text.isascii() and text.isdigit() and len(text) < 9
        if not digits or int(text) > _MAX_NUMBER:
            self._problem((*path, key), f'must be an integer from 0 to {_MAX_NUMBER}')
            return default
        return int(text)


def is_file_name(job_id: str) -> bool:
    """Whether files, and URLs of freezer-api, can be named after the job."""
    try:
        escaped = quote(job_id, safe='')
    except UnicodeEncodeError:
        return False
    if job_id in ('.', '..'):
        return False
    return len(job_id) <= _MAX_ID_LENGTH and len(escaped) <= _MAX_ESCAPED_LENGTH


def _integer(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is not a number')
