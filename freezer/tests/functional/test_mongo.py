"""Mode mongo, against a double of mongod: no package of Debian has one."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests.agent import LocalStore, Process, Result, private
from freezer.tests.servers.base import free_ports
from freezer.tests.servers.mongod import Mongod

LOCK = ('--mongo-fsync-lock',)
SECONDARY = {'ismaster': False, 'secondary': True, 'setName': 'rs0'}

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / 'db'
    path.mkdir()
    (path / 'WiredTiger.wt').write_bytes(b'content')
    return path


@pytest.fixture
def mongod(data: Path) -> Iterator[Mongod]:
    server = Mongod(str(data))
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / 'store')


@pytest.fixture
def process(mongod: Mongod, data: Path, store: LocalStore) -> Callable[..., Process]:
    def process(*more: object, **env: str) -> Process:
        given: list[object] = ['--action', 'backup', '--mode', 'mongo']
        given += ['--backup-name', 'db', *store.options]
        if '--path-to-backup' not in more:
            given += ['--path-to-backup', data]
        if '--mongo-uri' not in more and not env:
            given += ['--mongo-uri', mongod.uri]
        return Process(*given, *more, env={**env})

    return process


@pytest.fixture
def run(process: Callable[..., Process]) -> Run:
    def run(*more: object, **env: str) -> Result:
        with process(*more, **env) as running:
            return running.wait()

    return run


def test_a_backup_under_the_lock(
    run: Run, mongod: Mongod, store: LocalStore, tmp_path: Path
) -> None:
    made = run(*LOCK, '--metadata-out', '-').check()
    assert 'are blocked until the backup has been read' in made.err
    assert made.document['application'] == {
        'name': 'MongoDB',
        'version': '6.0.20',
        'role': 'primary',
    }
    assert mongod.locks == 0
    assert mongod.ran.index('fsync') < mongod.ran.index('fsyncUnlock')
    target = tmp_path / 'restored'
    restore = ('--action', 'restore', '--mode', 'mongo', '--backup-name', 'db')
    with Process(*restore, '--restore-abs-path', target, *store.options) as running:
        running.wait().check()
    assert (target / 'WiredTiger.wt').read_bytes() == b'content'


def test_no_restore_into_a_running_server(
    run: Run, mongod: Mongod, store: LocalStore
) -> None:
    run(*LOCK).check()
    given = ('--action', 'restore', '--mode', 'mongo', '--backup-name', 'db')
    target = ('--overwrite', '--restore-abs-path', mongod.data)
    with Process(*given, *target, *store.options) as running:
        assert 'a running mongod uses' in running.wait().only_error


@pytest.mark.parametrize(
    'hello, role',
    [
        (SECONDARY, 'secondary'),
        ({'ismaster': True}, 'standalone'),
        ({'ismaster': True, 'setName': 'rs0'}, 'primary'),
    ],
)
def test_roles(run: Run, mongod: Mongod, hello: dict[str, Any], role: str) -> None:
    mongod.hello = hello
    made = run(*LOCK, '--metadata-out', '-').check()
    assert made.document['application']['role'] == role


@pytest.mark.parametrize(
    'hello, role',
    [
        ({'ismaster': True, 'msg': 'isdbgrid'}, 'mongos'),
        ({'ismaster': False, 'arbiterOnly': True, 'setName': 'rs0'}, 'an arbiter'),
        ({'ismaster': False, 'setName': 'rs0'}, 'not ready'),
    ],
)
def test_servers_without_data(
    run: Run, mongod: Mongod, store: LocalStore, hello: dict[str, Any], role: str
) -> None:
    mongod.hello = hello
    assert role in run(*LOCK).only_error
    assert store.is_untouched()


def test_what_is_refused(
    run: Run, mongod: Mongod, store: LocalStore, tmp_path: Path
) -> None:
    assert 'mode mongo needs --snapshot' in run().only_error
    assert 'exclude could leave out' in run(*LOCK, '--exclude', '*.wt').only_error
    (tmp_path / 'other').mkdir()
    elsewhere = run(*LOCK, '--path-to-backup', tmp_path / 'other')
    assert 'other does not hold the data directory' in elsewhere.only_error
    assert mongod.data in elsewhere.only_error
    mongod.locks = 1
    assert 'is locked already' in run(*LOCK).only_error
    # The lock is somebody else's.
    assert mongod.locks == 1
    mongod.locks = 0
    mongod.engine = 'inMemory'
    assert 'has the storage engine inMemory' in run(*LOCK).only_error
    mongod.engine = 'wiredTiger'
    # As one in a container that has its data in a directory of this name.
    data = Path(mongod.data)
    data.rename(tmp_path / 'in the container')
    shutil.copytree(tmp_path / 'in the container', data)
    assert f'no process uses the files in {data}' in run(*LOCK).only_error
    mongod.failing['getCmdLineOpts'] = (13, 'not authorized')
    assert 'grant it the role clusterMonitor' in run(*LOCK).only_error
    assert store.is_untouched()


def test_a_server_that_does_not_answer(run: Run, store: LocalStore) -> None:
    """The password is not shown."""
    (port,) = free_ports(1)
    for uri in (f'mongodb://u:secret1@127.0.0.1:{port}', 'mongodb://u:secret1@a,b/'):
        started = time.monotonic()
        failed = run(*LOCK, '--mongo-timeout', '1', '--debug', MONGO_URI=uri)
        assert time.monotonic() - started < 30
        said = 'mongo-uri' if ',' in uri else f'mongod at 127.0.0.1:{port} does not'
        assert said in failed.error
        assert 'secret1' not in failed.err + failed.out
    assert store.is_untouched()


def test_a_lock_that_is_lost(
    process: Callable[..., Process], mongod: Mongod, data: Path, store: LocalStore
) -> None:
    (data / 'large').write_bytes(bytes(range(256)) * 20000)
    given = (*LOCK, '--compression', 'none', '--upload-limit', '2000000')
    with process(*given) as running:
        _until(lambda: bool(store.files()) or running.ended)
        assert mongod.locks == 1
        mongod.locks = 0
        failed = running.wait()
    assert 'the lock was lost' in failed.error
    assert store.markers() == []


def test_a_signal_releases_the_lock(
    process: Callable[..., Process], mongod: Mongod, data: Path, store: LocalStore
) -> None:
    (data / 'large').write_bytes(bytes(range(256)) * 20000)
    given = (*LOCK, '--compression', 'none', '--upload-limit', '2000000')
    with process(*given) as running:
        _until(lambda: bool(store.files()) or running.ended)
        running.send(signal.SIGTERM)
        assert running.wait().code != 0
    assert mongod.locks == 0
    assert store.markers() == []
    # SIGKILL cannot: the next run reports it.
    with process(*given) as running:
        _until(lambda: bool(mongod.locks) or running.ended)
        running.send(signal.SIGKILL)
        running.wait()
    with process(*given) as running:
        assert 'db.fsyncUnlock()' in running.wait().only_error


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_file_of_freezer_19(
    mongod: Mongod, data: Path, store: LocalStore, tmp_path: Path
) -> None:
    job = private(
        tmp_path / 'job.ini',
        f'[job]\naction = backup\nmode = mongo\nengine_name = tar\nstorage = local\n'
        f'container = {tmp_path}/store\nbackup_name = db\npath_to_backup = {data}\n'
        f'mongo_fsync_lock = True\nmongo_uri = {mongod.uri}\nmysql_conf = False\n',
    )
    with Process('--config', job) as running:
        running.wait().check()
    assert len(store.markers()) == 1
