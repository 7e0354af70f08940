"""Mode mysql: backups of a MariaDB server that others write to."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from freezer.tests import agent, ledger, pages
from freezer.tests.agent import ROOT, LocalStore, Process, Result, private
from freezer.tests.servers.base import free_ports
from freezer.tests.servers.mariadb import MariaDb

PAGE = ROOT / 'doc/source/user/databases.rst'
_HERE = 'freezer/tests/functional/test_mysql.py'

pytestmark = pytest.mark.skipif(
    not MariaDb.available(), reason='mariadb-server is not installed'
)

#: backups under load, one after the other; more of them with another number
ROUNDS = int(os.environ.get('FREEZER_TEST_MYSQL_ROUNDS', '1'))
ON_SNAPSHOT = ('--snapshot', 'stopped')
WITHOUT = ('--mysql-lock-during-backup',)
_ENTRY_POINTS = """\
[freezer.snapshot]
stopped = freezer.tests.plugins.frozen:StoppedSnapshot
subvolume = freezer.tests.plugins.frozen:SubvolumeSnapshot
"""


@pytest.fixture(scope='module')
def server() -> Iterator[MariaDb]:
    with MariaDb() as server:
        ledger.build(server)
        yield server


@pytest.fixture(scope='module')
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory for PYTHONPATH, with which the agent knows the test snapshots."""
    folder = tmp_path_factory.mktemp('frozen')
    package = folder / 'frozen-1.dist-info'
    package.mkdir()
    (package / 'METADATA').write_text('Metadata-Version: 2.1\nName: frozen\nVersion: 1')
    (package / 'entry_points.txt').write_text(_ENTRY_POINTS)
    return str(folder)


class MysqlAgent:
    """The agent in mode mysql, for one server and one local container."""

    def __init__(self, server: MariaDb, snapshots: str, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.store = LocalStore(folder / 'store')
        self.conf = private(
            folder / 'client.cnf',
            f'[client]\nsocket = {server.socket}\nuser = root\n',
        )
        self.gate = folder / 'gate'
        self.gate.mkdir()
        self.env: dict[str, str | None] = {
            'PYTHONPATH': f'{snapshots}:{os.environ.get("PYTHONPATH", "")}:{ROOT}',
            'FREEZER_TEST_SERVER_PID': str(server.pid),
        }

    def arguments(self, *more: object) -> list[object]:
        given: list[object] = ['--action', 'backup', '--mode', 'mysql']
        if '--path-to-backup' not in more:
            given += ['--path-to-backup', self.server.data]
        if not {'--mysql-conf', '--mysql-port', '--config'} & set(map(str, more)):
            given += ['--mysql-conf', self.conf]
        return [*given, '--backup-name', 'db', *self.store.options, *more]

    def process(self, *more: object, gate: bool = False) -> Process:
        env = self.env | ({'FREEZER_TEST_GATE': str(self.gate)} if gate else {})
        return Process(*self.arguments(*more), env=env)

    def backup(self, *more: object) -> Result:
        with self.process(*more) as process:
            return process.wait()

    def restore(self, target: Path, *more: object) -> Result:
        given: tuple[object, ...] = ('--action', 'restore', '--mode', 'mysql')
        given += ('--backup-name', 'db', '--restore-abs-path', target)
        with Process(*given, *self.store.options, *more, env=self.env) as process:
            return process.wait()

    def until_reached(self, process: Process) -> None:
        _until(lambda: (self.gate / 'reached').exists() or process.ended, 'the gate')
        assert not process.ended, process.wait()

    def open_gate(self) -> None:
        (self.gate / 'go').touch()


def _until(done: Any, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f'no {what}'
        time.sleep(0.05)


@pytest.fixture
def mysql(server: MariaDb, snapshots: str, tmp_path: Path) -> MysqlAgent:
    return MysqlAgent(server, snapshots, tmp_path)


def holders(server: MariaDb) -> list[int]:
    """Connections of others."""
    return [
        row[0]
        for row in server.query(
            'SELECT id FROM information_schema.processlist '
            "WHERE id <> connection_id() AND command <> 'Daemon'"
        )
    ]


@pytest.mark.parametrize('number', range(ROUNDS))
def test_a_snapshot_under_load_restores(
    mysql: MysqlAgent, tmp_path: Path, number: int
) -> None:
    with ledger.load(mysql.server):
        time.sleep(1)
        made = mysql.backup(*ON_SNAPSHOT, '--metadata-out', '-').check()
    assert mysql.server.can_write()
    facts = made.document['application']
    assert facts['name'] == 'MariaDB'
    assert facts['version'].startswith(MariaDb.version())
    assert facts['binlog_file'].startswith('binlog.')
    assert facts['binlog_position'] > 0
    assert facts['gtid'].startswith('0-1-')
    assert sorted(mysql.server.data.parent.glob('.freezer-copy-*')) == []
    target = tmp_path / 'restored'
    mysql.restore(target).check()
    # The position is the end of the log when the snapshot was made.
    file, position = facts['binlog_file'], facts['binlog_position']
    assert (target / file).stat().st_size == position
    [(gtid,)] = mysql.server.query(f"SELECT BINLOG_GTID_POS('{file}', {position})")
    assert gtid == facts['gtid']
    with MariaDb(data=target) as fresh:
        assert ledger.check(fresh) > 0


def test_commits_that_are_in_memory_only(snapshots: str, tmp_path: Path) -> None:
    setting = 'innodb_flush_log_at_timeout'
    options = f'innodb_flush_log_at_trx_commit=0\n{setting}=2700\n'
    with MariaDb(options=options) as server:
        mysql = MysqlAgent(server, snapshots, tmp_path)
        server.query('CREATE TABLE probe.numbers (n int PRIMARY KEY) ENGINE=InnoDB')
        with server.session() as cursor:
            for number in range(100):
                cursor.execute('INSERT INTO probe.numbers VALUES (%s)', (number,))
        made = mysql.backup(*ON_SNAPSHOT, '--mysql-lock-timeout', '1')
        assert server.can_write()
        # A server that is idle may have written them all the same.
        if made.code != 0:
            reason = 'the last commits were not written within 1 s'
            assert reason in made.only_error
            server.query(f'SET GLOBAL {setting} = 1')
            mysql.backup(*ON_SNAPSHOT).check()
    mysql.restore(tmp_path / 'restored').check()
    with MariaDb(data=tmp_path / 'restored') as fresh:
        assert fresh.query('SELECT count(*) FROM probe.numbers') == ((100,),)


def test_the_level_records_the_server(mysql: MysqlAgent) -> None:
    made = mysql.backup(*ON_SNAPSHOT, '--incremental').check()
    assert 'application binlog position' in made.out
    given = ('--action', 'info', '--long', *mysql.store.options)
    with Process(*given, '--json') as process:
        [chain] = json.loads(process.wait().check().out)['backups']
    assert chain['levels'][0]['application']['name'] == 'MariaDB'
    with Process(*given) as process:
        assert 'name MariaDB, version 1' in ' '.join(
            process.wait().check().out.replace('│', '').split()
        )


def test_without_a_snapshot_it_has_to_be_asked_for(mysql: MysqlAgent) -> None:
    assert 'needs --snapshot' in mysql.backup().only_error
    both = mysql.backup(*ON_SNAPSHOT, *WITHOUT)
    assert 'is for backups without --snapshot' in both.only_error
    assert mysql.store.is_untouched()


def test_the_lock_lasts_while_the_files_are_read(
    mysql: MysqlAgent, tmp_path: Path
) -> None:
    # With clients that wait, InnoDB may write again, and the backup fails.
    with ledger.load(mysql.server):
        time.sleep(1)
    with mysql.process(*WITHOUT, '--upload-limit', '500000') as process:
        _until(lambda: mysql.store.files() or process.ended, 'upload')
        assert not mysql.server.can_write()
        result = process.wait()
    said = f'Writes to the server at {mysql.server.socket} are blocked until'
    assert said in result.check().err
    assert mysql.server.can_write()
    mysql.restore(tmp_path / 'restored').check()
    with MariaDb(data=tmp_path / 'restored') as fresh:
        assert ledger.check(fresh) > 0


def test_a_file_that_is_written_in_spite_of_the_lock(mysql: MysqlAgent) -> None:
    with mysql.process(*WITHOUT, '--upload-limit', '500000') as process:
        _until(lambda: mysql.store.files() or process.ended, 'upload')
        os.utime(mysql.server.data / 'ib_logfile0')
        failed = process.wait()
    assert 'ib_logfile0 was written while the backup read it' in failed.error
    assert mysql.store.markers() == []


def test_files_that_do_not_come_to_rest(mysql: MysqlAgent) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.1):
            os.utime(mysql.server.data / 'ibdata1')

    writer = threading.Thread(target=write)
    writer.start()
    try:
        failed = mysql.backup(*WITHOUT, '--mysql-rest-timeout', '3')
    finally:
        stop.set()
        writer.join()
    assert 'ibdata1 was still written 3 s after the lock' in failed.error
    assert mysql.store.is_untouched()
    assert mysql.server.can_write()


# The login and the server


def test_login_by_tcp_and_by_freezers_file(mysql: MysqlAgent) -> None:
    server = mysql.server
    login = f'host = 127.0.0.1\nport = {server.port}\nuser = {server.user}\n'
    login += f'password = {server.password}\n'
    for number, text in enumerate((login, f'[default]\n{login}', f'[client]\n{login}')):
        conf = private(mysql.folder / f'{number}.cnf', text)
        dry = mysql.backup(*ON_SNAPSHOT, '--mysql-conf', conf, '--dry-run')
        assert dry.check().err.count('Would back up') == 1
    given = ('--mysql-port', server.port, '--mysql-user', server.user, '--dry-run')
    mysql.env['MYSQL_PWD'] = server.password
    mysql.backup(*ON_SNAPSHOT, *given).check()


@pytest.mark.parametrize(
    'change, message',
    [
        ({'password': 'wrong/secret/1'}, "refuses the login of user 'freezer'"),
        ({'user': 'nobody'}, "refuses the login of user 'nobody'"),
        ({'user': 'weak'}, 'RELOAD'),
        ({'port': 0}, "Can't connect"),
    ],
)
def test_a_login_that_does_not_work(
    mysql: MysqlAgent, change: dict[str, Any], message: str
) -> None:
    server = mysql.server
    server.query(
        f"CREATE USER IF NOT EXISTS weak@'127.0.0.1' IDENTIFIED BY '{server.password}'"
    )
    login = {'user': server.user, 'password': server.password, 'port': server.port}
    login |= change
    login['port'] = login['port'] or free_ports(1)[0]
    lines = [f'{key} = {value}' for key, value in login.items()]
    text = '\n'.join(['[client]', 'host = 127.0.0.1', *lines])
    conf = private(mysql.folder / 'other.cnf', text)
    started = time.monotonic()
    failed = mysql.backup(*ON_SNAPSHOT, '--mysql-conf', conf, '--debug')
    assert time.monotonic() - started < 30
    assert message in failed.error
    assert server.password not in failed.err + failed.out
    assert mysql.store.is_untouched()
    assert server.can_write()


def test_a_path_without_the_data(mysql: MysqlAgent, tmp_path: Path) -> None:
    (tmp_path / 'other').mkdir()
    failed = mysql.backup(*ON_SNAPSHOT, '--path-to-backup', tmp_path / 'other')
    assert f'{tmp_path}/other does not hold the data directory' in failed.only_error
    assert str(mysql.server.data) in failed.only_error
    assert mysql.store.is_untouched()


@pytest.mark.parametrize(
    'given',
    [
        ('--exclude', 'ibdata*'),
        ('--exclude-larger-than', '1M'),
        ('--exclude-if-present', 'db.opt'),
        ('--files-from', '/dev/null'),
    ],
)
def test_options_that_leave_out_files(
    mysql: MysqlAgent, given: tuple[str, ...]
) -> None:
    failed = mysql.backup(*ON_SNAPSHOT, *given)
    assert f'{given[0][2:]} could leave out files' in failed.only_error
    assert mysql.store.is_untouched()


def test_data_in_other_places(snapshots: str, tmp_path: Path) -> None:
    redo = tmp_path / 'redo'
    redo.mkdir()
    options = f'innodb_log_group_home_dir={redo}\n'
    with MariaDb(data=tmp_path / 'data', options=options) as server:
        mysql = MysqlAgent(server, snapshots, tmp_path)
        failed = mysql.backup(*ON_SNAPSHOT)
        assert (
            f'innodb_log_group_home_dir of the server at {server.socket} is {redo}'
            in (failed.only_error)
        )
        (server.data / 'mysql/a').mkdir()
        (server.data / 'mysql/a/elsewhere').symlink_to('/usr')
        both = mysql.backup(*ON_SNAPSHOT, '--path-to-backup', tmp_path)
        assert 'elsewhere is a symbolic link' in both.only_error
        assert mysql.store.is_untouched()


def test_a_mount_beside_the_data(snapshots: str, tmp_path: Path) -> None:
    redo = tmp_path / 'redo'
    redo.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', redo], check=True)
    try:
        options = f'innodb_log_group_home_dir={redo}\n'
        with MariaDb(data=tmp_path / 'data', options=options) as server:
            mysql = MysqlAgent(server, snapshots, tmp_path)
            failed = mysql.backup(*ON_SNAPSHOT, '--path-to-backup', tmp_path)
    finally:
        subprocess.run(['umount', redo], check=True)
    assert f'{redo} is another file system' in failed.only_error


def test_a_directory_that_is_not_the_servers(snapshots: str, tmp_path: Path) -> None:
    """As with a server in a container that has its data in a directory of this name."""
    with MariaDb(data=tmp_path / 'data') as server:
        mysql = MysqlAgent(server, snapshots, tmp_path)
        server.data.rename(tmp_path / 'in the container')
        shutil.copytree(tmp_path / 'in the container', server.data)
        failed = mysql.backup(*ON_SNAPSHOT)
        assert f'no process uses the files in {server.data}' in failed.only_error
        shutil.rmtree(server.data)
        (tmp_path / 'in the container').rename(server.data)


# The lock


def test_a_statement_that_does_not_end(mysql: MysqlAgent) -> None:
    """It is named, and the others wait no longer than the time-out."""
    server = mysql.server
    insert = 'INSERT INTO bank.notes (text) SELECT sleep(200)'
    with server.session() as slow:
        runner = threading.Thread(target=lambda: _quietly(slow, insert))
        runner.start()
        try:
            for given in (ON_SNAPSHOT, WITHOUT):
                failed = mysql.backup(*given, '--mysql-lock-timeout', '1')
                assert 'no lock within 1 s: connection' in failed.only_error
                assert 'user root has been running a statement' in failed.only_error
                assert 'sleep' not in failed.err
                assert server.can_write()
        finally:
            server.query(f'KILL {slow.connection.thread_id()}')
            runner.join()
    assert mysql.store.is_untouched()


def _quietly(cursor: Any, statement: str) -> None:
    with contextlib.suppress(Exception):
        cursor.execute(statement)


def test_a_lock_that_is_lost(mysql: MysqlAgent) -> None:
    """With the snapshot, and while the files are read."""
    server = mysql.server
    with mysql.process(*ON_SNAPSHOT, gate=True) as process:
        mysql.until_reached(process)
        assert not server.can_write()
        for number in holders(server):
            server.query(f'KILL CONNECTION {number}')
        mysql.open_gate()
        failed = process.wait()
    assert 'the connection was lost while it held the lock' in failed.only_error
    assert list(server.data.parent.glob('.freezer-copy-*')) == []
    with mysql.process(*WITHOUT, '--upload-limit', '500000') as process:
        _until(lambda: mysql.store.files() or process.ended, 'upload')
        for number in holders(server):
            server.query(f'KILL CONNECTION {number}')
        failed = process.wait()
    assert 'the connection was lost while it held the lock' in failed.error
    assert mysql.store.markers() == []
    assert server.can_write()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_no_lock_remains_of_an_agent_that_ended(
    mysql: MysqlAgent, number: signal.Signals
) -> None:
    """While it waits for the lock, makes the snapshot, waits for the files to rest, and
    reads them."""
    server = mysql.server
    insert = 'INSERT INTO bank.notes (text) SELECT sleep(200)'
    with server.session() as slow:
        runner = threading.Thread(target=lambda: _quietly(slow, insert))
        runner.start()
        with mysql.process(*ON_SNAPSHOT) as process:
            _until(
                lambda: any(
                    'backup' in (row[0] or '').lower()
                    for row in server.query(
                        'SELECT info FROM information_schema.processlist '
                        'WHERE id <> connection_id()'
                    )
                ),
                'wait for the lock',
            )
            _end(process, number)
        _until(lambda: len(holders(server)) <= 1, 'end of the waiting connection', 30)
        server.query(f'KILL {slow.connection.thread_id()}')
        runner.join()
    assert server.can_write()
    with mysql.process(*ON_SNAPSHOT, gate=True) as process:
        mysql.until_reached(process)
        assert not server.can_write()
        _end(process, number)
    _until(server.can_write, 'write after the snapshot was interrupted', 30)
    with mysql.process(*WITHOUT) as process:
        _until(lambda: not server.can_write() or process.ended, 'lock')
        _end(process, number)
    _until(server.can_write, 'write after the wait was interrupted', 30)
    with mysql.process(*WITHOUT, '--upload-limit', '500000') as process:
        _until(lambda: mysql.store.files() or process.ended, 'upload')
        _end(process, number)
    _until(server.can_write, 'write after the reading was interrupted', 30)
    assert mysql.store.markers() == []
    # The next one removes what they left.
    mysql.backup(*ON_SNAPSHOT).check()
    assert list(server.data.parent.glob('.freezer-copy-*')) == []


def _end(process: Process, number: signal.Signals) -> None:
    assert not process.ended, process.wait()
    process.send(number)
    assert process.wait().code != 0
    # A killed one leaves the place of its second taken.
    time.sleep(1)


# TLS


def test_tls(snapshots: str, tmp_path: Path) -> None:
    """A required one is not left out, and a server of another authority is refused."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / 'ca.pem')
    other.cert_pem.write_to_path(tmp_path / 'other.pem')
    certificate = authority.issue_cert('db1.example.com')
    certificate.cert_chain_pems[0].write_to_path(tmp_path / 'cert.pem')
    certificate.private_key_pem.write_to_path(tmp_path / 'key.pem')
    options = f'ssl_cert={tmp_path}/cert.pem\nssl_key={tmp_path}/key.pem\n'
    with MariaDb(options=options) as server:
        mysql = MysqlAgent(server, snapshots, tmp_path)

        def dry(*lines: str) -> Result:
            conf = private(
                tmp_path / 'tls.cnf',
                '\n'.join(
                    ('[client]', 'host = 127.0.0.1', f'port = {server.port}', *lines)
                )
                + f'\nuser = {server.user}\npassword = {server.password}\n',
            )
            return mysql.backup(*ON_SNAPSHOT, '--dry-run', '--mysql-conf', conf)

        dry('ssl-mode = REQUIRED').check()
        dry(f'ssl-ca = {tmp_path}/ca.pem').check()
        for lines in (
            (f'ssl-ca = {tmp_path}/other.pem',),
            (f'ssl-ca = {tmp_path}/ca.pem', 'ssl-verify-server-cert'),
        ):
            assert 'certificate' in dry(*lines).only_error
        assert 'ssl-crl is not supported' in dry('ssl-crl = x').only_error
        assert 'ssl-key needs ssl-cert' in dry('ssl-key = x').only_error
        for line in ('ssl-mode = VERIFY_IDENTITY', 'ssl-verify-server-cert'):
            refused = dry(line, 'skip-ssl').only_error
            assert 'both demanded and switched off' in refused


def test_tls_that_the_server_does_not_have(mysql: MysqlAgent) -> None:
    server = mysql.server
    conf = private(
        mysql.folder / 'tls.cnf',
        f'[client]\nhost = 127.0.0.1\nport = {server.port}\nssl-mode = REQUIRED\n'
        f'user = {server.user}\npassword = {server.password}\n',
    )
    refused = mysql.backup(*ON_SNAPSHOT, '--mysql-conf', conf)
    assert "SSL is required but the server doesn't support it" in refused.only_error


# Restores, jobs of Freezer 19, and the documentation


def test_no_restore_into_a_running_server(mysql: MysqlAgent) -> None:
    mysql.backup(*ON_SNAPSHOT).check()
    data = mysql.server.data
    for target in (data, data.parent, data / 'bank'):
        refused = mysql.restore(target, '--overwrite')
        assert f'a running server uses {data}' in refused.only_error
    ledger.check(mysql.server)


def test_a_job_file_of_freezer_19(mysql: MysqlAgent, tmp_path: Path) -> None:
    server = mysql.server
    conf = private(
        tmp_path / 'freezer.cnf',
        f'[default]\nhost = 127.0.0.1\nport = {server.port}\n'
        f'user = {server.user}\npassword = {server.password}\n',
    )
    job = private(
        tmp_path / 'job.ini',
        f'[job]\naction = backup\nmode = mysql\nengine_name = tar\nsnapshot = stopped\n'
        f'mysql_conf = {conf}\npath_to_backup = {server.data}\nbackup_name = db\n'
        f'storage = local\ncontainer = {tmp_path}/store\nlvm_snapsize = 1G\n'
        f'sql_server_conf = False\nno_incremental = True\n',
    )
    with Process('--config', job, env=mysql.env) as process:
        process.wait().check()
    target = tmp_path / 'restored'
    mysql.restore(target).check()
    with MariaDb(data=target) as fresh:
        ledger.check(fresh)


def test_the_page(tmp_path: Path) -> None:
    todo = [
        dataclasses.replace(
            block, said={k: v for k, v in block.said.items() if k != 'run by'}
        )
        for block in pages.blocks(PAGE)
        if block.said.get('run by') == _HERE or 'file' in block.said
    ]
    assert len(todo) == 3
    machine, programs = tmp_path / 'web1', tmp_path / 'bin'
    for folder in ('etc/freezer', 'srv', 'tmp', 'var/backups', 'var/lib'):
        (machine / folder).mkdir(parents=True)
    programs.mkdir()
    script = programs / 'freezer-agent'
    script.write_text(f'#!/bin/sh\nexec {shlex.join(agent.command())} "$@"\n')
    script.chmod(0o755)
    nowhere = {'ENDPOINT': 'http://nowhere', 'ACCESS_KEY': '', 'SECRET_KEY': ''}
    with (
        MariaDb(data=machine / 'var/lib/mysql') as server,
        pages.Reader(machine, nowhere, [programs]) as reader,
    ):
        ledger.build(server)
        private(
            machine / 'etc/freezer/mysql.cnf',
            f'[client]\nsocket = {server.socket}\nuser = root\n',
        )
        for block in todo:
            reader.follow(block)
    with MariaDb(data=machine / 'srv/mysql') as fresh:
        ledger.check(fresh)
