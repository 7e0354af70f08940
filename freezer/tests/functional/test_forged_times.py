"""Whoever can write to the storage changes a time in a level: later increments store
what has changed."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from freezer.engine.tar import snapshot
from freezer.storage import layout, manifest
from freezer.tests import handmade, machine, trees
from freezer.tests.agent import Agent, missed

YEARS = 10 * 365 * 86400


@pytest.fixture
def late(local: Agent) -> Agent:
    """The agent that makes the level on top, in half a minute."""
    return machine.with_clock(local, 30)


@pytest.fixture
def chain(local: Agent, source: Path) -> Path:
    """A source with two levels; then it changes, also with its old time and size.

    The levels are made so late that no file could have changed again unnoticed: what
    level 0 has, level 1 has not.
    """
    for name in ('kept', 'same', 'gone'):
        (source / name).write_text(name)
    machine.with_clock(local, 10).increment(source).check()
    (source / 'kept').write_text('changed')
    machine.with_clock(local, 20).increment(source).check()
    change(source, 'same', 'emas')
    (source / 'file').write_text('another')
    (source / 'gone').unlink()
    (source / 'new').write_text('new')
    return source


def change(source: Path, name: str, content: str) -> None:
    """With the modification time that the file had."""
    status = os.stat(source / name)
    (source / name).write_text(content)
    os.utime(source / name, ns=(status.st_atime_ns, status.st_mtime_ns))


def forge_dump_time(agent: Agent, seconds: int) -> None:
    """In every snapshot file, with a digest that fits."""
    for path, content in agent.store.files().items():
        if not path.endswith('/' + layout.ENGINE_METADATA):
            continue
        state = snapshot.load(content)
        state.seconds = seconds
        agent.store.put(path, state.dump())
        marker = path.replace('data/', 'metadata/', 1)
        marker = marker.replace('/' + layout.ENGINE_METADATA, '/metadata')
        document = json.loads(agent.store.files()[marker])
        digest = hashlib.sha256(state.dump()).hexdigest()
        document[manifest.STATE_KEY] = digest
        agent.store.put(marker, json.dumps(document).encode())


def forge_index(agent: Agent, folder: Path, level: int, **properties: object) -> None:
    path = handmade.indexes(agent.store)[level]
    handmade.change_index(
        agent.store, path, folder, lambda _records, old: old.update(properties)
    )


def assert_all_is_stored(agent: Agent, source: Path, tmp_path: Path) -> None:
    agent.increment(source).check()
    agent.restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []


@pytest.mark.parametrize('ahead', [-YEARS, 0, 3600, YEARS])
def test_dump_time(
    local: Agent, late: Agent, chain: Path, tmp_path: Path, ahead: int
) -> None:
    forge_dump_time(local, int(time.time()) + ahead)
    made = late.increment(chain).check().document
    assert made['curr_backup_level'] == 2
    local.restore(tmp_path / 'target').check()
    assert missed(trees.describe(chain), tmp_path / 'target') == []


@pytest.mark.parametrize('level', [0, 1])
@pytest.mark.parametrize('ahead', [-YEARS, 3600])
@pytest.mark.parametrize('rebuilt', [False, True])
def test_time_of_an_index(
    local: Agent,
    late: Agent,
    chain: Path,
    tmp_path: Path,
    level: int,
    ahead: int,
    rebuilt: bool,
) -> None:
    """Also of one that claims to have been made later, so that times count."""
    moment = (int(time.time()) + ahead) * 10**9
    properties = {'time_ns': moment} | ({'rebuilt': True} if rebuilt else {})
    forge_index(local, tmp_path, level, **properties)
    assert_all_is_stored(late, chain, tmp_path)


def test_index_and_dump_time(
    local: Agent, late: Agent, chain: Path, tmp_path: Path
) -> None:
    forge_dump_time(local, int(time.time()) + YEARS)
    for level in range(2):
        moment = (int(time.time()) + YEARS) * 10**9
        forge_index(local, tmp_path, level, time_ns=moment, rebuilt=True)
    assert_all_is_stored(late, chain, tmp_path)


def test_damaged_index(local: Agent, late: Agent, chain: Path, tmp_path: Path) -> None:
    """With a digest that does not fit, a chain begins."""
    path = handmade.indexes(local.store)[0]
    content = bytearray(local.store.files()[path])
    content[100] ^= 1
    local.store.put(path, bytes(content))
    made = late.increment(chain).check().document
    assert made['curr_backup_level'] == 0
    local.restore(tmp_path / 'target').check()
    assert missed(trees.describe(chain), tmp_path / 'target') == []
