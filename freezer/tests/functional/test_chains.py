"""Random trees, changed at random: every state of a chain comes back as it was.

In process, on local storage: what is tried here is GNU tar and what the engine does to
make its increments safe. The seeds are fixed, so a failure can be looked at.
"""

import time
from pathlib import Path

import pytest

from freezer.engine.engine import Source
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import snapshot
from freezer.engine.tar.tar import TarEngine
from freezer.storage.levels import LevelPolicy
from freezer.storage.local import LocalStorage
from freezer.tests import trees
from freezer.tests.agent import missed

LEVELS = 4
# Files changed this long before a backup are told from those it must store; the margin
# of two seconds would make every level of a fast test a full one.
MARGIN = 20_000_000


@pytest.mark.parametrize('seed', range(12))
def test_every_level_restores_its_state(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, 'MARGIN_NANOSECONDS', MARGIN)
    source = tmp_path / 'source'
    trees.make_tree(source, seed, files=30, size=20_000)
    storage = LocalStorage(str(tmp_path / 'storage'), 32 * 2**20)
    engine = TarEngine(storage, EngineSettings(compression='none'))
    states = []
    for level in range(LEVELS):
        if level:
            trees.mutate_tree(source, seed * 10 + level)
        time.sleep(2 * MARGIN / 10**9)  # the kernel's tick, not a race of ours
        states.append(trees.describe(source))
        now = int(time.time()) + level
        plan = engine.plan('host_name', LevelPolicy(incremental=True), now)
        made = engine.backup(Source(str(source), '.'), plan, now)
        assert made.backup.level == level
    newest = storage.get_latest_level_zero_increments(engine, 'host_name')
    for level in range(LEVELS):
        target = tmp_path / f'target{level}'
        target.mkdir()
        chain = storage.get_latest_level_zero_increments(
            engine, 'host_name', newest[level].timestamp
        )
        assert max(chain) == level
        assert engine.restore(str(target), chain).count == 0
        assert missed(states[level], target) == []
