"""Backups that engines rsync and rsyncv2 of Freezer 19.0.0 made; it cannot restore them
itself, as from-freezer-19.rst shows. Increments needed its faults mended first."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent, LocalStore, iso
from freezer.tests.compat.upstream import in_seconds

FIXTURE = Path(__file__).parent.parent / 'fixtures' / 'upstream-rsync-19.0.0.tar.xz'
ENGINES = {'v1-gzip': 'rsync', 'v2-gzip': 'rsyncv2', 'v2-bs512': 'rsyncv2'}
EXTRACT = ('tar', '--extract', '--preserve-permissions')
# Version 1 has bytes of it in the wrong place.
LOST = b'inserted'


@pytest.fixture(scope='module')
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('upstream-rsync')
    subprocess.run([*EXTRACT, f'--file={FIXTURE}', f'--directory={folder}'], check=True)
    return folder


def agent_for(fixture: Path, name: str) -> Agent:
    store = LocalStore(fixture / 'store')
    return Agent(store, name, ['--hostname', 'fixture', '--engine', ENGINES[name]])


def state(
    fixture: Path, name: str, level: int, folder: Path
) -> dict[bytes, trees.Entry]:
    folder.mkdir()
    archive = fixture / 'states' / name / f'level{level}.tar'
    subprocess.run([*EXTRACT, f'--file={archive}', f'--directory={folder}'], check=True)
    return described(folder, name)


def described(folder: Path, name: str) -> dict[bytes, trees.Entry]:
    found = in_seconds(trees.describe(folder))
    if ENGINES[name] == 'rsyncv2':
        # The top is not stored.
        found.pop(b'.')
    return found


@pytest.mark.parametrize('level', [0, 1, 2])
@pytest.mark.parametrize('name', ENGINES)
def test_every_level_restores(
    fixture: Path, name: str, level: int, tmp_path: Path
) -> None:
    agent = agent_for(fixture, name)
    dates = sorted(
        int(path.name.partition('_')[2])
        for path in (fixture / 'store').glob(f'metadata/rsync/*_{name}/*/*')
    )
    target = tmp_path / 'target'
    result = agent.restore(target, '--restore-from-date', iso(dates[level]))
    expected = state(fixture, name, level, tmp_path / 'state')
    found = described(target, name)
    if name == 'v1-gzip' and level:
        assert result.code == 3
        assert 'can lose data in levels above 0' in result.err
        assert f'{target}/inserted: not what was backed up' in result.err
        assert found[LOST].digest != expected[LOST].digest
        found[LOST] = dataclasses.replace(found[LOST], digest=expected[LOST].digest)
    else:
        result.check()
    assert trees.differences(expected, found) == []


def test_they_are_verified_and_listed(fixture: Path) -> None:
    for name in ENGINES:
        agent = agent_for(fixture, name)
        verified = agent.run('verify', '--verify-data').check()
        assert 'no problems found, every byte read' in verified.err
        listed = agent.run('list', '--json').check()
        assert 'sub/deep/grows' in listed.out
        assert 'shrinks' in listed.out
        assert '"gone"' not in listed.out
        assert name in agent.run('info').check().out


def test_backups_are_refused(fixture: Path, tmp_path: Path) -> None:
    before = LocalStore(fixture / 'store').files()
    for name in ENGINES:
        result = agent_for(fixture, name).backup(tmp_path)
        assert 'use --engine tar' in result.error
    assert LocalStore(fixture / 'store').files() == before
