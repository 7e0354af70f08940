"""Files that cannot be read: the backup is committed, and everything says that it is
incomplete, until a later level has what is missing."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.storage import layout
from freezer.tests import handmade, trees
from freezer.tests.agent import (
    Agent,
    assert_restores,
    missed,
    private,
)
from freezer.tests.machine import with_broken, with_cut
from freezer.tests.scheduler import Scheduler, backup_to, document, executes


def incomplete(agent: Agent) -> list[int]:
    """What the markers say, by level."""
    files = agent.store.files()
    markers = [json.loads(files[path]) for path in agent.store.markers()]
    return [marker.get(layout.INCOMPLETE_KEY, 0) for marker in markers]


@pytest.fixture
def tree(source: Path) -> Path:
    (source / 'bad').write_text('bad')
    (source / 'folder/deep').mkdir(parents=True)
    (source / 'folder/deep/file').write_text('deep')
    (source / 'folder/other').write_text('other')
    return source


@pytest.mark.parametrize('name', ['bad', 'folder', 'deep'])
@pytest.mark.parametrize('start', [0, 1])
def test_input_output_errors(
    local: Agent, tree: Path, tmp_path: Path, name: str, start: int
) -> None:
    """At level 0, and at level 1, where the base has the old state."""
    if start:
        local.increment(tree).check()
    for path in (tree / 'bad', tree / 'folder/deep/file', tree / 'folder/deep/new'):
        path.write_text(f'new {path}')
    made = with_broken(local, name).increment(tree)
    assert made.code == INCOMPLETE, made
    assert made.document['incomplete'] == 1
    assert 'Incomplete: 1 read error' in made.err
    assert f'{name}: Cannot ' in made.err
    assert 'Input/output error' in made.err
    assert incomplete(local) == [0] * start + [1]
    for options in ((), ('--long',)):
        info = local.run('info', *options).check().out
        assert info.count('incomplete (1 read error)') == 1
    # The error is over: the next level has everything.
    made = local.increment(tree).check()
    assert made.document['curr_backup_level'] == start + 1
    assert made.document['incomplete'] == 0
    assert 'incomplete' not in local.run('info').check().out
    assert_restores(local, tree, tmp_path / 'target')


@pytest.mark.parametrize('place', ['', 'folder/deep'])
def test_an_attribute_that_was_not_read_is_read_again(
    local: Agent, tree: Path, tmp_path: Path, place: str
) -> None:
    """tar names only the last component of the path."""
    file = tree / place / 'labelled'
    file.write_text('labelled')
    os.setxattr(file, 'user.label', b'value')
    # What is younger than two seconds is archived again in any case.
    time.sleep(2.1)
    made = with_broken(local, 'labelled', attributes=True).increment(tree)
    assert made.code == INCOMPLETE, made
    assert 'labelled: Warning: Cannot ' in made.err
    assert local.increment(tree).check().document['files'] == 1
    assert local.increment(tree).check().document['files'] == 0
    assert_restores(local, tree, tmp_path / 'target')


def test_it_can_be_allowed(local: Agent, tree: Path, tmp_path: Path) -> None:
    metrics = tmp_path / 'metrics.prom'
    allowing = with_broken(local, 'bad').told('--metrics-file', metrics)
    made = allowing.backup(tree, '--allow-incomplete').check()
    assert made.document['incomplete'] == 1
    text = metrics.read_text()
    assert 'freezer_last_run_success{' in text
    for line in text.splitlines():
        if line.startswith(('freezer_last_run_success', 'freezer_last_run_incomplete')):
            assert line.endswith(' 1.0'), line


def test_a_restore_says_so(local: Agent, tree: Path, tmp_path: Path) -> None:
    with_broken(local, 'bad').increment(tree)
    restored = local.restore(tmp_path / 'target').check()
    assert 'The backup is incomplete: 1 read error when it was made' in restored.err
    # The next level has what was missing.
    local.increment(tree).check()
    restored = local.restore(tmp_path / 'whole').check()
    assert 'incomplete' not in restored.err


def test_files_that_are_removed_meanwhile_are_no_errors(
    local: Agent, tree: Path
) -> None:
    (tree / 'dangling').symlink_to('nowhere')
    made = local.backup(tree, '--dereference-symlink', 'soft').check()
    assert made.document['incomplete'] == 0
    assert made.document['warnings'] == 1


def test_in_a_job_it_is_a_success_with_a_warning(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    backup = {
        'freezer_action': backup_to(tmp_path / 'store', tree),
        'max_retries': 3,
    }
    with Scheduler(tmp_path / 'scheduler', with_broken(local, 'bad').env) as scheduler:
        job = document(backup, executes(f'touch {tmp_path}/next'))
        path = scheduler.job('a', job)
        scheduler.start()
        record = scheduler.until('a', status='completed', result='success')
        assert (record['exit_code'], record['failures']) == (INCOMPLETE, 0)
        assert record['backup']['incomplete'] == 1
        assert 'the backup is incomplete' in record['warning']
        # Once: it is not retried, and the next action runs.
        assert scheduler.logged.count('backup exited with 3') == 1
        assert (tmp_path / 'next').exists()
        shown = scheduler.call('status').out
        assert 'success with warnings' in shown
        assert 'a: the backup is incomplete' in shown
        assert scheduler.call('run', path).code == INCOMPLETE


# The middle of a file: tar writes zeros in place of the rest.


@pytest.fixture(params=[errno.EIO, 0], ids=['read error', 'shorter than before'])
def failing(request: pytest.FixtureRequest, local: Agent) -> Agent:
    """An agent that cannot read files named "broken" to their ends."""
    return with_cut(local, 'broken', request.param)


@pytest.fixture
def broken(tree: Path) -> Path:
    path = tree / 'folder/broken'
    path.write_bytes(b'old' * 100_000)
    # tar reads the first name.
    os.link(path, path.with_name('later'))
    return path


@pytest.mark.parametrize('indexed', [True, False])
@pytest.mark.parametrize('start', [0, 1])
def test_a_file_that_is_not_read_to_its_end_is_not_restored(
    failing: Agent,
    local: Agent,
    tree: Path,
    broken: Path,
    tmp_path: Path,
    start: int,
    indexed: bool,
) -> None:
    """An older level's state is, of all names of the file."""
    if start:
        local.increment(tree).check()
    was = trees.describe(tree)
    broken.write_bytes(os.urandom(300_000))
    (tree / 'bad').write_text('changed')
    made = failing.increment(tree)
    assert made.code == INCOMPLETE, made
    assert made.document['incomplete'] == 1
    assert './folder/broken: ' in made.err
    assert incomplete(local) == [0] * start + [1]
    local.run('verify', '--verify-data').check()
    if not indexed:
        handmade.remove_indexes(local.store)
    expected = trees.describe(tree)
    for name in (b'folder/broken', b'folder/later'):
        if start:
            expected[name] = was[name]
        else:
            del expected[name]
    assert_restores(local, expected, tmp_path / 'whole')
    restored = local.restore(tmp_path / 'part', '--include', 'folder').check()
    assert 'folder/broken: could not be read to its end' in restored.err
    assert (tmp_path / 'part/folder/broken').exists() == bool(start)
    listed = local.run('list').check().out
    assert ('broken' in listed) == ('later' in listed) == bool(start)
    # What the backup does not have stays, as it might have had it.
    onto = tmp_path / 'onto/folder'
    onto.mkdir(parents=True)
    (onto / 'broken').write_text('mine')
    local.restore(onto.parent, '--overwrite').check()
    kept = b'old' * 100_000 if start else b'mine'
    assert (onto / 'broken').read_bytes() == kept
    # The next level has it.
    made = local.increment(tree).check()
    assert made.document['curr_backup_level'] == start + 1
    restored = local.restore(tmp_path / 'target').check()
    assert 'broken' not in restored.err
    assert missed(trees.describe(tree), tmp_path / 'target') == []


def test_the_only_file_is_not_read_to_its_end(
    failing: Agent, local: Agent, source: Path, tmp_path: Path
) -> None:
    """As in a directory: an older state is restored, if there is one."""
    file, old = source / 'broken', b''
    for number in range(2):
        file.write_bytes(os.urandom(300_000))
        assert failing.increment(file).code == INCOMPLETE
        target = tmp_path / f'incomplete-{number}'
        restored = local.restore(target).check()
        assert 'broken: could not be read to its end' in restored.err
        assert [path.read_bytes() for path in target.iterdir()] == [
            content for content in [old] if content
        ]
        assert local.increment(file).check().document['files'] == 1
        old = file.read_bytes()
        local.restore(tmp_path / f'whole-{number}').check()
        assert (tmp_path / f'whole-{number}/broken').read_bytes() == old


def test_a_file_that_takes_the_place_of_a_directory(
    failing: Agent, local: Agent, tree: Path, tmp_path: Path
) -> None:
    (tree / 'broken').mkdir()
    (tree / 'broken/within').write_text('within')
    local.increment(tree).check()
    (tree / 'broken/within').unlink()
    (tree / 'broken').rmdir()
    (tree / 'broken').write_bytes(os.urandom(300_000))
    assert failing.increment(tree).code == INCOMPLETE
    expected = trees.describe(tree)
    del expected[b'broken']
    assert_restores(local, expected, tmp_path / 'whole')
    local.run('verify', '--verify-data').check()
    assert 'broken' not in local.run('list').check().out


def test_an_index_that_is_made_later_has_no_such_file(
    failing: Agent, local: Agent, tree: Path, broken: Path
) -> None:
    failing.increment(tree)
    listed = local.run('list').check().out
    handmade.remove_indexes(local.store)
    local.run('admin', '--rebuild-index').check()
    assert local.run('list').check().out == listed
    local.run('verify', '--verify-data').check()


def test_without_their_names_nothing_is_restored(
    failing: Agent, local: Agent, tree: Path, broken: Path, tmp_path: Path
) -> None:
    failing.increment(tree)
    for path in local.store.files():
        if path.endswith(layout.ENGINE_METADATA):
            local.store.delete(path)
    error = local.restore(tmp_path / 'target').error
    assert 'their names are lost with its engine_metadata' in error
    assert not list((tmp_path / 'target').glob('*'))


def test_their_names_are_encrypted(
    failing: Agent, local: Agent, tree: Path, broken: Path, tmp_path: Path
) -> None:
    passphrase = private(tmp_path / 'pass', 'a passphrase')
    sealing = ('--encryption', 'age', '--encrypt-pass-file', passphrase)
    failing.increment(tree, *sealing)
    assert not any(b'broken' in file for file in local.store.files().values())
    restored = local.restore(tmp_path / 'target', *sealing[2:]).check()
    assert 'folder/broken: could not be read to its end' in restored.err
    assert not (tmp_path / 'target/folder/broken').exists()
