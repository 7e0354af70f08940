"""What fails, fails: exit status, one line that says why, nothing left, or listed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.tests import servers, trees
from freezer.tests.agent import (
    PART,
    Agent,
    LocalStore,
    S3Store,
    Trap,
    assert_restores,
    in_parts,
    job_file,
)
from freezer.tests.functional.waiting import until, until_gone
from freezer.tests.proxy import BROKEN, DENIED, Answer, Proxy, Request

HASTY = ('--s3-retry-budget', '3')


# During an upload


@pytest.mark.parametrize('answer', [DENIED, BROKEN], ids=['403', '500'])
def test_part_that_fails_fails_the_backup(
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
    assert_restores(agent, big, tmp_path / 'target')


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
    assert 'No backup ' in agent.restore(tmp_path / 'target').error
    # The next run cleans up.
    agent.backup(source).check()
    assert store.open_uploads() == []
    assert len(store.markers()) == 1
    assert_restores(agent, source, tmp_path / 'target')


# After the commit


def after_the_marker(proxy: Proxy) -> Callable[[Request], bool]:
    """Matches the listings that follow the commit marker of a level."""

    def matches(request: Request) -> bool:
        written = any(
            each.method == 'PUT' and each.key.endswith('/metadata')
            for each in proxy.requests
        )
        return written and request.lists

    return matches


def test_a_listing_that_fails_after_the_commit(
    proxied: S3Store, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    agent = Agent(proxied).told(*HASTY)
    agent.increment(source).check()
    proxy.clear()
    proxy.answer(after_the_marker(proxy), BROKEN)
    made = agent.increment(source)
    assert made.code == 1
    assert 'the backup is committed, and whether the levels that it builds' in made.err
    assert made.document['curr_backup_level'] == 1
    proxy.clear()
    assert len(proxied.markers()) == 2
    assert_restores(agent, source, tmp_path / 'target')


def test_a_signal_after_the_commit(
    proxied: S3Store, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    agent = Agent(proxied)
    agent.increment(source).check()
    proxy.clear()
    held = proxy.hold(after_the_marker(proxy))
    words = ('--incremental', '--path-to-backup', source)
    with agent.start('backup', *words) as process:
        held.wait()
        process.send(signal.SIGTERM)
        held.release()
        assert process.wait().code == -signal.SIGTERM
    proxy.clear()
    assert len(proxied.markers()) == 2
    assert_restores(agent, source, tmp_path / 'target')


# The source


def test_command_of_exec_ends_with_the_agent(local: Agent, tmp_path: Path) -> None:
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
    made = held.increment(source)
    assert made.code == INCOMPLETE
    assert made.document['warnings'] == made.document['incomplete'] == 1
    assert f'{says}: Permission denied' in made.err
    (source / what).chmod(before)
    made = held.increment(source).check()
    assert made.document['curr_backup_level'] == 1
    assert made.document['warnings'] == 0
    assert_restores(local, source, tmp_path / 'target')


@pytest.mark.root
@pytest.mark.skipif(not trees.is_root(), reason='only root has rights to lose')
def test_unreadable_file_is_stored_by_a_later_user_who_may_read_it(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    (source / 'secret').write_text('secret')
    (source / 'secret').chmod(0)
    time.sleep(2.1)
    made = without_rights(local).increment(source)
    assert made.code == INCOMPLETE
    # Nothing about the file changes: only who asks.
    made = local.increment(source).check()
    assert made.document['curr_backup_level'] == 1
    assert made.document['warnings'] == 0
    assert_restores(local, source, tmp_path / 'target')


# Before the source is read


WRONG = 'sk/quite+wrong'


@pytest.mark.parametrize('section', ['action', 'storage:cloud'])
def test_unknown_key_of_a_job_file_is_refused(
    source: Path, trap: Trap, section: str, store: S3Store, tmp_path: Path
) -> None:
    sections: dict[str, dict[str, object]] = {
        'action': {'path_to_backup': source},
        'storage:cloud': store.section,
    }
    sections[section]['sekret_key'] = WRONG
    job = job_file(tmp_path / 'job', sections)
    error = (
        Agent(store, options=['--config', job], env=trap.env).run('backup').only_error
    )
    assert 'sekret_key' in error
    assert f'[{section}]' in error
    assert str(job) in error
    assert WRONG not in error
    assert not trap.sprung
    assert store.is_untouched()


def test_restore_of_a_missing_backup_fails(
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
        assert error.startswith('Error: No backup ')
        assert not target.exists()


@pytest.mark.parametrize('lost', ['data', 'manifest', 'level 0', 'marker of level 0'])
def test_restore_of_a_damaged_chain_fails(
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
