"""Random chains with changes that increments may miss restore at each level.

``FREEZER_TEST_CHAINS=300`` makes 300 of them.
"""

from pathlib import Path

import pytest

from freezer.tests import chains


@pytest.mark.parametrize(
    'seed',
    range(chains.COUNT),
    ids=lambda seed: f'{seed}-{chains.variant(seed).__name__}',
)
def test_chain_restores(seed: int, tmp_path: Path) -> None:
    with chains.variant(seed)(seed, tmp_path) as chain:
        chain.make()
        chain.check()
