"""Random trees, changed at random: every state of a chain comes back as it was.

In process, on local storage: what is tried here is GNU tar and what the engine does to
make its increments safe. The seeds are fixed, so a failure can be looked at.
"""

import time
from pathlib import Path

import pytest

from freezer.engine.settings import EngineSettings
from freezer.engine.tar import snapshot
from freezer.storage.levels import LevelPolicy
from freezer.storage.local.storage import LocalStorage
from freezer.tests import trees
from freezer.tests.engines import TarAgent

LEVELS = 4
# Files changed this long before a backup are told from those it must store; the margin
# of two seconds would make every level of a fast test a full one.
MARGIN = 20_000_000


def _differences(expected: dict[bytes, trees.Entry], target: Path) -> list[str]:
    """Names of one fifo or device come back as several: tar keeps no links of them."""
    return [
        line
        for line in trees.differences(expected, trees.describe(target))
        if not (': links ' in line and ('(fifo)' in line or ' device)' in line))
    ]


@pytest.mark.parametrize('seed', range(12))
def test_every_state_comes_back(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, 'MARGIN_NANOSECONDS', MARGIN)
    source = tmp_path / 'source'
    trees.make_tree(source, seed, files=30, size=20_000)
    storage = LocalStorage(str(tmp_path / 'storage'), 32 * 2**20)
    agent = TarAgent(storage, EngineSettings(compression='none'))
    states = []
    for level in range(LEVELS):
        if level:
            trees.mutate_tree(source, seed * 10 + level)
        time.sleep(2 * MARGIN / 10**9)  # the kernel's tick, not a race of ours
        states.append(trees.describe(source))
        now = int(time.time()) + level
        plan = agent.plan('host_name', LevelPolicy(incremental=True), now)
        assert agent.backup(source, plan, now).level == level
    newest = agent.state('host_name')
    for level in range(LEVELS):
        target = tmp_path / f'target{level}'
        chain = agent.state('host_name', newest[level].timestamp)
        assert max(chain) == level
        assert agent.restore(target, chain).count == 0
        assert _differences(states[level], target) == []
