"""Job documents: what is accepted, and the places of problems."""

import json
from typing import Any

import pytest

from freezer.scheduler.documents import document, schedule
from freezer.scheduler.documents.document import Document, DocumentError
from freezer.scheduler.documents.positions import KeyPath, Positions, format_path

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


def test_document_of_freezer_api() -> None:
    made = parse(
        """
        {"_version": 3, "client_id": "project_host", "user_id": "u", "project_id": "p",
         "job_id": "e7181e5e2c75431f8f2a8b0a1c3f6a0b", "description": "nightly",
         "session_id": "", "session_tag": 0, "user_credentials": {},
         "job_actions": [
          {"action_id": "x", "mandatory": true,
           "max_retries": "5", "max_retries_interval": 6,
           "freezer_action": {"action": "info", "storage": "local", "mode": "fs",
                              "container": "/backups", "snapshot": null}}],
         "job_schedule": {
          "event": "", "status": "running", "result": "success", "current_pid": 4711,
          "time_created": 1, "time_started": 2, "time_ended": -1,
          "schedule_date": "", "schedule_interval": "12 hours"}}
        """
    )
    (action,) = made.actions
    assert made.job_id == 'e7181e5e2c75431f8f2a8b0a1c3f6a0b'
    assert made.wanted == document.START
    assert (action.name, action.mandatory) == ('info', True)
    assert (action.retries, action.retry_seconds) == (5, 6)
    assert made.remarks == ()
    assert str(made.schedule) == 'every 43200 s'


def test_defaults() -> None:
    made = parse(job())
    (action,) = made.actions
    assert made.job_id == 'a'
    assert made.schedule.once
    assert (action.retries, action.retry_seconds, action.mandatory) == (0, 60, False)


def test_d34_missing_and_null_keys_are_accepted() -> None:
    for given in ({}, None, {'event': None}):
        assert parse(job(job_schedule=given)).wanted == document.START
    made = parse(job(freezer_action={**INFO, 'priority': None, 'mode': None}))
    assert 'priority' not in made.actions[0].options


@pytest.mark.parametrize(
    'given, in_file, in_api',
    [
        ({}, 'start', 'start'),
        ({'status': 'scheduled'}, 'start', 'start'),
        ({'status': 'running'}, 'start', 'start'),
        ({'status': 'stop'}, 'stop', 'stop'),
        ({'status': 'removed'}, 'start', 'remove'),
        ({'status': 'completed'}, 'start', 'rest'),
        ({'status': 'stop', 'event': 'start'}, 'start', 'start'),
        ({'status': 'completed', 'event': 'start'}, 'start', 'start'),
        ({'status': 'scheduled', 'event': 'abort'}, 'abort', 'abort'),
        ({'event': 'remove'}, 'remove', 'remove'),
    ],
)
def test_wanted(given: dict[str, str], in_file: str, in_api: str) -> None:
    text = job(job_schedule=given)
    assert parse(text).wanted == in_file
    parsed = document.parse('/a.conf', text.encode(), 'a', in_api=True)
    assert parsed.wanted == in_api


def test_legacy_max_retry_interval() -> None:
    made = parse(job(action={'max_retries': 1, 'max_retry_interval': 7}))
    assert made.actions[0].retry_seconds == 7
    (remark,) = made.remarks
    assert remark.line == 10
    assert remark.key == 'job_actions[0].max_retry_interval'
    assert remark.text == 'is now spelled max_retries_interval'


def test_sessions_and_trusts_in_files_are_ignored() -> None:
    made = parse(job(session_id='s', user_credentials={'trust_id': 't'}))
    assert [remark.key for remark in made.remarks] == [
        'user_credentials.trust_id',
        'session_id',
    ]
    assert all(remark.text.startswith('ignored') for remark in made.remarks)


@pytest.mark.parametrize(
    'text, expected',
    [
        ('', ['line 1: not JSON: Expecting value, column 1']),
        ('{\n"a": 1,\n}', ['line 3: not JSON: ']),
        ('{\n"job_id":\n "sk/secret', ['line 3: not JSON: ']),
        ('[]', ['line 1: not a job: ']),
        (b'{\n\n"\xff": 1}', ['line 3: not UTF-8 text']),
        ('{"a": NaN}', ['line 1: cannot read this JSON: NaN is not a number']),
        ('[' * 200_000, ['line 1: cannot read this JSON']),
        ('{}', ['line 1: job_actions: must contain at least one action']),
        (
            json.dumps({'job_actions': [None] * 101}),
            ['line 1: job_actions: must have at most 100 actions'],
        ),
        ('{"job_actions": [3]}', ['line 1: job_actions[0]: must be an object']),
        ('{"job_actions":\n {}}', ['line 1: job_actions: must be a list', 'line 1']),
    ],
)
def test_invalid_files(text: str | bytes, expected: list[str]) -> None:
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
        ({'freezer_action': {'snapshot': 'vss'}}, 5, 'snapshot', 'needs Windows'),
        (
            {'freezer_action': {'sql_server_conf': '/x'}},
            5,
            'sql_server_conf',
            'does not have',
        ),
        ({'freezer_action': {'config': '/x'}}, 5, 'config', 'not allowed'),
        (
            {'freezer_action': {'encrypt_pass_fd': 3}},
            *(5, 'encrypt_pass_fd', 'no such file descriptor'),
        ),
        ({'freezer_action': {'command': 'a\nb'}}, 5, 'command', 'line break'),
        ({'freezer_action': {'command': 'a\rb'}}, 5, 'command', 'line break'),
        ({'freezer_action': {'command': 'a\0'}}, 5, 'command', 'line break'),
        ({'freezer_action': {'command': ' a'}}, 5, 'command', 'space'),
        ({'freezer_action': {'command': '\ud800'}}, 5, 'command', 'surrogate'),
        ({'freezer_action': {'command': ['a', 1]}}, 5, 'command', 'list of texts'),
        ({'freezer_action': {'mode': ['fs']}}, 5, 'mode', 'must be text'),
        ({'freezer_action': {'exclude': ['a', '#b']}}, 5, 'exclude', '[#]'),
        ({'freezer_action': {'exclude': [1]}}, 5, 'exclude', 'list of texts'),
        ({'freezer_action': {'s3_part_number': 1}}, 5, 's3_part_number', 'not an'),
        ({'freezer_action': {'storage:x y': {}}}, 5, 'storage:x y', 'letters'),
        (
            {'freezer_action': {'storage:a': {'storage': 'nfs'}}},
            5,
            'storage:a',
            'nfs',
        ),
        ({'freezer_action': 3}, 4, 'freezer_action', 'object'),
        ({'freezer_action': INFO, 'mandatry': 1}, 9, 'mandatry', 'mean mandatory?'),
        ({'freezer_action': INFO, 'mandatory': 'x'}, 9, 'mandatory', 'true or false'),
        ({'freezer_action': INFO, 'max_retries': -1}, 9, 'max_retries', 'integer'),
        ({'freezer_action': INFO, 'max_retries': 9**99}, 9, 'max_retries', 'integer'),
    ],
)
def test_errors_in_actions_have_line_and_key(
    given: dict[str, Any], line: int, key: str, text: str
) -> None:
    (message,) = problems(json.dumps({'job_actions': [given]}, indent=1))
    assert message.startswith(f'line {line}: job_actions[0].')
    assert f'{key}: ' in message
    assert text in message


@pytest.mark.parametrize(
    'key, value, text',
    [
        ('event', 'go', 'must be start, stop'),
        ('schedule_hours', 1, 'did you mean schedule_hour?'),
        ('schedule_date', 'tomorrow', 'is not a date'),
        ('schedule_start_date', '2026-13-01T00:00:00', 'is not a date'),
        ('schedule_interval', 'daily', 'is not an interval'),
        ('schedule_interval', '0 days', 'is not an interval'),
        ('schedule_interval', '-1 days', 'is not an interval'),
        ('schedule_interval', f'{9**40} weeks', 'interval too large'),
        ('schedule_interval', '1 month', 'is not an interval'),
        ('schedule_hour', '25', '25'),
        ('schedule_day_of_week', 'sunday', 'sunday'),
        ('schedule_minute', '*/0', '*/0'),
        ('schedule_minute', True, 'True'),
        ('schedule_minute', [1], '[1]'),
    ],
)
def test_errors_in_schedules_have_line_and_key(key: str, value: Any, text: str) -> None:
    (message,) = problems(job(job_schedule={'result': '', key: value}))
    assert message.startswith(f'line 13: job_schedule.{key}: ')
    assert text in message


def test_all_problems_are_sorted_by_line() -> None:
    found = problems(
        job(
            freezer_action={'a': 1, 'b': 2},
            job_schedule={'schedule_hour': 'x'},
            job_idd='z',
            job_id='x' * 65,
            user_credentials={'trust_id': 7},
        )
    )
    lines = [int(message.split(':')[0].removeprefix('line ')) for message in found]
    assert len(found) == 6
    assert lines == sorted(lines)


def test_duplicate_key() -> None:
    text = job().replace('"action": "info"', '"action": "info",\n"action": "exec"')
    assert problems(text) == [
        'line 6: job_actions[0].freezer_action.action: duplicate key'
    ]


def test_end_before_start() -> None:
    dates = {
        'schedule_hour': 1,
        'schedule_start_date': '2026-02-01T00:00:00',
        'schedule_end_date': '2026-01-01T00:00:00',
    }
    (message,) = problems(job(job_schedule=dates))
    assert 'schedule_end_date: is before' in message


def test_positions() -> None:
    text = '{"a": [1,\n {"b": "}{\\"],"},\n []], "c":\n {},\n "d": null}'
    positions = Positions(text)
    assert json.loads(text)
    paths: list[KeyPath] = [('a', 0), ('a', 1, 'b'), ('a', 2), ('c',), ('d',)]
    assert [positions.line(path) for path in paths] == [1, 2, 3, 3, 5]
    # A missing key has the line of the object around it.
    assert positions.line(('a', 1, 'x', 'y')) == 2
    assert positions.line(('x',)) == 1
    assert format_path(('a', 1, 'b')) == 'a[1].b'


def test_timing_changes_with_the_times() -> None:
    def timing(**given: Any) -> str:
        return parse(job(job_schedule=given)).timing

    assert timing(schedule_hour=1) == timing(schedule_hour='1', status='running')
    assert timing(schedule_hour=1) != timing(schedule_hour=2)
    # A job without times runs again when its file changes.
    assert timing() != timing(status='running')
    assert schedule.KEYS


def test_timing_of_a_start_date_alone() -> None:
    def timing(**top: Any) -> str:
        dates = {'schedule_start_date': '2026-02-01T00:00:00Z'}
        return parse(job(job_schedule=dates, **top)).timing

    # It runs once: a new description is no request to run it again.
    assert timing() == timing(description='x')


OF_LOG = [
    *('log_config_append', 'log_file', 'log_dir', 'log-file', 'use_syslog'),
    *('syslog_log_facility', 'use_journal', 'logging_default_format_string'),
    *('default_log_levels', 'log_rotation_type', 'publish_errors', 'use_stderr'),
]


@pytest.mark.parametrize('key', OF_LOG)
def test_options_of_the_log_are_refused(key: str) -> None:
    (message,) = problems(job({**INFO, key: True}))
    assert f'freezer_action.{key}: not allowed in a job' in message
    (message,) = problems(job({**INFO, key: '/etc/cron.d/x'}))
    assert 'not allowed in a job' in message
    # Dashboards write whole forms.
    for unset in ('', None, 'None', False):
        assert parse(job({**INFO, key: unset})).actions


def test_debug_is_harmless() -> None:
    assert parse(job({**INFO, 'debug': True})).actions[0].options['debug'] == 'True'


def test_options_of_a_log_in_a_storage_are_refused() -> None:
    near = {'storage': 'local', 'container': '/a', 'log_config_append': '/x'}
    (message,) = problems(job({'action': 'info', 'storage:near': near}))
    assert 'log_config_append: not an option of storage local' in message


def test_every_unknown_key_is_reported() -> None:
    old = ['sql_server_conf', 'vssadmin', 'backup_id', 'timeout']
    new = ['dst_file', 'get_object', 'max_levl', 's3_regoin']
    found = problems(job({**INFO, **dict.fromkeys([*old, *new], 'x')}))
    for key in (*old, *new):
        assert sum(f'freezer_action.{key}: ' in message for message in found) == 1
    near = {'storage': 's3', 's3_concurrency': 'x', 's3_max_parts': 'y', 'a': 'b'}
    (message,) = problems(job({'action': 'info', 'storage:near': near}))
    for key in ('s3_concurrency', 's3_max_parts', ' a: '):
        assert key in message


@pytest.mark.parametrize(
    'given, wrong',
    [
        ({'restore_from_host': 'web1'}, ''),
        ({'restore_from_host': 'web1', 'hostname': 'web1'}, ''),
        ({'restore_from_host': 'web1', 'hostname': ''}, ''),
        ({'restore_from_host': '', 'hostname': 'web1'}, ''),
        ({'restore_from_host': 'web1', 'hostname': 'web2'}, 'contradicts'),
        ({'no_incremental': True, 'incremental': False}, ''),
        ({'no_incremental': False, 'incremental': True}, ''),
        ({'no-incremental': True, 'incremental': True}, 'contradicts'),
        ({'engine': 'tar', 'engine_name': 'tar'}, ''),
        ({'engine': 'tar', 'engine_name': 'nova'}, 'contradicts'),
        ({'no_incremental': 'perhaps'}, 'perhaps'),
    ],
)
def test_two_keys_of_one_option(given: dict[str, Any], wrong: str) -> None:
    text = job({**INFO, **given})
    if wrong:
        (message,) = problems(text)
        assert wrong in message
    else:
        assert parse(text).actions


def test_api_state() -> None:
    text = job(
        project_id='p',
        session_id='s',
        session_tag=3,
        user_credentials={'trust_id': 't', 'trustor_user_id': 'u'},
        job_schedule={'event': 'stop', 'status': 'running', 'time_started': 5},
    )
    made = document.parse('/a.conf', text.encode(), 'a', in_api=True)
    assert made.api == document.ApiState(
        *('p', 't', 's', 3, 'stop', 'running', '', 5, -1)
    )
    assert made.remarks == ()
    assert parse(text).api is None
