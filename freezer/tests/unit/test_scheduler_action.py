"""Every option of the agent works in a job, and reaches the agent unchanged."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from oslo_config import cfg

from freezer.common import job_options, jobfile, opts, upstream
from freezer.common.jobfile import JobFile
from freezer.scheduler.documents import action
from freezer.scheduler.documents.action import Action
from freezer.utils.types import Size

ODD = 'a %x%% $y ${z} #;= "q\' [s] ü'
CANDIDATES = (ODD, '7', '1', '9M', '90s', '7d', '2026-01-31T23:59:59+02:00')
# A job file cannot include another one; no snapshot is installed.
NOT_IN_JOBS = ('config', 'snapshot', 'encrypt-pass-fd')


def parse(given: dict[str, Any]) -> Action:
    made, problems = action.parse(given)
    assert not problems
    assert made is not None
    return made


def job_file(made: Action, path: Path) -> JobFile:
    """As the agent reads it."""
    path.write_bytes(made.ini().encode())
    return jobfile.read(str(path))


def _every() -> Iterator[Any]:
    for group, declared in opts.declared_options().items():
        for option in declared:
            if option.name not in NOT_IN_JOBS:
                name = f'{group}-{option.name}' if group else option.name
                yield pytest.param(group, name, option, id=name)


EVERY = list(_every())


def sample(option: Any) -> Any:
    """A JSON value that is not the default."""
    if isinstance(option, cfg.BoolOpt):
        return not option.default
    if isinstance(option, cfg.MultiStrOpt):
        return [ODD, '*.tmp', 'b$']
    choices = [str(choice) for choice in getattr(option.type, 'choices', None) or ()]
    for candidate in (*CANDIDATES, *reversed(choices)):
        if isinstance(option.type, Size) and candidate == ODD:
            continue
        try:
            option.type(candidate)
        except (ValueError, argparse.ArgumentTypeError):
            continue
        return candidate
    raise AssertionError(f'no value for {option.name}')


@pytest.fixture(scope='module')
def by_job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the agent makes of a job that names every option."""
    conf = opts.parse_alone([])
    made = parse(
        {each.values[1].replace('-', '_'): sample(each.values[2]) for each in EVERY}
    )
    path = tmp_path_factory.mktemp('job') / 'job.ini'
    job_options.apply(conf, job_file(made, path), set())
    return conf


@pytest.fixture(scope='module')
def by_command_line() -> Any:
    argv: list[str] = []
    for each in EVERY:
        group, name, option = each.values
        value = sample(option)
        if isinstance(value, bool):
            prefix = f'{group}-' if group else ''
            argv.append(f'--{prefix}{"" if value else "no"}{option.name}')
        else:
            values = value if isinstance(value, list) else [value]
            argv += [f'--{name}={one}' for one in values]
    return opts.parse_alone(argv)


@pytest.mark.parametrize('group, name, option', EVERY)
def test_job_and_command_line_agree(
    group: str | None, name: str, option: Any, by_job: Any, by_command_line: Any
) -> None:
    def of(conf: Any) -> Any:
        return conf[group][option.dest] if group else conf[option.dest]

    assert of(by_job) == of(by_command_line)
    assert of(by_job) != option.default


@pytest.mark.parametrize('group, name, option', EVERY)
def test_secret_options_are_detected(group: str | None, name: str, option: Any) -> None:
    value = sample(option)
    made = parse({name.replace('-', '_'): value})
    assert made.has_secrets == option.secret
    if option.secret:
        assert made.without_secrets(f'no {value}, or so') == 'no ***, or so'


def test_storages_become_sections(tmp_path: Path) -> None:
    near = {'storage': 'local', 'container': '/srv/50%'}
    far = {
        'storage': 's3',
        'container': 'b/p',
        'endpoint': 'http://s3',
        'access_key': 'AK',
        'secret-key': 'sk%/x',
        's3_concurrency': 3,
        's3_region': None,
    }
    made = parse({'action': 'backup', 'storage:near': near, 'storage:far': far})
    job = job_file(made, tmp_path / 'job.ini')
    assert [section.name for section in job.storages] == ['storage:near', 'storage:far']
    assert job.storages[0].values == near
    assert job.storages[1].values['secret_key'] == 'sk%/x'
    assert job.storages[1].values['s3_concurrency'] == '3'
    assert 's3_region' not in job.storages[1].values
    assert made.storage_kinds == ('local', 's3')
    assert made.without_secrets('key: sk%/x') == 'key: ***'


def test_null_is_not_written() -> None:
    made = parse({'action': 'info', 'max_level': None, 'exclude': None})
    assert made.ini() == '[action]\naction = info\n'


def test_false_is_the_default_unless_a_flag() -> None:
    # The dashboard fills in forms like this.
    made = parse({'action': False, 'mode': '', 'engine_name': 'None'})
    assert (made.name, made.mode, made.engine) == ('backup', 'fs', 'tar')


def test_false_is_a_command() -> None:
    made = parse({'action': 'exec', 'command': 'false'})
    assert made.options['command'] == 'false'


def test_hyphens_and_capitals_in_keys() -> None:
    assert parse({'Engine': 'tar'}).engine == 'tar'
    assert parse({'backup-name': 'x'}).options == {'backup_name': 'x'}
    _made, problems = action.parse({'backup-name': 'x', 'backup_name': 'y'})
    assert problems == [(('backup_name',), 'duplicate key')]


def test_a_key_twice_in_a_storage() -> None:
    storage = {'storage': 's3', 'access-key': 'a', 'access_key': 'b'}
    _made, problems = action.parse({'storage:a': storage})
    assert problems == [(('storage:a',), 'duplicate key')]


def test_a_misspelt_key() -> None:
    _made, problems = action.parse({'s3_regoin': 'x'})
    text = 'not an option of the agent; did you mean s3_region?'
    assert problems == [(('s3_regoin',), text)]


@pytest.mark.parametrize(
    'text', ['x\x0by', 'x\x85y', 'x\u2028y', 'x\n', 'x\r', '\x1cx']
)
def test_text_that_a_job_file_cannot_hold_is_rejected(text: str) -> None:
    made, problems = action.parse({'command': text})
    assert made is None
    assert problems


@pytest.fixture(scope='module')
def ini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('any') / 'job.ini'


@hypothesis.given(text=strategies.text())
def test_any_text_is_unchanged_or_rejected(text: str, ini: Path) -> None:
    made, problems = action.parse({'command': text, 'backup_name': 'bk'})
    hypothesis.assume(not problems)
    assert made is not None
    (section,) = job_file(made, ini).main
    assert section.values == {'command': text, 'backup_name': 'bk'}


@hypothesis.given(patterns=strategies.lists(strategies.text(), min_size=1))
def test_any_patterns_are_unchanged_or_rejected(patterns: list[str], ini: Path) -> None:
    made, problems = action.parse({'exclude': patterns, 'backup_name': 'bk'})
    hypothesis.assume(not problems)
    assert made is not None
    conf = opts.parse_alone([])
    # It is not its values that make an option set.
    hypothesis.assume(made.options['exclude'] not in upstream.UNSET)
    job_options.apply(conf, job_file(made, ini), set())
    assert conf.exclude == [pattern for pattern in patterns if pattern]
