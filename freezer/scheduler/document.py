"""A job document: the JSON of a ``*.conf`` file, or of freezer-api, checked. Pure.

As freezer-api and Freezer 19's scheduler write them. What is not understood is an
error: a misspelt key of a schedule would be a job that runs at another time.

In a file ``event`` says what is wanted as long as it stands there. In freezer-api it is
a request, which is taken away when it has been seen to; from then on ``status`` says
what is wanted.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from freezer.exceptions import FreezerError
from freezer.scheduler import action, schedule
from freezer.scheduler.action import Action
from freezer.scheduler.positions import Path, Positions, shown
from freezer.scheduler.schedule import Schedule

START, STOP, ABORT, REMOVE = 'start', 'stop', 'abort', 'remove'
EVENTS = ('', START, STOP, ABORT, REMOVE)
#: of a job in freezer-api that has come to its end, and that nobody has asked for again
REST = 'rest'

_TOP = {
    *('job_id', 'client_id', 'user_id', 'project_id', 'description', '_version'),
    *('session_id', 'session_tag', 'session_name', 'user_credentials'),
    *('job_actions', 'job_schedule'),
}
# By the status of a job of freezer-api that has no event; any other: START.
_WANTED = {'stop': STOP, 'removed': REMOVE, 'completed': REST}
# What freezer-api writes there, and the scheduler keeps elsewhere.
_REPORTED = {
    *('status', 'result', 'current_pid'),
    *('time_created', 'time_started', 'time_ended'),
}
_SCHEDULE = {'event', *schedule.KEYS, *_REPORTED}
_ACTION = {
    *('freezer_action', 'mandatory', 'max_retries', 'max_retries_interval'),
    *('action_id', 'user_id', 'project_id', '_version'),
}
# The spelling of an example in Freezer's documentation.
_OLD_INTERVAL = 'max_retry_interval'
_ID_LENGTH = 64
_MOST_SECONDS = 30 * 86400


@dataclasses.dataclass(frozen=True)
class Problem:
    """Where in a file, and what."""

    line: int
    key: str
    text: str

    def __str__(self) -> str:
        return f'line {self.line}: {self.key + ": " if self.key else ""}{self.text}'


class DocumentError(FreezerError):
    """A job file that cannot be run, and all that is wrong with it."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__('; '.join(f'{path}: {problem}' for problem in problems))


@dataclasses.dataclass(frozen=True)
class Cloud:
    """What a job is to freezer-api, and what it knows of it. Times are epoch seconds,
    and -1 for none."""

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
    """A job as it is wanted.

    :param wanted: START, STOP, ABORT, REMOVE, or REST
    :param digest: SHA-256 of the file; of a job of freezer-api, of what it is to do
    :param remarks: what is understood, and should be said
    :param cloud: None of a job that freezer-api does not know
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
    cloud: Cloud | None = None

    @property
    def timing(self) -> str:
        """Another one for a job that runs at other times."""
        if self.schedule.once:
            # To write it anew is to ask for it again.
            return self.digest
        return hashlib.sha256(repr(self.schedule).encode()).hexdigest()

    @property
    def has_secrets(self) -> bool:
        return any(each.has_secrets for each in self.actions)


def parse(path: str, content: bytes, default_id: str, in_api: bool = False) -> Document:
    """:param default_id: the job's, if the document has none
    :param in_api: it is of freezer-api, and not of an operator's file

    :raises DocumentError: with each problem
    """
    return _Reader(path, content, in_api).read(default_id)


class _Reader:
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
            given = json.loads(text, parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            line = self._content.count(b'\n', 0, error.start) + 1
            self._fail(line, 'not UTF-8 text')
        except json.JSONDecodeError as error:
            # Not the text that is there: it may be a secret.
            self._fail(error.lineno, f'not JSON: {error.msg}, column {error.colno}')
        except (ValueError, RecursionError) as error:
            self._fail(1, f'not JSON that can be read: {error}')
        if not isinstance(given, dict):
            self._fail(1, 'not a job: a JSON object is needed')
        self._positions = Positions(text)
        for path, line in self._positions.twice:
            self._problems.append(Problem(line, shown(path), 'is given twice'))
        return given

    def _fail(self, line: int, text: str) -> NoReturn:
        raise DocumentError(self._path, [Problem(line, '', text)])

    def _wrong(self, path: Path, text: str) -> None:
        self._problems.append(Problem(self._positions.line(path), shown(path), text))

    def _remark(self, path: Path, text: str) -> None:
        self._remarks.append(Problem(self._positions.line(path), shown(path), text))

    def read(self, default_id: str) -> Document:
        given = self._given
        self._refuse_unknown((), given, _TOP)
        job_id = self._word('job_id') or default_id
        if not job_id.isprintable() or len(job_id) > _ID_LENGTH:
            self._wrong(
                ('job_id',), f'has to be printable, of at most {_ID_LENGTH} letters'
            )
        client_id, description = self._word('client_id'), self._word('description')
        cloud = self._cloud()
        wanted, when = self._schedule(self._part('job_schedule', dict))
        actions = self._actions(self._part('job_actions', list))
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
            cloud=cloud,
        )

    def _digest(self) -> str:
        if not self._in_api:
            return hashlib.sha256(self._content).hexdigest()
        # Our own reports are no new job.
        schedule = self._part('job_schedule', dict)
        what = {
            'job_actions': self._given.get('job_actions'),
            'job_schedule': {
                key: schedule[key]
                for key in schedule
                if key != 'event' and key not in _REPORTED
            },
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _refuse_unknown(
        self, path: Path, given: Mapping[str, Any], known: set[str]
    ) -> None:
        for key in given:
            if key not in known:
                self._wrong((*path, key), 'is not a key of a job here')

    def _word(self, key: str) -> str:
        value = self._given.get(key)
        if value is None:
            return ''
        if not isinstance(value, str):
            self._wrong((key,), 'is not text')
            return ''
        return value

    def _part(self, key: str, kind: type) -> Any:
        value = self._given.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            what = 'an object' if kind is dict else 'a list'
            self._wrong((key,), f'is not {what}')
            return kind()
        return value

    def _cloud(self) -> Cloud | None:
        credentials = self._part('user_credentials', dict)
        trust_id = credentials.get('trust_id') or ''
        if not isinstance(trust_id, str):
            self._wrong(('user_credentials', 'trust_id'), 'is not text')
        session_id, project_id = self._word('session_id'), self._word('project_id')
        if self._in_api:
            return self._reported(project_id, trust_id, session_id)
        if trust_id:
            self._remark(
                ('user_credentials', 'trust_id'),
                'trusts are of Keystone, which is not asked here',
            )
        if session_id:
            self._remark(
                ('session_id',), 'sessions are of freezer-api; the job runs alone'
            )
        return None

    def _reported(self, project_id: str, trust_id: str, session_id: str) -> Cloud:
        """What the scheduler itself has written there, as far as it is legible."""
        schedule = self._part('job_schedule', dict)
        return Cloud(
            project_id=project_id,
            trust_id=trust_id,
            session_id=session_id,
            session_tag=_whole(self._given.get('session_tag'), 0),
            event=str(schedule.get('event') or ''),
            status=str(schedule.get('status') or ''),
            result=str(schedule.get('result') or ''),
            started=_whole(schedule.get('time_started'), -1),
            ended=_whole(schedule.get('time_ended'), -1),
        )

    def _schedule(self, given: Mapping[str, Any]) -> tuple[str, Schedule | None]:
        where = ('job_schedule',)
        self._refuse_unknown(where, given, _SCHEDULE)
        event = given.get('event') or ''
        if event not in EVENTS:
            self._wrong(
                (*where, 'event'), f'is not one of {", ".join(EVENTS[1:])}, or empty'
            )
        when, wrong = schedule.read(given)
        for key, text in wrong:
            self._wrong((*where, key), text)
        if when and when.start and when.end and when.end < when.start:
            self._wrong((*where, 'schedule_end_date'), 'is before schedule_start_date')
        status = given.get('status')
        if self._in_api:
            return event or _WANTED.get(str(status), START), when
        # Without an event a job starts, unless it was stopped when it was written.
        return event or (STOP if status == 'stop' else START), when

    def _actions(self, given: Sequence[Any]) -> list[Action]:
        if not given:
            self._wrong(('job_actions',), 'has no action in it')
        actions = []
        for number, one in enumerate(given):
            path: Path = ('job_actions', number)
            if not isinstance(one, dict):
                self._wrong(path, 'is not an object')
                continue
            made = self._action(path, one)
            if made is not None:
                actions.append(made)
        return actions

    def _action(self, path: Path, given: Mapping[str, Any]) -> Action | None:
        self._refuse_unknown(path, given, _ACTION | {_OLD_INTERVAL})
        seconds_key = 'max_retries_interval'
        if _OLD_INTERVAL in given:
            self._remark((*path, _OLD_INTERVAL), 'is written max_retries_interval')
            if seconds_key not in given:
                seconds_key = _OLD_INTERVAL
        mandatory = given.get('mandatory') or False
        if not isinstance(mandatory, bool):
            self._wrong((*path, 'mandatory'), 'is neither true nor false')
        retries = self._number(path, given, 'max_retries', 0)
        seconds = self._number(path, given, seconds_key, action.DEFAULT_RETRY_SECONDS)
        options = given.get('freezer_action')
        if not isinstance(options, dict):
            self._wrong((*path, 'freezer_action'), 'has to be an object with options')
            return None
        made, wrong = action.read(
            options, mandatory=mandatory, retries=retries, retry_seconds=seconds
        )
        for inside, text in wrong:
            self._wrong((*path, 'freezer_action', *inside), text)
        return made

    def _number(
        self, path: Path, given: Mapping[str, Any], key: str, default: int
    ) -> int:
        """Web pages send numbers as text."""
        value = given.get(key)
        if value is None or value == '':
            return default
        text = str(value).strip()
        digits = text.isascii() and text.isdigit() and len(text) < 9
        if not digits or int(text) > _MOST_SECONDS:
            self._wrong((*path, key), 'is not a whole number from 0, or is too large')
            return default
        return int(text)


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is no number')
