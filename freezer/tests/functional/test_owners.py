"""Two backups whose host and backup names, joined, are the same folder."""

import json
from pathlib import Path

import pytest

from freezer.tests import handmade
from freezer.tests.agent import Agent, LocalStore, assert_restores, iso


def owned(local: Agent, host: str, name: str) -> Agent:
    """The agent of another host, on the same storage."""
    made = Agent(local.store)
    made.options = (*local.store.options, '--hostname', host, '--backup-name', name)
    return made


@pytest.fixture
def one(local: Agent) -> Agent:
    return owned(local, 'web', 'db_main')


@pytest.fixture
def other(local: Agent) -> Agent:
    return owned(local, 'web_db', 'main')


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    found = []
    for name in ('one', 'other'):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(name)
        found.append(folder)
    return found


def test_chains_are_kept_apart(
    one: Agent, other: Agent, trees: list[Path], tmp_path: Path
) -> None:
    """Each builds on its own chain, in turns, and restores its own files."""
    for level in (0, 1, 2):
        for agent, tree in zip((one, other), trees, strict=True):
            (tree / f'at {level}').write_text('new')
            made = agent.increment(tree).check()
            assert made.document['curr_backup_level'] == level
    for number, (agent, tree) in enumerate(zip((one, other), trees, strict=True)):
        assert_restores(agent, tree, tmp_path / f'target {number}')
        listed = agent.run('list', '--json').check().out
        assert f'"{tree.name}"' in listed
        found = agent.run('find', '--json', '--include', '**').check().out
        assert {json.loads(line)['path'] for line in found.splitlines()} == {
            path.name for path in tree.iterdir()
        }


def test_without_one_of_its_own_nothing_is_restored(
    one: Agent, other: Agent, trees: list[Path], tmp_path: Path
) -> None:
    one.backup(trees[0]).check()
    error = other.restore(tmp_path / 'target').error
    assert "web_db_main there is backup 'db_main' of host 'web'" in error
    assert '--hostname web --backup-name db_main' in error
    assert not (tmp_path / 'target').exists()


def test_retention_keeps_the_other(
    one: Agent, other: Agent, trees: list[Path], tmp_path: Path
) -> None:
    one.backup(trees[0]).check()
    made = other.backup(trees[1]).check().document['time_stamp']
    removed = other.run('admin', '--remove-before-date', iso(made + 1)).check()
    assert f'Removed web_db_main of {iso(made)}' in removed.err
    assert len(one.store.markers()) == 1
    assert_restores(one, trees[0], tmp_path / 'target')


def test_older_backups_are_anybodys(
    one: Agent, other: Agent, trees: list[Path], tmp_path: Path
) -> None:
    one.backup(trees[0]).check()
    assert isinstance(one.store, LocalStore)
    (path,) = one.store.markers()
    marker = json.loads(one.store.files()[path])
    assert marker.pop('hostname') == 'web'
    assert marker.pop('backup_name') == 'db_main'
    one.store.put(path, json.dumps(marker).encode())
    assert_restores(other, trees[0], tmp_path / 'target')
    assert one.increment(trees[0]).check().document['curr_backup_level'] == 1


def test_only_ones_own_are_selected(
    one: Agent, other: Agent, trees: list[Path]
) -> None:
    one.backup(trees[0]).check()
    made = other.backup(trees[1]).check().document['time_stamp']
    handmade.remove_indexes(one.store)
    for options in ((), ('--long',)):
        info = other.run('info', '--json', *options).check().document
        (chain,) = info['backups']
        assert chain['level_zero_timestamp'] == made
        assert (chain['hostname'], chain['backup_name']) == ('web_db', 'main')
    rebuilt = other.run('admin', '--rebuild-index').check()
    assert 'Made 1 index' in rebuilt.err
    assert len(handmade.indexes(one.store)) == 1
    verified = other.run('verify', '--json').check().document
    assert [each['time_stamp'] for each in verified['backups']] == [made]
