"""Job documents: what is taken, and where what is wrong is."""

import json
from typing import Any

import pytest

from freezer.scheduler import document, schedule
from freezer.scheduler.document import Document, DocumentError
from freezer.scheduler.positions import Positions, shown

INFO = {'action': 'info', 'storage': 'local', 'container': '/backups'}


def parse(text: str | bytes) -> Document:
    content = text if isinstance(text, bytes) else text.encode()
    return document.parse('/jobs/a.conf', content, 'a')


def job(freezer_action: Any = INFO, action: Any = None, **top: Any) -> str:
    one = {'freezer_action': freezer_action, **(action or {})}
    return json.dumps({'job_actions': [one], **top}, indent=1)


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(DocumentError) as raised:
        parse(text)
    assert raised.value.path == '/jobs/a.conf'
    return [str(problem) for problem in raised.value.problems]


def test_a_document_of_freezer_api() -> None:
    made = parse(
        json.dumps(
            {
                '_version': 3,
                'client_id': 'project_host',
                'job_id': 'e7181e5e2c75431f8f2a8b0a1c3f6a0b',
                'user_id': 'u',
                'project_id': 'p',
                'description': 'nightly',
                'session_id': '',
                'session_tag': 0,
                'user_credentials': {},
                'job_actions': [
                    {
                        'action_id': 'x',
                        'freezer_action': {**INFO, 'mode': 'fs', 'snapshot': None},
                        'mandatory': True,
                        'max_retries': '5',
                        'max_retries_interval': 6,
                    }
                ],
                'job_schedule': {
                    'event': '',
                    'status': 'running',
                    'result': 'success',
                    'current_pid': 4711,
                    'time_created': 1,
                    'time_started': 2,
                    'time_ended': -1,
                    'schedule_date': '',
                    'schedule_interval': '12 hours',
                },
            }
        )
    )
    (action,) = made.actions
    assert made.job_id == 'e7181e5e2c75431f8f2a8b0a1c3f6a0b'
    assert made.wanted == document.START
    assert (action.name, action.mandatory) == ('info', True)
    assert (action.retries, action.retry_seconds) == (5, 6)
    assert made.remarks == ()
    assert str(made.schedule) == 'every 43200 s'


def test_what_is_left_out_has_its_defaults() -> None:
    made = parse(job())
    (action,) = made.actions
    assert made.job_id == 'a'
    assert made.schedule.once
    assert (action.retries, action.retry_seconds, action.mandatory) == (0, 60, False)


def test_d34_missing_event_and_pid_are_no_error() -> None:
    assert parse(job(job_schedule={})).wanted == document.START
    assert parse(job(job_schedule=None)).wanted == document.START
    assert parse(job(job_schedule={'event': None})).wanted == document.START


@pytest.mark.parametrize(
    'given, wanted',
    [
        ({'status': 'stop'}, 'stop'),
        ({'status': 'stop', 'event': 'start'}, 'start'),
        ({'status': 'completed'}, 'start'),
        ({'event': 'abort'}, 'abort'),
        ({'event': 'remove'}, 'remove'),
    ],
)
def test_what_is_wanted(given: dict[str, str], wanted: str) -> None:
    assert parse(job(job_schedule=given)).wanted == wanted


def test_the_documentations_spelling_is_taken_and_said() -> None:
    made = parse(job(action={'max_retries': 1, 'max_retry_interval': 7}))
    assert made.actions[0].retry_seconds == 7
    (remark,) = made.remarks
    assert str(remark) == (
        'line 10: job_actions[0].max_retry_interval: is written max_retries_interval'
    )


def test_a_session_is_said_to_be_none() -> None:
    (remark,) = parse(job(session_id='s')).remarks
    assert 'session_id' in str(remark)


@pytest.mark.parametrize(
    'text, expected',
    [
        ('', ['line 1: not JSON: Expecting value, column 1']),
        ('{\n"a": 1,\n}', ['line 3: not JSON: ']),
        ('{\n"job_id":\n "sk/secret', ['line 3: not JSON: ']),
        ('[]', ['line 1: not a job: ']),
        (b'{\n\n"\xff": 1}', ['line 3: not UTF-8 text']),
        ('{"a": NaN}', ['line 1: not JSON that can be read: NaN is no number']),
        ('[' * 200_000, ['line 1: not JSON']),
        ('{}', ['line 1: job_actions: has no action in it']),
        ('{"job_actions": [3]}', ['line 1: job_actions[0]: is not an object']),
        ('{"job_actions":\n {}}', ['line 1: job_actions: is not a list', 'line 1']),
    ],
)
def test_files_that_are_no_job(text: str | bytes, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)
        assert 'sk/secret' not in line


@pytest.mark.parametrize(
    'given, line, key, text',
    [
        ({'freezer_action': {'max_levl': 3}}, 5, 'max_levl', 'not an option'),
        ({'freezer_action': {'max_level': 'x'}}, 5, 'max_level', 'x'),
        ({'freezer_action': {'snapshot': 'yes'}}, 5, 'snapshot', 'not available'),
        ({'freezer_action': {'mysql_conf': '/x'}}, 5, 'mysql_conf', 'does not have'),
        ({'freezer_action': {'config': '/x'}}, 5, 'config', 'the scheduler writes'),
        ({'freezer_action': {'command': 'a\nb'}}, 5, 'command', 'line break'),
        ({'freezer_action': {'command': 'a\rb'}}, 5, 'command', 'line break'),
        ({'freezer_action': {'command': 'a\0'}}, 5, 'command', 'line break'),
        ({'freezer_action': {'command': ' a'}}, 5, 'command', 'space'),
        ({'freezer_action': {'command': '\ud800'}}, 5, 'command', 'surrogate'),
        ({'freezer_action': {'command': ['a']}}, 5, 'command', 'neither text'),
        ({'freezer_action': {'exclude': ['a', '#b']}}, 5, 'exclude', '[#]'),
        ({'freezer_action': {'exclude': [1]}}, 5, 'exclude', 'list of texts'),
        ({'freezer_action': {'s3_part_number': 1}}, 5, 's3_part_number', 'not an'),
        ({'freezer_action': {'storage:x y': {}}}, 5, 'storage:x y', 'letters'),
        ({'freezer_action': {'storage:a': {'storage': 'ftp'}}}, 5, 'storage:a', 'ftp'),
        ({'freezer_action': 3}, 4, 'freezer_action', 'object'),
        ({'freezer_action': INFO, 'mandatry': 1}, 9, 'mandatry', 'not a key'),
        ({'freezer_action': INFO, 'mandatory': 'x'}, 9, 'mandatory', 'neither true'),
        ({'freezer_action': INFO, 'max_retries': -1}, 9, 'max_retries', 'whole'),
        ({'freezer_action': INFO, 'max_retries': 9**99}, 9, 'max_retries', 'whole'),
    ],
)
def test_errors_in_actions_have_line_and_key(
    given: dict[str, Any], line: int, key: str, text: str
) -> None:
    (said,) = problems(json.dumps({'job_actions': [given]}, indent=1))
    assert said.startswith(f'line {line}: job_actions[0].')
    assert f'{key}: ' in said
    assert text in said


@pytest.mark.parametrize(
    'key, value, text',
    [
        ('event', 'go', 'not one of'),
        ('schedule_hours', 1, 'not a key'),
        ('schedule_date', 'tomorrow', 'is not a date'),
        ('schedule_start_date', '2026-13-01T00:00:00', 'is not a date'),
        ('schedule_interval', 'daily', 'is not an interval'),
        ('schedule_interval', '0 days', 'is not an interval'),
        ('schedule_interval', '-1 days', 'is not an interval'),
        ('schedule_interval', f'{9**40} weeks', 'longer than time'),
        ('schedule_interval', '1 month', 'is not an interval'),
        ('schedule_hour', '25', '25'),
        ('schedule_day_of_week', 'sunday', 'sunday'),
        ('schedule_minute', '*/0', '*/0'),
        ('schedule_minute', True, 'True'),
        ('schedule_minute', [1], '[1]'),
    ],
)
def test_errors_in_schedules_have_line_and_key(key: str, value: Any, text: str) -> None:
    (said,) = problems(job(job_schedule={'result': '', key: value}))
    assert said.startswith(f'line 13: job_schedule.{key}: ')
    assert text in said


def test_every_problem_is_told_in_the_order_of_the_lines() -> None:
    found = problems(
        job(
            freezer_action={'a': 1, 'b': 2},
            job_schedule={'schedule_hour': 'x'},
            job_idd='z',
            job_id='x' * 65,
            user_credentials={'trust_id': 7},
        )
    )
    lines = [int(said.split(':')[0].removeprefix('line ')) for said in found]
    assert len(found) == 6
    assert lines == sorted(lines)


def test_a_key_that_is_given_twice() -> None:
    text = job().replace('"action": "info"', '"action": "info",\n"action": "exec"')
    assert problems(text) == [
        'line 6: job_actions[0].freezer_action.action: is given twice'
    ]


def test_an_end_before_the_start() -> None:
    dates = {
        'schedule_hour': 1,
        'schedule_start_date': '2026-02-01T00:00:00',
        'schedule_end_date': '2026-01-01T00:00:00',
    }
    (said,) = problems(job(job_schedule=dates))
    assert 'schedule_end_date: is before' in said


def test_positions() -> None:
    text = '{"a": [1,\n {"b": "}{\\"],"},\n []], "c":\n {},\n "d": null}'
    positions = Positions(text)
    assert json.loads(text)
    assert positions.line(('a', 0)) == 1
    assert positions.line(('a', 1, 'b')) == 2
    assert positions.line(('a', 2)) == 3
    assert positions.line(('c',)) == 3
    assert positions.line(('d',)) == 5
    # Of what is not there, what would hold it.
    assert positions.line(('a', 1, 'x', 'y')) == 2
    assert positions.line(('x',)) == 1
    assert shown(('a', 1, 'b')) == 'a[1].b'


def test_a_new_time_is_told_from_an_old_one() -> None:
    def timing(**given: Any) -> str:
        return parse(job(job_schedule=given)).timing

    assert timing(schedule_hour=1) == timing(schedule_hour='1', status='running')
    assert timing(schedule_hour=1) != timing(schedule_hour=2)
    # What has no time of its own is wanted again when it is written anew.
    assert timing() != timing(status='running')
    assert schedule.KEYS


def test_a_trust_in_a_file_is_of_no_use() -> None:
    (remark,) = parse(job(user_credentials={'trust_id': 't'})).remarks
    assert 'trust_id' in str(remark)


@pytest.mark.parametrize(
    'given, wanted',
    [
        ({}, document.START),
        ({'status': 'scheduled'}, document.START),
        ({'status': 'running'}, document.START),
        ({'status': 'stop'}, document.STOP),
        ({'status': 'removed'}, document.REMOVE),
        ({'status': 'completed'}, document.REST),
        ({'status': 'completed', 'event': 'start'}, document.START),
        ({'status': 'scheduled', 'event': 'abort'}, document.ABORT),
    ],
)
def test_what_is_wanted_in_freezer_api(given: dict[str, str], wanted: str) -> None:
    text = job(job_schedule=given).encode()
    assert document.parse('/a.conf', text, 'a', in_api=True).wanted == wanted


def test_what_freezer_api_knows_of_a_job() -> None:
    text = job(
        project_id='p',
        session_id='s',
        session_tag=3,
        user_credentials={'trust_id': 't', 'trustor_user_id': 'u'},
        job_schedule={'event': 'stop', 'status': 'running', 'time_started': 5},
    )
    made = document.parse('/a.conf', text.encode(), 'a', in_api=True)
    assert made.cloud == document.Cloud(
        *('p', 't', 's', 3, 'stop', 'running', '', 5, -1)
    )
    assert made.remarks == ()
    assert parse(text).cloud is None


def test_null_is_no_value_whatever_the_key() -> None:
    made = parse(job(freezer_action={**INFO, 'priority': None, 'mode': None}))
    assert 'priority' not in made.actions[0].options
