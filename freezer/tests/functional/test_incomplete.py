"""Files that cannot be read: the backup is committed, and everything says that it is
incomplete, until a later level has what is missing."""

import json
import os
import time
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.storage import layout
from freezer.tests.agent import Agent, assert_restores
from freezer.tests.machine import with_broken
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
    long = local.run('info', '--long').check().out
    assert long.count('incomplete (1 read error)') == 1
    # The error is over: the next level has everything.
    made = local.increment(tree).check()
    assert made.document['curr_backup_level'] == start + 1
    assert made.document['incomplete'] == 0
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
