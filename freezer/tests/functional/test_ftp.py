"""The agent with storages ftp and ftps."""

import os
import signal
import time
from pathlib import Path

import pytest

from freezer.tests import agent, trees
from freezer.tests.agent import Agent, FtpStore, missed
from freezer.tests.servers.ftpd import PASSWORD, Pyftpd


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / 'source'
    trees.make_tree(source, seed=5, files=30)
    (source / 'long').write_bytes(os.urandom(5 * 2**20))
    return source


@pytest.fixture
def store(pyftpd_tls: Pyftpd, tmp_path: Path) -> FtpStore:
    return FtpStore(pyftpd_tls, tmp_path / 'backups')


def test_levels_restore_and_are_removed(
    store: FtpStore, source: Path, tmp_path: Path
) -> None:
    ours = Agent(store)
    ours.increment(source).check()
    before = trees.describe(source)
    (source / 'new').write_text('new')
    ours.increment(source).check()
    for level, state in enumerate((before, trees.describe(source))):
        target = tmp_path / f'level {level}'
        date = agent.iso(int(store.markers()[level].split('/')[4].partition('_')[2]))
        ours.restore(target, '--restore-from-date', date).check()
        assert missed(state, target) == []
    ours.run('verify', '--verify-data').check()
    ours.backup(source).check()
    ours.run('admin', '--keep-last', '1').check()
    # No empty folder of the other chain remains.
    assert len(list(store.directory.glob('*/tar/*/*'))) == 2


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_ends_early_leaves_nothing_for_long(
    store: FtpStore, source: Path, how: signal.Signals
) -> None:
    slow = Agent(store, options=['--upload-limit', '100000'])
    with slow.start('backup', '--path-to-backup', source) as process:
        end = time.monotonic() + 60
        while not any(path.endswith('.partial') for path in store.files()):
            assert time.monotonic() < end, process.output()
            time.sleep(0.05)
        process.send(how)
        process.wait()
    assert bool(store.files()) == (how == signal.SIGKILL)
    assert store.markers() == []
    Agent(store, 'next').backup(source).check()
    assert {path.split('/')[2] for path in store.files()} == {f'{agent.HOST}_next'}


def test_mistakes_are_one_line(pyftpd_tls: Pyftpd, tmp_path: Path) -> None:
    def error(**changes: object) -> str:
        return (
            Agent(FtpStore(pyftpd_tls, tmp_path / 'x', **changes))
            .run('info')
            .only_error
        )

    assert 'ftp-ca-bundle /no: No such file' in error(ftp_ca_bundle='/no')
    assert 'no certificates in PEM' in error(ftp_ca_bundle='/etc/passwd')
    key = tmp_path / 'key'
    key.touch(mode=0o600)
    assert 'ftp-keyfile needs ftp-certfile' in error(ftp_keyfile=key)
    assert 'not a certificate with' in error(ftp_certfile='/etc/passwd')
    assert 'not the name or address of a host' in error(ftp_host='u@h:/path')
    assert 'the password of freezer is missing' in error(ftp_password='')
    nobody = error(ftp_host='nobody.invalid', ftp_retry_budget=0)
    assert 'check ftp-host' in nobody
    (tmp_path / 'x').touch()
    assert error().endswith('/x is not a directory: name another container')


def test_a_password_from_a_file_and_the_environment(
    pyftpd_tls: Pyftpd, source: Path, tmp_path: Path
) -> None:
    secret = tmp_path / 'secret'
    secret.write_text(f'{PASSWORD}\n')
    secret.chmod(0o600)
    options = pyftpd_tls.options(ftp_password_file=secret)
    del options['ftp_password']
    by_file = FtpStore(pyftpd_tls, tmp_path / 'backups')
    by_file.options = (
        *('--storage', 'ftps', '--container', str(tmp_path / 'backups')),
        *pyftpd_tls.arguments(options),
    )
    ours = Agent(by_file).told('--debug')
    done = ours.backup(source).check()
    at = by_file.options.index('--ftp-password-file')
    by_file.options = (*by_file.options[:at], *by_file.options[at + 2 :])
    other = Agent(by_file).told('--debug', FTP_PASSWORD=PASSWORD)
    again = other.backup(source).check()
    log = Path(os.environ['HOME'], '.freezer', 'freezer.log').read_text()
    for text in (done.out, done.err, again.out, again.err, log):
        assert PASSWORD not in text


def test_a_warning_without_tls(pyftpd: Pyftpd, source: Path, tmp_path: Path) -> None:
    done = Agent(FtpStore(pyftpd, tmp_path / 'backups')).backup(source).check()
    assert 'storage ftp is not encrypted' in done.err
