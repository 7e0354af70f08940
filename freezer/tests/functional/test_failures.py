"""What fails, fails: exit status, one line that says why, nothing left, or listed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import (
    PART,
    Agent,
    LocalStore,
    Process,
    S3Store,
    in_parts,
    job_file,
    missed,
    wrap_tar,
)
from freezer.tests.proxy import BROKEN, DENIED, Answer, Proxy, Request

HASTY = ('--s3-retry-budget', '3')


def until(condition: Callable[[], object], process: Process) -> None:
    """Wait for something that a running agent will bring about."""
    deadline = time.monotonic() + 60
    while not condition():
        assert not process.ended, process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not Path(f'/proc/{pid}').exists()


def until_gone(pid: int) -> None:
    """Wait for one that was killed, and whose parent is."""
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# During an upload


@pytest.mark.parametrize('answer', [DENIED, BROKEN], ids=['403', '500'])
def test_part_that_fails_for_good(
    proxied: S3Store, proxy: Proxy, big: Path, tmp_path: Path, answer: Answer
) -> None:
    agent = in_parts(Agent(proxied)).told(*HASTY)
    proxy.answer(lambda request: request.part == 3, answer)
    error = agent.backup(big).error
    assert 'upload part 3' in error
    assert f'HTTP {answer.status}' in error
    assert proxied.is_untouched()
    assert [r for r in proxy.requests if r.method == 'DELETE' and 'uploadId' in r.query]
    # It was the part, and nothing else.
    proxy.clear()
    agent.backup(big).check()
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(big), tmp_path / 'target') == []


@pytest.fixture
def mortal() -> Iterator[servers.SeaweedFS]:
    """A server that no other test needs."""
    with servers.SeaweedFS() as server:
        yield server


def test_server_that_dies_halfway(mortal: servers.SeaweedFS, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(12 * PART))
    store = S3Store(mortal)
    log = tmp_path / 'log'
    agent = in_parts(Agent(store)).told(*HASTY, '--log-file', log)
    limited = agent.told('--upload-limit', '10M')
    with limited.start('backup', '--path-to-backup', source) as process:
        until(store.open_uploads, process)
        ((_key, upload_id),) = mortal.uploads(store.bucket)
        mortal.kill()
        result = process.wait()
    assert store.endpoint in result.error
    # Nobody could clean up: what remains is named.
    assert upload_id in log.read_text() + result.err
    mortal.start()
    assert store.markers() == []
    assert 'No matching backup' in agent.restore(tmp_path / 'target').error
    # The next run cleans up.
    agent.backup(source).check()
    assert store.open_uploads() == []
    assert len(store.markers()) == 1
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_during_an_upload(
    proxied: S3Store, proxy: Proxy, big: Path, number: signal.Signals
) -> None:
    held = proxy.hold(lambda request: request.part == 3)
    with in_parts(Agent(proxied)).start('backup', '--path-to-backup', big) as process:
        held.wait()
        process.send(number)
        held.release()
        result = process.wait()
    assert result.code == -number, result
    assert result.err == f'Critical Error: interrupted by {number.name}\n'
    assert proxied.is_untouched()


@pytest.mark.parametrize(
    'number, stalled, undone',
    [
        pytest.param(
            signal.SIGTERM, lambda request: request.part == 3, True, id='a part'
        ),
        pytest.param(
            signal.SIGINT, lambda request: bool(request.part), True, id='every part'
        ),
        pytest.param(
            signal.SIGHUP,
            lambda request: request.part == 3 or request.method == 'DELETE',
            False,
            id='a part and the abort',
        ),
        pytest.param(
            signal.SIGTERM,
            lambda request: request.path.endswith('/claim'),
            True,
            id='before it begins',
        ),
    ],
)
def test_signal_while_the_store_does_not_answer(
    proxied: S3Store,
    proxy: Proxy,
    big: Path,
    tmp_path: Path,
    number: signal.Signals,
    stalled: Callable[[Request], bool],
    undone: bool,
) -> None:
    """Faults 3 and 33: it ends all the same, and the next run finds what is left."""
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    agent = in_parts(Agent(proxied, env={'TMPDIR': str(scratch)}))
    held = proxy.hold(stalled)
    with agent.start('backup', '--path-to-backup', big) as process:
        held.wait()
        sent = time.monotonic()
        process.send(number)
        result = process.wait()
    # Not the read timeout, which is 60 s.
    assert time.monotonic() - sent < 20
    assert result.code == -number, result
    said = f'Critical Error: interrupted by {number.name}'
    if undone:
        assert result.err == f'{said}\n'
        assert proxied.is_untouched()
    else:
        assert result.err.startswith(f'{said}; not all that was begun')
        assert len(result.err.splitlines()) == 1
    assert list(scratch.iterdir()) == []
    proxy.clear()
    assert agent.run('info', '--metadata-out', '-').check().document['backups'] == []
    agent.run('admin', '--remove-older-than', '1').check()
    assert proxied.is_untouched()
    held.release()


# At this rate a part takes hours.
CRAWL = '500'


@pytest.mark.parametrize('several', [False, True])
def test_signal_while_an_upload_is_held_back(
    store: S3Store, big: Path, tmp_path: Path, several: bool
) -> None:
    """It does not wait until what is under way has been sent."""
    local = LocalStore(tmp_path / 'local')
    options = store.options
    if several:
        cloud: dict[str, object] = {k.lower(): v for k, v in store.env.items()}
        cloud |= {'storage': 's3', 'container': store.container}
        disk: dict[str, object] = {'storage': 'local', 'container': local.directory}
        sections = {'storage:disk': disk, 'storage:cloud': cloud}
        options = ('--config', str(job_file(tmp_path / 'job', sections)))
    with Process(
        *(*options, '--path-to-backup', big, '--upload-limit', CRAWL),
        *('--compression', 'none', '--max-segment-size', PART),
        env=store.env,
    ) as process:
        until(store.open_uploads, process)
        process.send(signal.SIGTERM)
        result = process.wait()
    assert result.code == -signal.SIGTERM, result
    assert store.is_untouched()
    assert local.is_untouched()


def test_signal_while_a_download_is_held_back(
    proxied: S3Store, proxy: Proxy, big: Path, tmp_path: Path
) -> None:
    agent = in_parts(Agent(proxied))
    agent.backup(big).check()
    proxy.clear()
    target = ('--restore-abs-path', tmp_path / 'target')
    with agent.start('restore', *target, '--download-limit', CRAWL) as process:
        until(lambda: [r for r in proxy.requests if r.path.endswith('/data')], process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM


def test_sigkill_during_an_upload(
    proxied: S3Store, proxy: Proxy, big: Path, tmp_path: Path
) -> None:
    agent = in_parts(Agent(proxied))
    held = proxy.hold(lambda request: request.part == 3)
    with agent.start('backup', '--path-to-backup', big) as process:
        held.wait()
        process.send(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
    held.release()
    assert proxied.markers() == []
    assert proxied.open_uploads() != []
    assert 'No matching backup' in agent.restore(tmp_path / 'target').error
    # Nobody is left to clean up but the next run.
    proxy.clear()
    made = agent.increment(big).check()
    assert made.document['curr_backup_level'] == 0
    assert proxied.open_uploads() == []
    stamp = made.document['time_stamp']
    assert {path.split('/')[3] for path in proxied.files()} == {str(stamp)}
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(big), tmp_path / 'target') == []


def test_sigkill_between_data_and_marker(
    proxied: S3Store, proxy: Proxy, source: Path
) -> None:
    agent = Agent(proxied)
    held = proxy.hold(
        lambda request: request.method == 'PUT' and '/metadata/' in request.path
    )
    with agent.start('backup', '--path-to-backup', source) as process:
        held.wait()
        before = set(proxied.sizes())
        assert any(path.endswith('/data') for path in before)
        assert proxied.markers() == []
        process.send(signal.SIGKILL)
        process.wait()
    assert agent.run('info', '--metadata-out', '-').check().document['backups'] == []
    agent.run('admin', '--remove-older-than', '1', '--dry-run').check()
    assert set(proxied.sizes()) == before
    agent.run('admin', '--remove-older-than', '1').check()
    assert proxied.is_untouched()


# The source


def test_tar_that_is_killed(proxied: S3Store, proxy: Proxy, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    # More than can be under way, so that tar has to wait in the middle.
    (source / 'file').write_bytes(os.urandom(12 * PART))
    pid = tmp_path / 'pid'
    env = wrap_tar(tmp_path / 'bin', f'echo $$ > {pid}; exec $TAR "$@"')
    held = proxy.hold(lambda request: bool(request.part))
    agent = in_parts(Agent(proxied)).told(**env)
    with agent.start('backup', '--path-to-backup', source) as process:
        held.wait()
        os.kill(int(pid.read_text()), signal.SIGKILL)
        held.release()
        result = process.wait()
    assert 'tar' in result.error
    assert '-9' in result.error
    assert proxied.is_untouched()


def test_no_tar_outlives_the_agent(local: Agent, source: Path, tmp_path: Path) -> None:
    pid = tmp_path / 'pid'
    endless = f'echo $$ > {pid}.new; mv {pid}.new {pid}; exec cat /dev/zero'
    agent = local.told(**wrap_tar(tmp_path / 'bin', endless))
    with agent.start('backup', '--path-to-backup', source) as process:
        until(pid.exists, process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert gone(int(pid.read_text()))
    assert local.store.is_untouched()


def test_no_command_outlives_the_agent(local: Agent, tmp_path: Path) -> None:
    pid = tmp_path / 'pid'
    # It does not listen to SIGTERM.
    script = tmp_path / 'deaf'
    script.write_text(f'#!/bin/sh\ntrap "" TERM\necho $$ > {pid}\nexec sleep 600\n')
    script.chmod(0o755)
    with local.start('exec', '--command', f'{script} | cat') as process:
        until(lambda: pid.exists() and pid.read_text(), process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    until_gone(int(pid.read_text()))


# After 64 KiB the disk that "broken" is on is at its end.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

ssize_t read(int fd, void *buffer, size_t size)
{
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        const char *name = strrchr(path, '/');
        if (name && !strcmp(name, "/broken") && lseek(fd, 0, SEEK_CUR) >= 65536) {
            errno = EIO;
            return -1;
        }
    }
    return real(fd, buffer, size);
}
"""


def failing_reads(directory: Path) -> dict[str, str | None]:
    """An environment in which tar cannot read a file "broken" to its end."""
    compiler = shutil.which('gcc') or shutil.which('cc')
    if compiler is None:
        message = 'tar: ./broken: Read error at byte 65536, while reading 512 bytes: '
        return wrap_tar(
            directory, f'$TAR "$@"; echo "{message}Input/output error" >&2; exit 2'
        )
    env = wrap_tar(
        directory, f'LD_PRELOAD={directory}/shim.so; export LD_PRELOAD; exec $TAR "$@"'
    )
    (directory / 'shim.c').write_text(SHIM)
    command = [compiler, '-shared', '-fPIC', '-o', 'shim.so', 'shim.c', '-ldl']
    subprocess.run(command, cwd=directory, check=True)
    return env


def test_read_error_in_the_middle_of_a_file(
    agent: Agent, source: Path, tmp_path: Path
) -> None:
    (source / 'broken').write_bytes(os.urandom(1 << 20))
    failing = agent.told(**failing_reads(tmp_path / 'bin'))
    error = failing.backup(source).error
    assert './broken: Read error' in error
    assert 'Input/output error' in error
    assert agent.store.is_untouched()


def without_rights(agent: Agent) -> Agent:
    """The same, held by permissions even if it is root who runs it."""
    if not trees.is_root():
        return agent
    rights = '-dac_override,-dac_read_search'
    prefix = ('setpriv', f'--bounding-set={rights}', f'--inh-caps={rights}')
    return agent.run_by(*prefix)


@pytest.mark.parametrize(
    'what, mode, says',
    [
        # chmod changes the time of the file itself,
        ('secret', 0, 'secret: Cannot open'),
        # that of the directory alone, and tar knows nothing of what is in it,
        ('locked', 0, 'locked: Cannot open'),
        # or knows the names.
        ('locked', 0o400, 'locked/within: Cannot stat'),
    ],
)
def test_unreadable_files_are_named_and_stored_later(
    local: Agent, source: Path, tmp_path: Path, what: str, mode: int, says: str
) -> None:
    (source / 'locked').mkdir()
    (source / 'locked' / 'within').write_text('within')
    (source / 'secret').write_text('secret')
    held = without_rights(local)
    # What is that old is not stored again only because it is new.
    time.sleep(2.1)
    before = (source / what).stat().st_mode
    (source / what).chmod(mode)
    made = held.increment(source).check()
    assert made.document['warnings'] == 1
    assert f'{says}: Permission denied' in made.err
    (source / what).chmod(before)
    made = held.increment(source).check()
    assert made.document['curr_backup_level'] == 1
    assert made.document['warnings'] == 0
    local.restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []


@pytest.mark.root
@pytest.mark.skipif(not trees.is_root(), reason='only root has rights to lose')
def test_file_that_somebody_else_may_read_is_stored_by_them(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    (source / 'secret').write_text('secret')
    (source / 'secret').chmod(0)
    time.sleep(2.1)
    made = without_rights(local).increment(source).check()
    assert made.document['warnings'] == 1
    # Nothing about the file changes: only who asks.
    made = local.increment(source).check()
    assert made.document['curr_backup_level'] == 1
    assert made.document['warnings'] == 0
    local.restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []


# Before the source is read


@pytest.fixture
def trap(tmp_path: Path) -> tuple[dict[str, str | None], Path]:
    """An environment in which tar leaves a mark when it is started; and the mark."""
    mark = tmp_path / 'tar was started'
    return wrap_tar(tmp_path / 'bin', f'touch "{mark}"; exec $TAR "$@"'), mark


WRONG = 'sk/quite+wrong'


@pytest.mark.parametrize(
    'options, says',
    [
        (['--endpoint', 'http://127.0.0.1:9', *HASTY], 'http://127.0.0.1:9'),
        (['--endpoint', 'http://nowhere.invalid', *HASTY], 'nowhere.invalid'),
        (['--endpoint', 's3.example.com'], 'scheme'),
        (['--endpoint', 'http://127.0.0.1:1/path'], 'only scheme, host and port'),
        (['--container', 'a'], 'not a bucket name'),
        (['--path-to-backup', '/nonexistent/source'], '/nonexistent/source'),
        (['--compression', 'zip'], 'zip'),
        (['--max-level', '2'], '--incremental'),
        (['--encrypt-pass-file', '/nonexistent/pass'], '/nonexistent/pass'),
        (['--engine', 'rsync'], 'rsync'),
        (['--mode', 'mysql'], 'mysql'),
        (['--storage', 'swift'], 'swift'),
        (['--config', '/nonexistent/job'], '/nonexistent/job'),
        (['--cinder-vol-id', 'x'], 'cinder-vol-id'),
    ],
)
def test_options_that_do_not_do(
    agent: Agent,
    source: Path,
    trap: tuple[dict[str, str | None], Path],
    options: list[str],
    says: str,
) -> None:
    env, mark = trap
    if '--endpoint' in options:
        env = env | {'ENDPOINT': None}
    agent = agent.told('--path-to-backup', source, *options, **env)
    assert says in agent.run('backup').only_error
    assert not mark.exists()
    assert agent.store.is_untouched()


@pytest.mark.parametrize('section', ['action', 'storage:cloud'])
def test_unknown_key_of_a_job_file(
    source: Path,
    trap: tuple[dict[str, str | None], Path],
    section: str,
    store: S3Store,
    tmp_path: Path,
) -> None:
    env, mark = trap
    sections: dict[str, dict[str, object]] = {
        'action': {'path_to_backup': source},
        'storage:cloud': {
            'storage': 's3',
            'container': store.container,
            'endpoint': store.endpoint,
            'access_key': store.server.access_key,
            'secret_key': store.server.secret_key,
        },
    }
    sections[section]['sekret_key'] = WRONG
    job = job_file(tmp_path / 'job', sections)
    error = Agent(store, options=['--config', job], env=env).run('backup').only_error
    assert 'sekret_key' in error
    assert f'[{section}]' in error
    assert str(job) in error
    assert WRONG not in error
    assert not mark.exists()
    assert store.is_untouched()


def test_restore_of_what_is_not_there(
    agent: Agent, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / 'target'
    agent.backup(source).check()
    for options in (
        ['--backup-name', 'no-such-name'],
        ['--hostname', 'no-such-host'],
        ['--restore-from-date', '2001-01-01T00:00:00'],
    ):
        error = agent.restore(target, *options).only_error
        assert 'No matching backup' in error
        assert not target.exists()


@pytest.mark.parametrize('kind', ['full', 'file'])
def test_restore_into_what_is_there(
    agent: Agent,
    source: Path,
    tmp_path: Path,
    kind: str,
    trap: tuple[dict[str, str | None], Path],
) -> None:
    env, mark = trap
    agent.backup(source).check()
    target = tmp_path / 'target'
    if kind == 'full':
        target.mkdir()
        (target / 'mine').write_text('mine')
    else:
        target.write_text('mine')
    error = agent.told(**env).restore(target).only_error
    assert str(target) in error
    assert not mark.exists()
    mine = target / 'mine' if kind == 'full' else target
    assert mine.read_text() == 'mine'


@pytest.mark.parametrize('lost', ['data', 'manifest', 'level 0', 'marker of level 0'])
def test_restore_of_a_damaged_chain(
    local: Agent, source: Path, tmp_path: Path, lost: str
) -> None:
    for _ in range(2):
        local.increment(source).check()
    store = local.store
    assert isinstance(store, LocalStore)
    target = tmp_path / 'target'
    for path in list(store.files()):
        if '/0_' not in path:
            continue
        kind, name = path.partition('/')[0], path.rpartition('/')[2]
        if (
            lost == name
            or lost == 'level 0'
            or (lost == 'marker of level 0' and kind == 'metadata')
        ):
            store.delete(path)
    local.restore(target).error  # noqa: B018 - it asserts
    if 'level 0' in lost:
        # Known from the listing, so nothing was begun.
        assert not target.exists()


def test_two_agents_at_once(agent: Agent, big: Path, tmp_path: Path) -> None:
    """Of one name and, as like as not, one second: each succeeds, or is refused."""
    together = in_parts(agent)
    arguments = ('backup', '--path-to-backup', big)
    with together.start(*arguments) as one, together.start(*arguments) as two:
        results = one.wait(), two.wait()
    good = [result for result in results if result.code == 0]
    assert good, results
    assert len(agent.store.markers()) == len(good)
    assert agent.store.open_uploads() == []
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(big), tmp_path / 'target') == []
