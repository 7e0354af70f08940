"""The commands status and validate: output for people, and as JSON."""

import datetime
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.exceptions import ConfigError
from freezer.scheduler.config import Settings
from freezer.scheduler.control import PidFile
from freezer.scheduler.coordination import claims
from freezer.scheduler.documents import schedule
from freezer.scheduler.documents.document import START, Document, DocumentError
from freezer.scheduler.runs.record import REMOVED, Record, Records
from freezer.scheduler.sources.cache import connection_state
from freezer.scheduler.sources.directory import JobDirectory, is_job_file, read
from freezer.scheduler.sources.refused import refused
from freezer.utils.human import number
from freezer.utils.text import printable

#: exit code of status, as the LSB defines it
NOT_RUNNING = 3
_TIMES_SHOWN = 5
# Of status --json. Keys may be added; it changes if one is removed or means another
# thing.
_STATUS_VERSION = 1


def status(settings: Settings) -> int:
    """Print jobs, last results and next runs."""
    pid = PidFile(settings.runtime_dir).process()
    records = [each for each in Records(settings.state_dir) if each.status != REMOVED]
    known = None if pid is None else refused(settings.state_dir)
    errors = _errors(settings) if known is None else known
    api = connection_state(settings.state_dir) if not settings.no_api else {}
    shared = claims.state(settings.state_dir)
    if settings.json:
        shown = {
            'version': _STATUS_VERSION,
            'running': pid is not None,
            'pid': pid,
            'api': api or None,
            'coordination': shared or None,
            'jobs': [_shown(record) for record in records],
            'errors': _problems(errors),
        }
        print(json.dumps(shown, indent=1))
    else:
        state = 'is not running' if pid is None else f'is running (pid {pid})'
        print(f'freezer-scheduler {state}')
        if api:
            print(_connection(api))
        if shared and pid is not None:
            print(_coordination(shared))
        if records:
            _print_table(records, pid is not None)
        _print_errors(errors)
    return 0 if pid is not None else NOT_RUNNING


def _connection(api: Mapping[str, Any]) -> str:
    text = f'freezer-api: client {api["client_id"] or "not registered yet"}, '
    if api['reached']:
        moment = datetime.datetime.fromisoformat(api['reached'])
        text += f'last contact {_moment(moment)}'
    else:
        text += 'no contact yet'
    if api['waiting']:
        text += f'; {number(api["waiting"], "report")} queued'
    return printable(text + (f'; {api["error"]}' if api['error'] else ''))


def _shown(record: Record) -> dict[str, Any]:
    return record.document() | {
        'outcome': record.outcome,
        'last_success_age_seconds': _age(record.last_success),
    }


def _age(moment: datetime.datetime | None) -> int | None:
    """In seconds."""
    if moment is None:
        return None
    return max(int((datetime.datetime.now(datetime.UTC) - moment).total_seconds()), 0)


def _coordination(shared: Mapping[str, Any]) -> str:
    if shared['error']:
        return printable(f'{shared["error"]}; no job starts until it is available')
    count = number(len(shared['members']), 'scheduler')
    members = ', '.join(shared['members'])
    return printable(f'group {shared["group"]}: {count}: {members}')


def validate(settings: Settings) -> int:
    """Print the errors in job files, or when they will run; 1 if one is invalid."""
    now = datetime.datetime.now(datetime.UTC)
    found: list[Document | DocumentError] = []
    for path in _files(settings.files):
        try:
            found.append(read(path))
        except DocumentError as error:
            found.append(error)
    parsed = [each for each in found if isinstance(each, Document)]
    # The environment of the scheduler may have the keys that this one lacks.
    checked = iter(settings.check(parsed, same_environ=False, seconds=None))
    found = [next(checked) if isinstance(each, Document) else each for each in found]
    documents = [each for each in found if isinstance(each, Document)]
    errors = [each for each in found if isinstance(each, DocumentError)]
    if settings.json:
        shown = {
            'zone': str(schedule.zone()),
            'jobs': [_described(settings, each, now) for each in documents],
            'errors': _problems(errors),
        }
        print(json.dumps(shown, indent=1))
        return 1 if errors else 0
    for each in documents:
        for line in _description(each, _described(settings, each, now)):
            print(printable(line))
    _print_errors(errors)
    return 1 if errors else 0


def _files(names: Sequence[str]) -> Iterator[Path]:
    """Each file; for a directory, the job files in it."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            yield from sorted(each for each in path.iterdir() if is_job_file(each.name))
        else:
            yield path


def _errors(settings: Settings) -> list[DocumentError]:
    """As the scheduler would find them."""
    check = functools.partial(settings.check, same_environ=False)
    try:
        return JobDirectory(settings.jobs_dir, check).list().errors
    except ConfigError:
        return []


def _problems(errors: Sequence[DocumentError]) -> list[dict[str, Any]]:
    return [
        {'path': error.path, 'line': each.line, 'key': each.key, 'error': each.text}
        for error in errors
        for each in error.problems
    ]


def _print_errors(errors: Sequence[DocumentError]) -> None:
    for error in errors:
        for problem in error.problems:
            print(printable(f'{error.path}, {problem}'))


def _print_table(records: Sequence[Record], running: bool) -> None:
    # Only status needs it: 3 % of the start-up time of the other commands.
    import prettytable

    table = prettytable.PrettyTable(
        ('Job', 'Status', 'Last Result', 'Last Success', 'Next Run', 'Runs', 'Failed')
    )
    table.align = 'l'
    for record in records:
        table.add_row(
            [
                printable(record.job_id),
                record.status if running or not record.due else 'not scheduled',
                record.outcome,
                _ago(record.last_success),
                _moment(record.due if running else None),
                record.runs,
                record.failures + record.aborted,
            ]
        )
    print(table)
    for record in records:
        if record.error or record.warning:
            print(printable(f'{record.job_id}: {record.error or record.warning}'))


def _ago(moment: datetime.datetime | None) -> str:
    seconds = _age(moment)
    if seconds is None:
        return ''
    for unit, size in (('d', 86400), ('h', 3600), ('min', 60), ('s', 1)):
        if seconds >= 2 * size or size == 1:
            return f'{_moment(moment)} ({seconds // size} {unit} ago)'
    raise AssertionError('not reached')


def _moment(moment: datetime.datetime | None) -> str:
    return schedule.format_time(moment) if moment else ''


def _next_times(document: Document, now: datetime.datetime) -> list[datetime.datetime]:
    """For a job that is new now."""
    if document.wanted != START:
        return []
    when = document.schedule
    next_run = schedule.next_run(when, when.anchor(now))
    found: list[datetime.datetime] = []
    while len(found) < _TIMES_SHOWN and (moment := next_run((found or [now])[-1])):
        found.append(moment)
    return found


def _remarks(settings: Settings, document: Document) -> list[str]:
    remarks = [str(remark) for remark in document.remarks]
    if skipped := settings.skip_reason(document):
        remarks.append(f'will be skipped: {skipped}')
    if rejected := settings.reject_reason(document):
        remarks.append(f'will fail: {rejected}')
    return remarks


def _described(
    settings: Settings, document: Document, now: datetime.datetime
) -> dict[str, Any]:
    return {
        'path': document.path,
        'job_id': document.job_id,
        'description': document.description,
        'event': document.wanted,
        'actions': [action.name for action in document.actions],
        'schedule': str(document.schedule),
        'next': [
            moment.astimezone(schedule.zone()).isoformat('T', 'seconds')
            for moment in _next_times(document, now)
        ],
        'remarks': _remarks(settings, document),
    }


def _description(document: Document, described: Mapping[str, Any]) -> Iterator[str]:
    """Its lines.

    :param described: what :func:`_described` returned
    """
    yield f'{document.path}: job {document.job_id}'
    if document.description:
        yield f'  {document.description}'
    for action in document.actions:
        again = f', retries: {action.retries}' if action.retries else ''
        mandatory = ', even after a failure' if action.mandatory else ''
        yield f'  {action.name}{mandatory}{again}'
    yield f'  {document.schedule}; time zone {schedule.zone()}'
    if document.wanted != START:
        yield f'  not scheduled: {document.wanted}'
    elif not described['next']:
        yield '  no run'
    for moment in described['next']:
        yield f'    {moment.replace("T", " ")}'
    for remark in described['remarks']:
        yield f'  Note: {remark}'
