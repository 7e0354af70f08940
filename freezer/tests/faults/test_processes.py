"""Faults 20, 21, 33 and 34: what becomes of processes, and of files meanwhile."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.tests import trees
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
from freezer.tests.functional.waiting import gone, until
from freezer.tests.proxy import Proxy, Reply, Request

pytestmark = pytest.mark.usefixtures('cold')


def test_20_tar_is_killed(proxied: S3Store, proxy: Proxy, tmp_path: Path) -> None:
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


def test_33_no_tar_outlives_the_agent(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    pid = tmp_path / 'pid'
    endless = f'echo $$ > {pid}.new; mv {pid}.new {pid}; exec cat /dev/zero'
    agent = local.told(**wrap_tar(tmp_path / 'bin', endless))
    with agent.start('backup', '--path-to-backup', source) as process:
        until(pid.exists, process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert gone(int(pid.read_text()))
    assert local.store.is_untouched()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_33_signal_during_an_upload(
    proxied: S3Store, proxy: Proxy, big: Path, number: signal.Signals
) -> None:
    held = proxy.hold(lambda request: request.part == 3)
    with in_parts(Agent(proxied)).start('backup', '--path-to-backup', big) as process:
        held.wait()
        process.send(number)
        held.release()
        result = process.wait()
    assert result.code == -number, result
    assert result.err == f'Error: interrupted by {number.name}\n'
    assert proxied.is_untouched()


@pytest.mark.parametrize(
    'number, stalled, undone',
    [
        (signal.SIGTERM, lambda r: r.part == 3, True),
        (signal.SIGINT, lambda r: r.part, True),
        (signal.SIGHUP, lambda r: r.part == 3 or r.method == 'DELETE', False),
        (signal.SIGTERM, lambda r: r.path.endswith('/claim'), True),
    ],
    ids=['a part', 'every part', 'a part and the abort', 'before it begins'],
)
def test_33_signal_while_the_store_does_not_answer(
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
    said = f'Error: interrupted by {number.name}'
    if undone:
        assert result.err == f'{said}\n'
        assert proxied.is_untouched()
    else:
        assert result.err.startswith(f'{said}; cleaning up took longer')
        assert len(result.err.splitlines()) == 1
    assert list(scratch.iterdir()) == []
    proxy.clear()
    assert agent.run('info', '--metadata-out', '-').check().document['backups'] == []
    agent.run('admin', '--s3-stale-after', '1').check()
    assert proxied.is_untouched()
    held.release()


@pytest.mark.parametrize(
    'matches',
    [
        lambda r: r.operation == 'CreateMultipartUpload',
        lambda r: r.completes,
        lambda r: r.method == 'PUT' and r.path.endswith('/manifest'),
        lambda r: r.method == 'PUT' and r.path.endswith('/metadata'),
    ],
    ids=['an upload opened', 'Complete', 'the manifest', 'the marker'],
)
@pytest.mark.parametrize('answered', [True, False], ids=['late answer', 'late'])
def test_33_signal_while_the_store_is_slow(
    proxied: S3Store,
    proxy: Proxy,
    big: Path,
    matches: Callable[[Request], bool],
    answered: bool,
) -> None:
    """A request that the store carries out after the signal is undone as well."""
    begun, seen, done = threading.Event(), threading.Event(), threading.Event()

    def delay() -> None:
        begun.set()
        seen.wait(60)
        # So the signal comes first.
        time.sleep(0.3)

    def change(reply: Reply) -> Reply:
        if answered:
            delay()
        done.set()
        return reply

    if not answered:
        proxy.before(matches, delay)
    proxy.change(matches, change)
    with in_parts(Agent(proxied)).start('backup', '--path-to-backup', big) as process:
        assert begun.wait(60)
        process.send(signal.SIGTERM)
        seen.set()
        result = process.wait()
    assert done.wait(60)
    assert result.code == -signal.SIGTERM, result
    assert result.err == 'Error: interrupted by SIGTERM\n'
    assert proxied.is_untouched(), (proxied.sizes(), proxied.open_uploads())


# At this rate a part takes hours.
CRAWL = '500'


@pytest.mark.parametrize('several', [False, True])
def test_33_signal_while_an_upload_is_held_back(
    store: S3Store, big: Path, tmp_path: Path, several: bool
) -> None:
    """It does not wait until what is under way has been sent."""
    local = LocalStore(tmp_path / 'local')
    options = store.options
    if several:
        sections = {'storage:disk': local.section, 'storage:cloud': store.section}
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
    assert store.is_untouched(), result
    assert local.is_untouched()


def test_33_signal_while_a_download_is_held_back(
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


def test_34_sigkill_during_an_upload(
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
    assert 'No backup ' in agent.restore(tmp_path / 'target').error
    # Nobody is left to clean up but the next run.
    proxy.clear()
    made = agent.increment(big).check()
    assert made.document['curr_backup_level'] == 0
    assert proxied.open_uploads() == []
    stamp = made.document['time_stamp']
    assert {path.split('/')[3] for path in proxied.files()} == {str(stamp)}
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(big), tmp_path / 'target') == []


def test_34_sigkill_between_data_and_marker(
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


def test_20_tar_fails_at_its_end(proxied: S3Store, big: Path, tmp_path: Path) -> None:
    """All that it wrote is there, and it is not good."""
    env = wrap_tar(tmp_path / 'bin', '$TAR "$@"; exit 2')
    result = in_parts(Agent(proxied)).told(**env).backup(big)
    assert 'tar failed with status 2' in result.error
    assert proxied.is_untouched()


def test_21_file_that_shrinks_while_it_is_read(
    proxied: S3Store, proxy: Proxy, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(12 * PART))
    (source / 'zzz').write_text('after it')
    held = proxy.hold(lambda request: bool(request.part))
    agent = in_parts(Agent(proxied)).told('--s3-concurrency', '1')
    arguments = ('--path-to-backup', source, '--metadata-out', '-')
    with agent.start('backup', *arguments) as process:
        held.wait()
        os.truncate(source / 'file', 11 * PART)
        held.release()
        made = process.wait()
    assert made.code == INCOMPLETE
    assert made.document['warnings'] == made.document['incomplete'] == 1
    assert 'shrank' in made.err
    target = tmp_path / 'target'
    # The archive has zeros in place of what had gone.
    assert 'file: could not be read to its end' in agent.restore(target).check().err
    assert [path.name for path in target.iterdir()] == ['zzz']
