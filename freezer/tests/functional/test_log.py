"""The log, and other files that the commands write on this machine."""

import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from freezer.tests import scheduler
from freezer.tests.agent import ROOT, TIMEOUT, Agent, environment
from freezer.tests.commands import run_command
from freezer.tests.scheduler import Scheduler

NOBODY = 65534
REFUSED = 'leads through a symbolic link that another user owns or could have placed'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='makes links of others')


def log() -> Path:
    return Path(os.environ['HOME'], '.freezer', 'freezer.log')


# A mistake of the user


MISTAKES: dict[str, tuple[object, ...]] = {
    'a name': ('list', '--backup-name', 'other'),
    'a source': ('backup', '--path-to-backup', '/nowhere/at/all'),
    'a target': ('restore', '--restore-abs-path', '/etc'),
    'an option that is missing': ('dump',),
    'a container': ('info', '--container', '/dev/null'),
}


@pytest.mark.parametrize('words', MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(
    local: Agent, source: Path, words: tuple[str, ...]
) -> None:
    local.backup(source).check()
    before = log().read_text()
    error = local.run(*words).error
    logged = log().read_text().removeprefix(before)
    (line,) = [line for line in logged.splitlines() if ' ERROR ' in line]
    text = error.removeprefix('Error: ')
    assert line.endswith(text)
    assert line.count(text) == 1
    assert 'Traceback' not in logged
    local.run(*words, '--debug')
    assert 'Traceback' in log().read_text()


# Rotation


def test_the_configuration_of_logrotate(local: Agent, source: Path) -> None:
    text = (ROOT / 'etc/logrotate/freezer').read_text()
    rules = re.sub(r'^\s*#.*\n', '', text, flags=re.MULTILINE)
    (head,) = re.findall(r'^(.+) \{$', rules, re.MULTILINE)
    local.backup(source).check()
    for command in ('freezer', 'scheduler'):
        assert Path(f'/root/.freezer/{command}.log').match(head.split()[0])
    assert 'nocreate' in rules.split()
    assert 'copytruncate' not in rules.split()
    # As logrotate does it.
    log().rename(log().with_suffix('.log.1'))
    local.run('info').check()
    assert 'committed' in log().with_suffix('.log.1').read_text()
    assert log().exists()


_ROTATED = """
import logging, os, sys
from pathlib import Path
from freezer.common import logs, opts
folder = Path(sys.argv[1])
path = logs.set_up(opts.parse_alone(['--log-file', str(folder / 'log')]), 'x')
assert path == str(folder / 'log')
logger = logging.getLogger('freezer')
logger.error('before')
(folder / 'log').rename(folder / 'log.1')
logger.error('after')
logger.error('later')
"""


def test_a_run_opens_the_new_file(tmp_path: Path) -> None:
    run_command(
        *(sys.executable, '-c', _ROTATED, tmp_path), env=environment(), check=True
    )
    assert [
        line.rpartition(' ')[2]
        for name in ('log.1', 'log')
        for line in (tmp_path / name).read_text().splitlines()
    ] == ['before', 'after', 'later']


def test_the_log_of_a_scheduler_is_rotated(tmp_path: Path) -> None:
    with Scheduler(tmp_path / 'scheduler') as running:
        path = tmp_path / 'scheduler.log'
        running.log = path
        running.start('--log-file', str(path))
        # As logrotate does it, with nocreate and without a signal.
        path.rename(path.with_suffix('.log.1'))
        running.job('a', scheduler.document(scheduler.executes('true')))
        running.until_logged('job a: success')
        assert 'job a' not in path.with_suffix('.log.1').read_text()
        running.stop()


# /dev with a socket of syslog, in a mount namespace of its own.
_SYSLOG = """
mount -t tmpfs none {new} && for each in null zero urandom; do
touch {new}/$each && mount --bind /dev/$each {new}/$each || exit 9; done
ln -s /proc/self/fd {new}/fd && ln -s {socket} {new}/log && mount --move {new} /dev &&
exec "$@"
"""


@needs_root
def test_syslog(tmp_path: Path) -> None:
    """oslo.log sends by libc, to /dev/log."""
    new = tmp_path / 'dev'
    new.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / 'log'))
        daemon.settimeout(TIMEOUT)
        jobs = tmp_path / 'a.conf'
        jobs.write_text(json.dumps(scheduler.document(scheduler.executes('true'))))
        setup = _SYSLOG.format(new=new, socket=tmp_path / 'log')
        done = run_command(
            *('unshare', '--mount', 'sh', '-c', setup, 'sh'),
            *(*scheduler.command(), 'run', jobs, '--use-syslog'),
            *('--syslog-log-facility', 'LOG_LOCAL3'),
            *('--scheduler-runtime-dir', tmp_path / 'run'),
            env=environment(),
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        message = daemon.recv(65536).decode()
    # Facility 19, severity 6.
    assert message.startswith('<158>')
    assert 'exec exited with 0' in message


@needs_root
def test_a_link_in_place_of_the_rotated_file(tmp_path: Path) -> None:
    link = (
        "(folder / 'log').symlink_to(folder / 'victim')\n"
        f"os.lchown(folder / 'log', {NOBODY}, {NOBODY})\n"
        "logger.error('after')\n"
    )
    script = _ROTATED.replace("logger.error('after')\n", link)
    (tmp_path / 'victim').write_text('untouched')
    run_command(sys.executable, '-c', script, tmp_path, env=environment(), check=True)
    assert (tmp_path / 'victim').read_text() == 'untouched'


def test_the_directory_of_logs(local: Agent, source: Path, tmp_path: Path) -> None:
    local.backup(source, '--log-dir', tmp_path).check()
    assert 'committed' in (tmp_path / 'freezer.log').read_text()


# Links of other users


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / 'victim'
    folder.mkdir(mode=0o700)
    (folder / 'file').write_text('untouched')
    return folder


def foreign(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    os.lchown(link, NOBODY, NOBODY)
    return link


@needs_root
@pytest.mark.parametrize('name', ['file', 'new'])
def test_log_file_of_another_user(
    local: Agent, source: Path, tmp_path: Path, victim: Path, name: str
) -> None:
    link = foreign(tmp_path / 'log', victim / name)
    words = ('--path-to-backup', source, '--log-file', link)
    assert REFUSED in local.run('backup', *words).only_error
    assert [path.name for path in victim.iterdir()] == ['file']
    assert (victim / 'file').read_text() == 'untouched'
    assert local.store.is_untouched()
    # One of our own.
    own = tmp_path / 'own'
    own.symlink_to(victim / 'file')
    local.run('backup', *words, '--log-file', own).check()
    assert 'committed' in (victim / 'file').read_text()


@needs_root
def test_home_of_another_user(local: Agent, source: Path, victim: Path) -> None:
    foreign(Path(os.environ['HOME'], '.freezer'), victim)
    error = local.run('backup', '--path-to-backup', source).only_error
    assert REFUSED in error
    assert [path.name for path in victim.iterdir()] == ['file']


@needs_root
def test_results_and_metrics(
    local: Agent, source: Path, tmp_path: Path, victim: Path
) -> None:
    folder = foreign(tmp_path / 'folder', victim)
    for words in (
        ('--metadata-out', foreign(tmp_path / 'result', victim / 'file')),
        ('--metadata-out', folder / 'new'),
        ('--metrics-file', folder / 'new.prom'),
    ):
        result = local.run('backup', '--path-to-backup', source, *words)
        assert REFUSED in result.only_error
    assert [path.name for path in victim.iterdir()] == ['file']
    assert (victim / 'file').read_text() == 'untouched'
    assert local.store.is_untouched()


@needs_root
def test_journal_of_uploads(agent: Agent, source: Path, victim: Path) -> None:
    home = Path(os.environ['HOME'], '.freezer')
    home.mkdir()
    foreign(home / 'uploads', victim)
    agent.backup(source).check()
    assert 'no journal of uploads' in log().read_text()


@needs_root
@pytest.mark.parametrize('option', ['--scheduler-state-dir', '--scheduler-runtime-dir'])
def test_state_of_the_scheduler(tmp_path: Path, victim: Path, option: str) -> None:
    link = foreign(tmp_path / 'link', tmp_path)
    places = {
        '--scheduler-state-dir': tmp_path / 'state',
        '--scheduler-runtime-dir': tmp_path / 'run',
        '--scheduler-jobs-dir': tmp_path,
        option: link / 'victim',
    }
    words = [word for pair in places.items() for word in map(str, pair)]
    argv = (*scheduler.command(), 'start', '--no-api', '--no-daemon', *words)
    done = run_command(*argv, env=environment(), timeout=TIMEOUT)
    assert done.returncode == 1
    assert REFUSED in done.stderr


def test_standard_output_as_a_file(local: Agent, source: Path) -> None:
    words = ('--path-to-backup', source, '--log-file', '/dev/stdout')
    assert 'committed' in local.run('backup', *words).check().out
    words = ('--path-to-backup', source, '--metadata-out', '/dev/stdout')
    assert '"date": "' in local.run('backup', *words).check().out
