"""The catalogue of faults is whole."""

import collections
import re
from pathlib import Path

from freezer.tests import faults
from freezer.tests.faults import catalogue


def tested() -> set[int]:
    found: set[int] = set()
    for path in Path(faults.__file__).parent.glob('test_*.py'):
        names = re.findall(r'^def test_(\d\d)_', path.read_text(), re.MULTILINE)
        found |= set(map(int, names))
    return found


def test_every_fault_is_tested_or_it_is_said_why_not() -> None:
    assert list(catalogue.ROWS) == list(range(1, 61))
    assert tested() | set(catalogue.NOT_RUN) == set(catalogue.ROWS)
    assert not tested() & set(catalogue.NOT_RUN)
    assert len(tested()) >= 55


def test_table() -> None:
    outcomes = {1: collections.Counter(passed=2), 2: collections.Counter(failed=1)}
    lines = list(catalogue.table(outcomes, {1: {'SeaweedFS', 'Ceph RGW'}}))
    assert len(lines) == 61
    assert 'Ceph RGW, SeaweedFS' in lines[0]
    assert lines[0].endswith('pass (2)')
    assert lines[1].endswith('1 failed')
    assert lines[2].endswith('not run')
    assert lines[-1] == '1 of 60 pass'
