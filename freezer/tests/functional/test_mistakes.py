"""What users mistype or overlook, and what the commands answer."""

import datetime
import itertools
import os
import pty
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import scheduler
from freezer.tests.agent import (
    HOST,
    Agent,
    LocalStore,
    Process,
    Result,
    Store,
    command,
    environment,
    iso,
    job_file,
    run,
)
from freezer.tests.commands import run_command
from freezer.tests.mounts import mounting

DAY = 24 * 3600
YEARS = 5 * 365 * DAY


def typed(*words: object) -> Result:
    """A command that is refused before any work: it has no storage to work with."""
    return run(*words)


def scheduled(*words: object) -> Result:
    argv = (*scheduler.command(), *map(str, words))
    done = run_command(*argv, env=environment())
    return Result(argv, done.returncode, done.stdout, done.stderr)


# An option that is given twice


@pytest.mark.parametrize(
    'words',
    [
        ('--container', '/a', '--container', '/b'),
        ('--container', '/a', '-C', '/a'),
        ('-C', '/a', '-C/b'),
        ('--container=/a', '--contain', '/b'),
        ('--backup-name', 'a', '-N', 'b'),
        ('--remove-older-than', '3', '-R', '300'),
        ('--restore-from-date', 'now', '--restore-from-date', 'today'),
        ('--s3-region', 'a', '--s3-region', 'b'),
        ('--log-file', 'a', '--logfile', 'b'),
        ('--config', 'a', '--config', 'b'),
        ('--upload-limit', '1M', '--upload-limit', '1G'),
    ],
)
def test_an_option_with_one_value_is_given_once(words: tuple[str, ...]) -> None:
    name = {'-C': '--container', '-N': '--backup-name'}.get(words[0], words[0])
    error = typed('--storage', 'local', *words).only_error
    assert (
        error
        == f'Error: {name.partition("=")[0]} is given more than once: pass it once'
    )


@pytest.mark.parametrize(
    'words',
    [
        ('--incremental', '--noincremental'),
        ('--nosync', '--sync'),
        ('--s3-create-bucket', '--s3-nocreate-bucket'),
        ('-d', '--nodebug'),
    ],
)
def test_a_flag_is_on_or_off(words: tuple[str, ...]) -> None:
    error = typed('--storage', 'local', '--container', '/a', *words).only_error
    assert error.endswith(': pass one of them')


def test_what_may_be_given_twice(local: Agent, source: Path) -> None:
    made = Process(
        *('--action', 'backup', *local.options, '--path-to-backup', source),
        *('--exclude', 'a', '--exclude', 'b', '--dry-run', '--dry-run'),
    )
    with made as process:
        assert process.wait().code == 0


@pytest.mark.parametrize(
    'words',
    [
        ('--jobs-dir', 'a', '--jobs-dir', 'b'),
        ('--jobs-dir', 'a', '--scheduler-jobs-dir', 'b'),
        ('--conf', 'a', '-f', 'b'),
        ('--supported-modes', 'fs', '--capabilities-supported-modes', 'x'),
        ('-i', '5', '--interval', '6'),
    ],
)
def test_an_option_of_the_scheduler_is_given_once(words: tuple[str, ...]) -> None:
    found = scheduled('status', *words)
    assert (found.code, found.out) == (1, '')
    assert found.err.endswith(' is given more than once: pass it once\n')


@pytest.mark.parametrize(
    ('text', 'where'),
    [
        (
            '[job]\ncontainer = /a\n[more]\ncontainer = /b\n',
            '[more]: container is given in [job] already: keep one of them',
        ),
        ('[job]\nengine = tar\nengine_name = x\n', 'engine_name contradicts engine'),
        ('[job]\ncontainer = /a\n[more]\nCon-tainer = /b\n', ''),
    ],
)
def test_a_key_is_given_once(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / 'job').write_text(text)
    error = typed('--config', tmp_path / 'job').only_error
    assert where in error


# A name that is nowhere


def test_retention_of_a_name_without_backups(local: Agent, source: Path) -> None:
    local.backup(source).check()
    other = Agent(local.store, 'kb')
    for option in ('--remove-older-than=1', f'--remove-before-date={iso(1)}'):
        assert "No backup 'kb' of host 'hosta'" in other.run('admin', option).only_error
        assert other.run('admin', option, '--dry-run').code == 1
    assert "backups of this host: 'bk'" in other.run('admin', '-R', '1').error
    # Of another engine.
    odd = local.told('--engine', 'sqlite-dump')
    assert odd.run('admin', '-R', '1').code == 1
    # With one that matches, and after the first backup of a name.
    local.run('admin', '-R', '1').check()
    other.backup(source, '-R', '1').check()


def test_retention_of_a_name_that_one_storage_lacks(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    local.backup(source).check()
    empty = tmp_path / 'empty'
    empty.mkdir()
    sections = {
        'storage:a': local.store.section,
        'storage:b': {'storage': 'local', 'container': empty},
    }
    config = job_file(tmp_path / 'job', sections)
    words = ('--hostname', HOST, '--backup-name', 'bk', '--remove-older-than', '1')
    error = run('--action', 'admin', '--config', config, *words).only_error
    assert error.startswith(f"Error: [storage:b]: No backup 'bk' of host '{HOST}'")


# A new machine


@pytest.fixture
def moved(local: Agent, source: Path) -> Agent:
    """Backups of one name and of two hosts, for a third one."""
    for host in ('old', 'older_one'):
        local.told('--hostname', host).backup(source).check()
    local.told('--hostname', 'old', '--backup-name', 'other').backup(source).check()
    return local


SEARCHES = (
    ('restore', '--restore-abs-path', 'target'),
    ('list',),
    ('find', '--include', 'file'),
    ('diff', '--from-date', 'now'),
    ('dump', '--include', 'file'),
    ('verify',),
    ('admin', '--remove-older-than', '1'),
    ('admin', '--rebuild-index'),
)


@pytest.mark.parametrize('words', SEARCHES, ids=lambda words: '-'.join(words[:2]))
def test_hosts_that_have_the_name(moved: Agent, words: tuple[str, ...]) -> None:
    error = moved.run(*words).only_error
    assert (
        f"No backup 'bk' of host '{HOST}' in {moved.store.options[-1]}. These hosts "
        f"have one of that name: 'old', 'older_one'; add --hostname"
    ) in error
    error = moved.told('--backup-name', 'other').run(*words).only_error
    assert error.endswith("Host 'old' has one of that name: add --hostname old")


def test_info_for_a_host_without_the_name(moved: Agent) -> None:
    found = moved.run('info').check()
    assert "These hosts have one of that name: 'old', 'older_one'" in found.err


def test_hosts_by_the_name_that_has_the_host_in_it(local: Agent, source: Path) -> None:
    """Of a backup that got no name: it is named after the host."""
    nameless = local.nameless
    nameless.told('--hostname', 'old').backup(source).check()
    error = nameless.told('--hostname', 'new').run('list').only_error
    assert error.endswith("Host 'old' has one of that name: add --hostname old")


def test_info_above_the_prefix(store: Store, source: Path) -> None:
    Agent(store).backup(source).check()
    options = ['--storage', 's3', '--container', store.options[-1].partition('/')[0]]
    found = run('--action', 'info', *options, '--json', env=store.env).check()
    assert found.document['prefixes'] == [store.options[-1]]
    assert found.document['backups'] == []
    assert (
        f'Containers below this one that hold backups: {store.options[-1]}' in found.err
    )


def test_info_above_two_prefixes(local: Agent, source: Path, tmp_path: Path) -> None:
    folders = [tmp_path / 'above' / name for name in ('one', 'an/other')]
    for folder in folders:
        Agent(LocalStore(folder)).backup(source).check()
    above = Agent(LocalStore(tmp_path / 'above'))
    found = above.run('info').check()
    shown = ', '.join(sorted(map(str, folders)))
    assert found.err.endswith(f'Containers below this one that hold backups: {shown}\n')
    assert Agent(LocalStore(folders[0])).run('info').check().err == ''


# Spelling


@pytest.mark.parametrize(
    ('words', 'meant'),
    [
        (('--contaner', '/x'), '--container'),
        (('--s3-regoin', 'x'), '--s3-region'),
        (('--noincremantal',), '--noincremental'),
        (('backup',), '--action backup'),
        (('--storage', 'local', 'verfy'), '--action verify'),
        (('--incremental', 'restore', '--long'), '--action restore'),
    ],
)
def test_unknown_arguments(words: tuple[str, ...], meant: str) -> None:
    found = typed(*words)
    assert (found.code, found.out) == (2, '')
    assert found.err.startswith('Error: ')
    assert found.err.endswith(f'; did you mean {meant}?; see --help\n')


def test_a_job_file_without_its_option(tmp_path: Path) -> None:
    job = job_file(tmp_path / 'job.conf', {'job': {'action': 'info'}})
    assert f'did you mean --config {job}?' in typed(job).err


@pytest.mark.parametrize(
    'words, named',
    [
        (('--pasword', 'abc -hunter2 x'), '--pasword'),
        (('--pasword', 'abc --hunter2 x'), '--pasword'),
        (('--pasword=hunter2 -hunter2',), '--pasword'),
        (('--pasword hunter2',), '--pasword'),
        (('--secret-ky', '-phunter2'), '--secret-ky -p'),
        (('--secret-ky', 'a$hunter2'), '--secret-ky'),
        (('--secret-ky', '-p\n--hunter2'), '--secret-ky -p'),
        (('--backup-name', 'a', '--pasword', 'a -hunter2'), '--pasword'),
        (('--container', 'b', 'b -hunter2'), ''),
    ],
)
def test_a_value_of_an_unknown_option_is_not_repeated(
    words: tuple[str, ...], named: str
) -> None:
    found = typed(*words)
    assert found.code == 2
    line = found.err.split('; ')[0]
    # Of the last, nobody knows which argument it is.
    assert line == f'Error: unknown argument {named}'.strip()
    assert 'hunter2' not in found.err


def test_a_word_that_may_be_a_secret_is_not_repeated() -> None:
    found = typed('--access-key', 'a', 'pAsswOrd')
    assert found.err == 'Error: unexpected positional argument; see --help\n'


@pytest.mark.parametrize(
    ('words', 'meant'),
    [
        (('--action', 'bakup'), 'backup'),
        (('--storage', 'locl'), 'local'),
        (('--storage', 'local', '--container', 'x', '--compression', 'gzp'), 'gzip'),
    ],
)
def test_values_with_choices(words: tuple[str, ...], meant: str) -> None:
    assert typed(*words).only_error.endswith(f'; did you mean {meant}?')


@pytest.mark.parametrize(
    ('section', 'key', 'meant'),
    [
        ('job', 'contaner = /x', 'container?'),
        ('s3', 'regoin = x', 's3_region?'),
        ('s3', 'region = x', 's3_region?'),
        ('job', 'action = bakup', 'backup?'),
        ('storages:a', 'storage = local', '[storage:a]?'),
        ('Storage: a', 'storage = local', '[storage:a]?'),
        ('storage:a', 'storage = local\ncontaner = /x', 'container?'),
    ],
)
def test_keys_of_job_files(tmp_path: Path, section: str, key: str, meant: str) -> None:
    (tmp_path / 'job').write_text(f'[{section}]\n{key}\n')
    error = typed('--config', tmp_path / 'job').only_error
    assert error.endswith(f'; did you mean {meant}')


def test_keys_of_configuration_files(local: Agent, tmp_path: Path) -> None:
    config = tmp_path / 'freezer.conf'
    config.write_text(
        '[DEFAULT]\nlogdir = /tmp\nback-up-name = x\nquiet = no\nquiet = no\n'
        '[s3]\nregoin = x\nregion = y\n[s3x]\nregion = z\n[keystone_authtoken]\na = b\n'
    )
    found = local.run('info', '--config-file', config)
    warned = [line for line in found.err.splitlines() if str(config) in line]
    assert warned == [
        f'{config}, [DEFAULT] back-up-name: ignored, unknown key; did you mean '
        f'backup_name?',
        f'{config}, [DEFAULT] quiet: given more than once; the last one counts',
        f'{config}, [s3] regoin: ignored, unknown key; did you mean region?',
        f'{config}, [s3x]: ignored, unknown section; did you mean [s3]?',
    ]


def test_options_of_another_engine(local: Agent, tmp_path: Path) -> None:
    (tmp_path / 'disk.img').write_bytes(b'disk')
    config = tmp_path / 'freezer.conf'
    config.write_text('[blocks]\nblock_size = 4K\n')
    told = [*('--config-file', config), *('--path-to-backup', tmp_path / 'disk.img')]
    made = local.run('backup', *told, '--engine', 'blocks', '--exclude', '*.o').check()
    assert made.err.splitlines()[0] == (
        'exclude has no effect with engine blocks: it belongs to engine tar'
    )
    made = local.run('backup', *told, '--exclude', '*.o').check()
    assert 'no effect' not in made.err
    made = local.run('backup', *told, '--blocks-block-size', '4K').check()
    assert made.err.splitlines()[0] == (
        'blocks-block-size has no effect with engine tar: it belongs to engine blocks'
    )


def test_keys_of_the_schedulers_configuration(tmp_path: Path) -> None:
    config = tmp_path / 'scheduler.conf'
    config.write_text(
        '[DEFAULT]\nno_api = true\n[scheduler]\nintervall = 5\nclient-id = x\n'
        '[service_auth]\nuser_name = x\nos_username = y\n'
    )
    found = scheduled('status', '--config-file', config)
    assert [line.partition(': ')[2] for line in found.err.splitlines()] == [
        f'{config}, [scheduler] intervall: ignored, unknown key; did you mean '
        f'interval?',
        f'{config}, [service_auth] user_name: ignored, unknown key; did you mean '
        f'username?',
    ]


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (('statsu',), '; did you mean status?'),
        (('status', '--job-dir', 'x'), '; did you mean --jobs-dir?; see --help'),
    ],
)
def test_spelling_for_the_scheduler(words: tuple[str, ...], line: str) -> None:
    found = scheduled(*words)
    assert found.err.startswith('Error: ')
    assert found.err.endswith(f'{line}\n')


# Dates


@pytest.fixture
def dated(local: Agent, source: Path) -> Agent:
    """Backups of three times: the evening and the last second of a day, and later."""
    start = 1_750_000_000 // DAY * DAY
    for time_of_day in (18 * 3600, DAY - 1, DAY):
        made = local.backup(source).check().document['time_stamp']
        (source / 'file').write_text(f'after {time_of_day}')
        local.store.made_earlier(made - start - time_of_day, local.identity)
        Path(local.store.options[-1]).rename(source.parent / f'{time_of_day}')
    for time_of_day in (18 * 3600, DAY - 1, DAY):
        folder = source.parent / f'{time_of_day}'
        run_command('cp', '-r', f'{folder}/.', local.store.options[-1], check=True)
    return local


THE_DAY = time.strftime('%Y-%m-%d', time.gmtime(1_750_000_000))


@pytest.mark.parametrize('action', [('restore', '--restore-abs-path'), ('list',)])
def test_a_bare_date_is_the_whole_day(
    dated: Agent, tmp_path: Path, action: tuple[str, ...]
) -> None:
    words = [*action, tmp_path / 'target'] if len(action) > 1 else [*action]
    for text, shown in (
        (THE_DAY, f'{THE_DAY}T23:59:59Z'),
        (THE_DAY.replace('-', ''), f'{THE_DAY}T23:59:59Z'),
        (f'{THE_DAY}T20:00', f'{THE_DAY}T18:00:00Z'),
    ):
        found = dated.run(*words, '--overwrite', '--restore-from-date', text).check()
        assert shown in found.err
    epoch = 1_750_000_000 // DAY * DAY + 18 * 3600
    found = dated.run(*words, '--overwrite', '--restore-from-date', epoch).check()
    assert f'{THE_DAY}T18:00:00Z' in found.err
    for text in ('now', 'Today', 'yesterday'):
        found = dated.run(*words, '--overwrite', '--restore-from-date', text).check()
        assert 'T00:00:00Z' in found.err


def test_a_bare_date_of_find_diff_and_dump(dated: Agent) -> None:
    words = ('--include', 'file', '--restore-from-date', THE_DAY)
    assert dated.run('dump', *words).check().out == 'after 64800'
    assert len(dated.run('find', *words, '--json').check().out.splitlines()) == 2
    words = ('--from-date', THE_DAY, '--to-date', 'now')
    assert f'{THE_DAY}T23:59:59Z' in dated.run('diff', *words).check().err


def test_a_bare_date_keeps_what_was_made_on_that_day(dated: Agent) -> None:
    day = datetime.date.fromisoformat(THE_DAY)
    following = day + datetime.timedelta(days=1)
    dated.run('admin', '--remove-before-date', THE_DAY).check()
    assert len(dated.store.markers()) == 3
    # The backup of its first second stays.
    dated.run('admin', '--remove-before-date', following).check()
    assert len(dated.store.markers()) == 1


@pytest.mark.parametrize(
    'text', ['31.01.2026', 'tomorrow', '2026-02-30', '170000000000']
)
def test_the_form_of_dates_is_shown(text: str) -> None:
    words = ('--storage', 'local', '--container', 'x', '--restore-from-date', text)
    error = typed(*words).only_error
    assert error.startswith(
        f"Error: --restore-from-date: '{text}' is not a date: write "
    )
    assert '2026-01-31T23:59:59' in error


def test_the_result_has_iso_dates(local: Agent, source: Path, tmp_path: Path) -> None:
    for made in (
        local.backup(source),
        local.restore(tmp_path / 'target', '--json'),
    ):
        document = made.check().document
        assert document['date'] == iso(document['time_stamp'])


# A clock that was ahead


def test_backups_dated_ahead(local: Agent, source: Path, tmp_path: Path) -> None:
    local.increment(source).check()
    assert 'dated later' not in local.increment(source).check().err
    first, second = (
        int(marker.split('/')[-2].partition('_')[2]) + YEARS
        for marker in local.store.markers()
    )
    local.store.made_earlier(-YEARS, local.identity)
    named = f'level 0 of {iso(first)}, level 1 of {iso(second)}'
    way_out = 'another --backup-name from now on; --action admin --remove-before-date '
    for words in (
        ('backup', '--incremental', '--path-to-backup', source),
        ('admin', '--remove-older-than', '1'),
    ):
        found = local.run(*words).check()
        assert f'dated later: {named}' in found.err
        assert way_out in found.err
    now = ('--restore-from-date', 'now')
    found = local.restore(tmp_path / 'target', *now)
    assert named in found.err
    assert 'at or before' in found.error
    log = Path(os.environ['HOME'], '.freezer', 'freezer.log').read_text()
    assert 'dated later' in log
    # The way out.
    other = Agent(local.store, 'other')
    assert 'dated later' not in other.increment(source).check().err
    newest = found.err.partition('--remove-before-date ')[2].partition(' ')[0]
    local.run('admin', '--remove-before-date', newest).check()
    assert [path.split('/')[2] for path in local.store.markers()] == [other.identity]


# Terminals and pipes


def on_terminal(*words: object) -> list[str]:
    """What a command that succeeds shows on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*command(), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
    ) as process:
        os.close(theirs)
        shown = b''.join(iter(lambda: _read(ours), b'')).decode()
        os.close(ours)
    assert process.returncode == 0, shown
    return [
        line.rpartition('\r')[2] for line in shown.replace('\r\n', '\n').split('\n')
    ]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b''


def test_a_backup_on_a_terminal(local: Agent, source: Path) -> None:
    words = ('--action', 'backup', *local.options, '--path-to-backup', source)
    summary = ['Backed up', '  To:', '  Read:', '  Stored:', '  Restore:']
    for _level in range(2):
        lines = on_terminal(*words, '--incremental')
        start = next(n for n, line in enumerate(lines) if line.startswith('Backed up'))
        for line, head in zip(lines[start:], [*summary, ''], strict=True):
            assert line.startswith(head)
        assert lines[-1] == ''
        assert not any(line.startswith(('+', '|')) for line in lines)
    long = on_terminal(*words, '--long')
    assert sum(line.startswith('| ') for line in long) > 30
    # For a pipe it is as it was.
    assert local.run('backup', '--path-to-backup', source).out.count('\n| ') > 30


READERS = ('list', 'info', 'find --include file*', 'diff --from-date now')


@pytest.mark.parametrize('action', READERS)
def test_a_reader_that_leaves(local: Agent, source: Path, action: str) -> None:
    for number in range(3000):
        (source / f'file{number}').touch()
    local.backup(source).check()
    words = (*action.split(), *local.options)
    assert piped(*command(), '--action', *words) == (0, '')


@pytest.mark.parametrize('word', ['--help', '--version'])
def test_a_reader_of_the_help_leaves(word: str) -> None:
    assert piped(*command(), word) == (0, '')
    assert piped(*scheduler.command(), word) == (0, '')


def test_a_reader_of_the_scheduler_leaves(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f'{number}.conf').write_text('{}')
    found = piped(*scheduler.command(), 'validate', tmp_path)
    # The jobs are invalid.
    assert found == (1, '')


def piped(*words: object) -> tuple[int, str]:
    """Exit code and standard error of a command whose reader has gone at once."""
    line = f'{shlex.join(map(str, words))} | true; exit ${{PIPESTATUS[0]}}'
    done = run_command('bash', '-c', line, env=environment())
    return done.returncode, done.stderr


# A local container


@pytest.fixture(params=['file', 'below a file', 'dangling', 'loop', 'socket'])
def no_folder(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, str]]:
    path = tmp_path / 'container'
    if request.param == 'file':
        path.touch()
        yield path, 'is not a directory'
    elif request.param == 'below a file':
        path.touch()
        yield path / 'below', f'{path} is not a directory'
    elif request.param == 'dangling':
        path.symlink_to('nowhere')
        yield path, 'is a symbolic link to nowhere, which does not exist'
    elif request.param == 'loop':
        path.symlink_to('container')
        yield path, 'Too many levels of symbolic links'
    else:
        os.mkfifo(path)
        yield path, 'is not a directory'


def test_a_container_that_is_no_directory(
    no_folder: tuple[Path, str], source: Path, tmp_path: Path
) -> None:
    path, problem = no_folder
    agent = Agent(LocalStore(path))
    for words in (
        ('backup', '--path-to-backup', source),
        ('backup', '--path-to-backup', source, '--dry-run'),
        ('restore', '--restore-abs-path', tmp_path / 'target'),
        ('info',),
        ('check',),
        ('verify',),
    ):
        assert agent.run(*words).only_error.startswith(
            f'Error: container {path}: {problem}'
        )


SPELLINGS = ('{0}/', '{0}/../copies', '{0}/.', '{1}/link', '{1}//copies')


@pytest.mark.parametrize('pair', [*itertools.combinations(SPELLINGS, 2)])
@pytest.mark.parametrize('exists', [True, False])
def test_one_directory_in_two_spellings(
    source: Path, tmp_path: Path, pair: tuple[str, str], exists: bool
) -> None:
    copies = tmp_path / 'copies'
    (tmp_path / 'link').symlink_to('copies')
    if exists:
        copies.mkdir()
    config = job_file(
        tmp_path / 'job',
        {
            f'storage:{name}': {
                'storage': 'local',
                'container': each.format(copies, tmp_path),
            }
            for name, each in zip('ab', pair, strict=True)
        },
    )
    error = run('--config', config, '--path-to-backup', source).only_error
    assert '[storage:a] and [storage:b] are the same container' in error


@pytest.mark.parametrize('below', ['', 'new/folder'])
def test_one_directory_by_a_bind_mount(
    source: Path, tmp_path: Path, below: str
) -> None:
    folders = [tmp_path / name for name in ('one', 'other')]
    for folder in folders:
        folder.mkdir()
    sections = {
        f'storage:{folder.name}': {'storage': 'local', 'container': folder / below}
        for folder in folders
    }
    config = job_file(tmp_path / 'job', sections)
    with mounting() as mount:
        mount('--bind', *folders)
        error = run('--config', config, '--path-to-backup', source).only_error
    assert '[storage:one] and [storage:other] are the same container' in error
