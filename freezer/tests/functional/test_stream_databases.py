"""The presets of ``--stream``, with real servers that are at work.

``FREEZER_TEST_DATABASE_RUNS=10`` makes each backup ten times, to each kind of storage.
"""

import contextlib
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import pages
from freezer.tests.agent import ROOT, Agent, LocalStore, command, private
from freezer.tests.functional.waiting import until
from freezer.tests.pages import Reader
from freezer.tests.servers import Server
from freezer.tests.servers.databases import Database, MariaDB, PostgreSQL

PAGE = ROOT / 'doc' / 'source' / 'user' / 'streams.rst'

_RUNS = int(os.environ.get('FREEZER_TEST_DATABASE_RUNS', '0'))


def _server(kind: type[Database]) -> Iterator[Database]:
    if not kind.available():
        pytest.skip(f'no {kind.title} ({kind.source})')
    with kind() as server:
        server.open_bank()
        yield server


@pytest.fixture(scope='module')
def mariadb() -> Iterator[Database]:
    yield from _server(MariaDB)


@pytest.fixture(scope='module')
def postgresql() -> Iterator[Database]:
    yield from _server(PostgreSQL)


@pytest.fixture
def server(preset: str, request: pytest.FixtureRequest) -> Database:
    name = 'mariadb' if preset.startswith('mariadb') else 'postgresql'
    found: Database = request.getfixturevalue(name)
    return found


def of(agent: Agent, preset: str, server: Database) -> Agent:
    """The agent, which finds the server with this program."""
    agent = agent.told('--engine', 'stream', '--stream', preset, **server.env)
    if isinstance(server, MariaDB):
        return agent.told(f'--stream-arguments={server.arguments}')
    return agent.told(PGDATABASE='bank')


CASES = [
    ('mariadb-backup', 's3', 'age'),
    ('mariadb-dump', 'local', ''),
    ('pg_basebackup', 'local', 'openssl'),
    ('pg_dump', 's3', ''),
]
if _RUNS:
    CASES = [
        (preset, place, encryption)
        for preset, _place, _encryption in CASES
        for place, encryption in (
            *(('s3', ''), ('s3', 'age')),
            *(('local', ''), ('local', 'age')),
        )
    ]


@pytest.mark.root
@pytest.mark.parametrize('run', range(_RUNS or 1))
@pytest.mark.parametrize('preset, place, encryption', CASES)
def test_a_backup_under_load_restores(
    preset: str,
    place: str,
    encryption: str,
    run: int,
    server: Database,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """A fresh server starts, and its books balance."""
    if place == 's3':
        agent = Agent(request.getfixturevalue('store'))
    else:
        agent = Agent(LocalStore(tmp_path / 'store'))
    if encryption:
        passphrase = private(tmp_path / 'pass', 'correct horse\n')
        agent = agent.told('--encryption', encryption)
        agent = agent.told('--encrypt-pass-file', passphrase)
    agent = of(agent, preset, server)
    levels = ['0', '1', '2'] if preset == 'mariadb-backup' else ['0']
    options = ['--incremental'] if len(levels) > 1 else []
    before = server.transfers()
    with server.busy():
        for level in levels:
            made = agent.run('backup', '--json', *options).check()
            assert str(made.document['curr_backup_level']) == level
            least = before
            before = count(server)
    assert server.transfers() >= before
    with restored(agent, preset, server, tmp_path) as fresh:
        found = fresh.transfers()
        assert least <= found <= server.transfers()
        assert least < found or least == 0
    listed = agent.nameless.run('info', '--long', '--json').check().document
    about = listed['backups'][0]['levels'][0]['about']
    assert about['tool'].startswith(preset)
    assert about['server'].split('.')[0] in ('10', '11', '15')


def count(server: Database) -> int:
    return int(server.sql('SELECT COUNT(*) FROM ledger'))


@contextlib.contextmanager
def restored(
    agent: Agent, preset: str, server: Database, folder: Path
) -> Iterator[Database]:
    """A fresh server with what was backed up."""
    kind = type(server)
    if preset.endswith('backup'):
        target = folder / 'restored'
        agent.restore(target).check()
        with kind(target) as fresh:
            yield fresh
        return
    with kind() as fresh:
        of(agent, preset, fresh).run('restore', '--overwrite').check()
        yield fresh


@pytest.mark.root
@pytest.mark.parametrize('preset', ['mariadb-backup', 'pg_basebackup'])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_agent_leaves_nothing(
    preset: str, number: signal.Signals, server: Database, local: Agent, tmp_path: Path
) -> None:
    """Neither a backup nor the program, which is in the middle of its output."""
    agent = of(local, preset, server).told('--upload-limit', '100K')
    agent = agent.told('--compression', 'none')
    with agent.start('backup', '--json') as process:
        until(lambda: running(process.pid, preset), process)
        until(local.store.files, process)
        process.send(number)
        assert process.wait().code == -number
        children = running(None, preset, server)
        deadline = time.monotonic() + 20
        while running(None, preset, server):
            assert time.monotonic() < deadline, children
            time.sleep(0.05)
    assert local.store.markers() == []
    # In another second than the one that was killed.
    time.sleep(1)
    made = of(local, preset, server).run('backup', '--json').check()
    assert made.document['curr_backup_level'] == 0
    assert len(local.store.markers()) == 1


def running(
    parent: int | None, program: str, server: Database | None = None
) -> list[int]:
    """The processes of a program: children of a process, or clients of a server."""
    found = []
    for path in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            _name, _, fields = (path / 'stat').read_text().rpartition(')')
            state, its_parent, *_ = fields.split()
            argv = (path / 'cmdline').read_text().split('\0')
            environment = (path / 'environ').read_text() if server else ''
            if state == 'Z' or os.path.basename(argv[0]) != program:
                continue
            if parent is not None and int(its_parent) != parent:
                continue
            if server and str(server.directory) not in ' '.join(argv) + environment:
                continue
            found.append(int(path.name))
    return found


@pytest.mark.root
@pytest.mark.parametrize('preset', ['mariadb-dump', 'pg_dump'])
def test_a_lost_connection(
    preset: str, server: Database, local: Agent, tmp_path: Path
) -> None:
    """The server closes it in the middle of the stream."""
    agent = of(local, preset, server).told('--upload-limit', '3M')
    agent = agent.told('--compression', 'none')
    numbers = ' UNION '.join(f'SELECT {n}' for n in range(20))
    server.sql(
        f"CREATE TABLE large AS SELECT a.id, REPEAT('x', 1000) AS pad FROM acct a, "
        f'({numbers}) b'
    )
    try:
        with agent.start('backup', '--json') as process:
            until(lambda: server.sql(SENDING[type(server)]).strip(), process)
            server.sql(DISCONNECT[type(server)])
            failed = process.wait()
        assert preset in failed.error
        assert 'exited with' in failed.error
        assert local.store.is_untouched()
    finally:
        server.sql('DROP TABLE large')


# The dump's connection while it reads the large table; a dump has others before.
SENDING: dict[type[Database], str] = {
    MariaDB: 'SELECT id FROM information_schema.processlist WHERE '
    "id <> CONNECTION_ID() AND info LIKE '%`large`%'",
    PostgreSQL: "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump' "
    "AND query LIKE 'COPY public.large%'",
}
DISCONNECT: dict[type[Database], str] = {
    MariaDB: "SELECT CONCAT('KILL ', MAX(id)) INTO @kill FROM "
    'information_schema.processlist WHERE id <> CONNECTION_ID(); '
    'EXECUTE IMMEDIATE @kill',
    PostgreSQL: 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE '
    "application_name = 'pg_dump'",
}


@pytest.mark.root
@pytest.mark.parametrize('preset', ['mariadb-backup'])
def test_a_server_that_was_restored_starts_a_new_chain(
    preset: str, server: Database, local: Agent, tmp_path: Path
) -> None:
    """Its log sequence numbers say nothing of what the backup has."""
    agent = of(local, preset, server)
    agent.run('backup', '--json', '--incremental').check()
    agent.restore(tmp_path / 'restored').check()
    with MariaDB(tmp_path / 'restored') as other:
        made = of(local, preset, other).run('backup', '--json', '--incremental').check()
    assert made.document['curr_backup_level'] == 0
    assert 'starting a new chain at level 0' in made.err


@pytest.mark.root
@pytest.mark.parametrize('preset', ['mariadb-backup'])
def test_the_streams_of_each_level(
    preset: str, server: Database, local: Agent, tmp_path: Path
) -> None:
    """Without the preset, a restore makes a file of each; none is printed alone. Other
    arguments might select other tables."""
    assert isinstance(server, MariaDB)
    agent = of(local, preset, server)
    for arguments, level in (('--parallel=2',), '0'), ((), '0'), ((), '1'):
        words = ' '.join([server.arguments, *arguments])
        other = agent.told(f'--stream-arguments={words}') if arguments else agent
        made = other.run('backup', '--json', '--incremental').check()
        assert str(made.document['curr_backup_level']) == level
    plain = local.told('--engine', 'stream')
    plain.restore(tmp_path / 'files').check()
    names = sorted(path.name for path in (tmp_path / 'files').iterdir())
    assert names == ['mariadb.1.mbstream', 'mariadb.mbstream']
    for result in (
        plain.run('dump'),
        plain.run('restore', '--restore-command', 'cat'),
    ):
        assert 'has only the changes since the level below' in result.error
    busy = tmp_path / 'files'
    assert 'is not empty' in agent.restore(busy).error
    other = local.told('--engine', 'stream', '--stream', 'pg_basebackup')
    assert 'was made with --stream mariadb-backup' in (
        other.restore(tmp_path / 'other').error
    )


@pytest.mark.root
def test_the_page(
    mariadb: MariaDB,
    postgresql: PostgreSQL,
    seaweedfs: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its commands, typed on a machine with both servers."""
    todo = [
        block
        for block in pages.blocks(PAGE)
        if block.said.get('run by', '').endswith(Path(__file__).name)
    ]
    assert len(todo) == 6
    machine, programs = tmp_path / 'web1', tmp_path / 'bin'
    for folder in (machine / 'root', machine / 'srv', programs):
        folder.mkdir(parents=True)
    shutil.copy(mariadb.directory / 'client.cnf', machine / 'root/backup.cnf')
    script = programs / 'freezer-agent'
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    script.chmod(0o755)
    for name, value in postgresql.env.items():
        monkeypatch.setenv(name, value)
    store = {
        'ENDPOINT': seaweedfs.endpoint,
        'ACCESS_KEY': seaweedfs.access_key,
        'SECRET_KEY': seaweedfs.secret_key,
    }
    seaweedfs.remove_bucket('backups')
    before = mariadb.transfers(), postgresql.transfers()
    try:
        with Reader(machine, store, [programs]) as reader:
            for block in todo:
                reader.follow(block)
    finally:
        seaweedfs.remove_bucket('backups')
    assert (mariadb.transfers(), postgresql.transfers()) == before
    assert (machine / 'srv/mysql/ibdata1').exists()
    assert (machine / 'srv/postgresql/PG_VERSION').exists()
