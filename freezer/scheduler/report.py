"""What is said of jobs, to people and as JSON: status, and validate."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.exceptions import ConfigError
from freezer.scheduler import directory, saved, schedule
from freezer.scheduler.config import Settings
from freezer.scheduler.control import PidFile
from freezer.scheduler.directory import Directory
from freezer.scheduler.document import START, Document, DocumentError
from freezer.scheduler.record import REMOVED, Record, Records
from freezer.utils.text import printable

#: of status, as of any program that is not running
NOT_RUNNING = 3
_TIMES_SHOWN = 5


def status(settings: Settings) -> int:
    """Print what runs, what came of it and what comes next."""
    number = PidFile(settings.runtime_dir).process()
    records = [
        record for record in Records(settings.state_dir) if record.status != REMOVED
    ]
    errors = _errors(settings)
    api = saved.contact(settings.state_dir) if not settings.no_api else {}
    if settings.json:
        shown = {
            'running': number is not None,
            'pid': number,
            'api': api or None,
            'jobs': [record.document() for record in records],
            'errors': [problem for error in errors for problem in _problems(error)],
        }
        print(json.dumps(shown, indent=1))
    else:
        if number is None:
            print('freezer-scheduler is not running')
        else:
            print(f'freezer-scheduler is running, process {number}')
        if api:
            print(_contact(api))
        if records:
            _print_table(records, number is not None)
        for line in _lines(errors):
            print(line)
    return 0 if number is not None else NOT_RUNNING


def _contact(api: Mapping[str, Any]) -> str:
    said = f'freezer-api: client {api["client_id"] or "not known yet"}, '
    if api['reached']:
        moment = datetime.datetime.fromisoformat(api['reached'])
        said += f'reached {_moment(moment)}'
    else:
        said += 'never reached'
    if api['waiting']:
        said += f'; {api["waiting"]} things are to be told'
    return printable(said + (f'; {api["error"]}' if api['error'] else ''))


def validate(settings: Settings) -> int:
    """Print what is wrong with job files, or when they will run; 1 if one is wrong."""
    now = datetime.datetime.now(datetime.UTC)
    documents, errors = [], []
    for path in _files(settings.files):
        try:
            documents.append(directory.read(path))
        except DocumentError as error:
            errors.append(error)
    if settings.json:
        shown = {
            'zone': schedule.zone_name(),
            'jobs': [_described(settings, each, now) for each in documents],
            'errors': [problem for error in errors for problem in _problems(error)],
        }
        print(json.dumps(shown, indent=1))
    else:
        for each in documents:
            print('\n'.join(_said(settings, each, now)))
        for line in _lines(errors):
            print(line)
    return 1 if errors else 0


def _files(names: Sequence[str]) -> Iterator[Path]:
    """Files, and of directories the job files in them."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            yield from sorted(
                each
                for each in path.iterdir()
                if each.name.endswith(directory.SUFFIX)
                and not each.name.startswith('.')
            )
        else:
            yield path


def _errors(settings: Settings) -> list[DocumentError]:
    try:
        return Directory(settings.jobs_dir).list().errors
    except ConfigError:
        return []


def _problems(error: DocumentError) -> list[dict[str, Any]]:
    return [
        {
            'path': error.path,
            'line': problem.line,
            'key': problem.key,
            'error': problem.text,
        }
        for problem in error.problems
    ]


def _lines(errors: Sequence[DocumentError]) -> Iterator[str]:
    for error in errors:
        for problem in error.problems:
            yield printable(f'{error.path}, {problem}')


def _print_table(records: Sequence[Record], running: bool) -> None:
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
                record.result,
                _moment(record.last_success),
                _moment(record.due if running else None),
                record.runs,
                record.failures + record.aborted,
            ]
        )
    print(table)
    for record in records:
        if record.error:
            print(printable(f'{record.job_id}: {record.error}'))


def _moment(moment: datetime.datetime | None) -> str:
    return schedule.shown(moment) if moment else ''


def _next_times(document: Document, now: datetime.datetime) -> list[datetime.datetime]:
    """Of a job that is new at this moment."""
    if document.wanted != START:
        return []
    when = document.schedule
    times = schedule.times(when, when.anchor(now))
    found: list[datetime.datetime] = []
    moment: datetime.datetime | None = now
    while moment is not None and len(found) < _TIMES_SHOWN:
        moment = times.after(moment)
        if moment is not None:
            found.append(moment)
    return found


def _remarks(settings: Settings, document: Document) -> list[str]:
    said = [str(remark) for remark in document.remarks]
    left_out = settings.leaves_out(document)
    if left_out:
        said.append(f'is left out: it {left_out}')
    refused = settings.refuses(document)
    if refused:
        said.append(f'will fail: it {refused}')
    if document.has_secrets and directory.readable_by_others(document.path):
        said.append('holds a secret, and everybody can read it; chmod 600 it')
    return said


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


def _said(
    settings: Settings, document: Document, now: datetime.datetime
) -> Iterator[str]:
    yield printable(f'{document.path}: job {document.job_id}')
    if document.description:
        yield f'  {printable(document.description)}'
    for action in document.actions:
        again = f', {action.retries} more tries' if action.retries else ''
        mandatory = ', also after a failure' if action.mandatory else ''
        yield f'  {action.name}{mandatory}{again}'
    yield f'  {document.schedule}; time zone {schedule.zone_name()}'
    if document.wanted != START:
        yield f'  is not scheduled: {document.wanted}'
    moments = _next_times(document, now)
    if document.wanted == START and not moments:
        yield '  is never due'
    for moment in moments:
        yield f'    {schedule.shown(moment)}'
    for remark in _remarks(settings, document):
        yield printable(f'  Note: {remark}')
