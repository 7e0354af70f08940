"""The package of driver.rst, installed beside the agent, which does not know it."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from freezer.tests.agent import ROOT, private

ALL = ('--mode', 'sqlite', '--engine', 'sqldump', '--snapshot', 'copy')
ROWS = [('a@example.com', 'line 1\nline 2;'), ("o'b@example.com", '')]

Run = Callable[..., 'subprocess.CompletedProcess[str]']


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run a command of this tree, with the package."""

    def run(
        *argv: object, module: str = 'freezer.main', **env: str
    ) -> 'subprocess.CompletedProcess[str]':
        return subprocess.run(
            [sys.executable, '-m', module, *map(str, argv)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {'PYTHONPATH': f'{installed}:{ROOT}'} | env,
        )

    return run


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / 'app' / 'users.sqlite'
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE users (email TEXT, note TEXT)')
        connection.executemany('INSERT INTO users VALUES (?, ?)', ROWS)
    return path


@pytest.fixture
def storage(tmp_path: Path) -> Sequence[object]:
    container = ('--container', tmp_path / 'backups.sqlite')
    return ('--storage', 'sqlite', *container, '--backup-name', 'users')


def rows(path: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute('SELECT * FROM users').fetchall()


def test_help_shows_the_options(run: Run) -> None:
    text = run('--help').stdout
    for heading in ('Storage sqlite', 'Engine sqldump', 'Mode sqlite', 'Snapshot copy'):
        assert f'{heading}:' in text
    for option in ('sqlite-busy-timeout', 'sqldump-mask', 'timeout', 'copy-directory'):
        assert text.count(f'  --{option} ') == 1


def test_backup_and_restore_through_all_four(
    run: Run, database: Path, storage: Sequence[object], tmp_path: Path
) -> None:
    given = (*ALL, *storage, '--path-to-backup', database)
    before = set(database.parent.iterdir())
    dead = database.parent / '.freezer-copy-4194305-x'
    dead.mkdir()
    made = run('--action', 'backup', *given, '--timeout', '1')
    assert made.returncode == 0, made.stderr
    # Neither the snapshot nor that of a run that died.
    assert set(database.parent.iterdir()) == before
    target = tmp_path / 'restored'
    restore = ('--action', 'restore', '--engine', 'sqldump', '--restore-abs-path')
    restored = run(*restore, target, *storage)
    assert restored.returncode == 0, restored.stderr
    assert rows(target / 'users.sqlite') == ROWS


def test_what_else_can_be_done_with_the_backup(
    run: Run, database: Path, storage: Sequence[object], tmp_path: Path
) -> None:
    given = (*ALL, *storage, '--path-to-backup', database)
    assert run('--action', 'backup', *given).returncode == 0
    read = (*storage, '--engine', 'sqldump', '--verify-data')
    verified = run('--action', 'verify', *read)
    assert verified.returncode == 0, verified.stderr
    assert 'Verified 1 backup' in verified.stderr
    shown = run('--action', 'info', *storage[:4], '--json')
    assert shown.returncode == 0, shown.stderr
    assert '"sqldump"' in shown.stdout
    target = tmp_path / 'restored'
    restore = ('--action', 'restore', '--engine', 'sqldump', *storage)
    restore += ('--restore-abs-path', target)
    for refused, purpose in (
        (run('--action', 'list', *read), 'action list'),
        (run(*restore, '--include', 'users.sqlite'), 'include'),
    ):
        assert refused.returncode == 1
        said = f'{purpose}: backups of engine sqldump do not consist of files'
        assert said in refused.stderr
    assert not target.exists()
    target.mkdir()
    (target / 'users.sqlite').write_bytes(b'something else')
    assert 'not empty' in run(*restore).stderr
    over = run(*restore, '--overwrite')
    assert over.returncode == 0, over.stderr
    assert rows(target / 'users.sqlite') == ROWS


def test_a_mode_that_cannot_hold_the_application(
    run: Run, database: Path, storage: Sequence[object]
) -> None:
    given = (*ALL, *storage, '--path-to-backup', database, '--timeout', '0')
    with contextlib.closing(sqlite3.connect(database)) as writer:
        writer.execute('BEGIN IMMEDIATE')
        failed = run('--action', 'backup', *given)
    assert failed.returncode == 1
    assert 'database is locked' in failed.stderr
    assert list(database.parent.iterdir()) == [database]


def test_job_file_secret_file_and_environment(
    run: Run, database: Path, storage: Sequence[object], tmp_path: Path
) -> None:
    key = tmp_path / 'key'
    key.write_bytes(b'secret')
    key.chmod(0o644)
    job = tmp_path / 'job.ini'
    job.write_text(
        f'[job]\nmode = sqlite\nengine = sqldump\nsnapshot = copy\ntimeout = 1\n'
        f'path_to_backup = {database}\nsqldump_mask = users.email\n'
        f'sqldump_mask_key_file = {key}\ncopy_directory = {tmp_path}\n'
    )
    made = run('--config', job, *storage)
    assert made.returncode == 0, made.stderr
    assert f'{key} holds a secret' in made.stderr
    target = tmp_path / 'restored'
    restore = ('--action', 'restore', '--config', job, '--restore-abs-path', target)
    assert run(*restore, *storage).returncode == 0
    found = rows(target / 'users.sqlite')
    assert [note for _email, note in found] == [note for _email, note in ROWS]
    assert all(len(email) == 64 for email, _note in found)
    refused = run('--config', job, *storage, SQLITE_BUSY_TIMEOUT='soon')
    assert refused.returncode == 1
    assert 'SQLITE_BUSY_TIMEOUT: ' in refused.stderr
    stronger = run(
        '--config',
        job,
        *storage,
        SQLITE_BUSY_TIMEOUT='soon',
        OS_SQLITE__BUSY_TIMEOUT='1',
    )
    assert stronger.returncode == 0, stronger.stderr


def test_the_scheduler_knows_the_keys(run: Run, tmp_path: Path) -> None:
    action = 'mode = sqlite\nsnapshot = {}\nengine_name = sqldump\ntimeout = {}\n'
    rest = (
        'storage = sqlite\ncontainer = b\nsqldump_mask = users.email\n'
        f'path_to_backup = /db\nsqldump_mask_key_file = {tmp_path}/key\n'
    )
    private(tmp_path / 'key', 'secret')
    for snapshot, timeout, problem in (
        ('copy', '3', ''),
        ('copi', '3', "--snapshot 'copi' is not available; did you mean copy?"),
        ('copy', 'x', 'timeout'),
    ):
        path = tmp_path / 'job.conf'
        text = action.format(snapshot, timeout) + rest
        path.write_text(
            '{"job_actions": [{"freezer_action": {'
            + ', '.join(
                f'"{line.split(" = ")[0]}": "{line.split(" = ")[1]}"'
                for line in text.splitlines()
            )
            + '}}], "job_schedule": {}, "job_id": "a"}'
        )
        done = run('validate', path, module='freezer.scheduler.main')
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == (not problem), said
        assert problem in said


def test_one_database_is_one_place(run: Run, tmp_path: Path) -> None:
    job = tmp_path / 'job.ini'
    job.write_text(
        f'[job]\naction = info\n'
        f'[storage:a]\nstorage = sqlite\ncontainer = {tmp_path}/b.sqlite\n'
        f'[storage:b]\nstorage = sqlite\ncontainer = {tmp_path}/./b.sqlite\n'
        f'sqlite_busy_timeout = 3\n'
    )
    refused = run('--config', job)
    assert 'are the same container' in refused.stderr
