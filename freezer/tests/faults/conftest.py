"""Stores behind a proxy that meddles, and the catalogue as a table.

    pytest freezer/tests/faults --catalogue

prints, of each fault, what came of it.
"""

import collections
import re
from pathlib import Path

import pytest

from freezer.tests.faults import catalogue
from freezer.tests.functional.conftest import (  # noqa: F401 - fixtures
    agent,
    authority,
    big,
    bundle,
    local,
    proxied,
    proxy,
    secure,
    source,
    store,
    trap,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a storage; not made."""
    return tmp_path / 'backups'


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--catalogue', action='store_true', help='print what came of each fault'
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.getoption('--catalogue', default=False):
        return
    outcomes: dict[int, collections.Counter[str]]
    outcomes = collections.defaultdict(collections.Counter)
    for outcome in ('passed', 'failed', 'error', 'skipped'):
        for report in terminalreporter.stats.get(outcome, ()):
            if found := re.search(r'test_(\d\d)_', report.nodeid):
                outcomes[int(found[1])][outcome] += 1
    for line in catalogue.table(outcomes):
        terminalreporter.write_line(line)
