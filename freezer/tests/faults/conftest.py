"""Stores behind a proxy that meddles, and the catalogue as a table.

    pytest freezer/tests/faults --catalogue

prints, of each fault, what came of it.
"""

import collections
import re

import pytest

from freezer.tests import servers
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

_NUMBERED = re.compile(r'test_(\d\d)_')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--catalogue', action='store_true', help='print what came of each fault'
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note in the test's report which server it is about."""
    used = set(getattr(item, 'fixturenames', ()))
    callspec = getattr(item, 'callspec', None)
    if callspec is not None:
        used.add(callspec.params.get('s3_server'))
    if used & {'proxied', 'agent', 'store', 'proxy'} and 's3_server' not in used:
        used.add('seaweedfs')
    for name in used & set(servers.KINDS):
        item.user_properties.append(('server', servers.KINDS[str(name)].title))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.getoption('--catalogue', default=False):
        return
    outcomes: dict[int, collections.Counter[str]]
    outcomes = collections.defaultdict(collections.Counter)
    where: dict[int, set[str]] = collections.defaultdict(set)
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            found = _NUMBERED.search(getattr(report, 'nodeid', ''))
            if found is None or outcome not in ('passed', 'failed', 'error', 'skipped'):
                continue
            number = int(found[1])
            outcomes[number][outcome] += 1
            where[number] |= {value for key, value in report.user_properties}
    for line in catalogue.table(outcomes, where):
        terminalreporter.write_line(line)
