"""Every fault of the catalogue has a test."""

import re
from pathlib import Path

from freezer.tests import faults
from freezer.tests.faults import catalogue


def test_every_fault_has_a_test() -> None:
    tested = {
        int(number)
        for path in Path(faults.__file__).parent.glob('test_*.py')
        for number in re.findall(r'^def test_(\d\d)_', path.read_text(), re.MULTILINE)
    }
    assert list(catalogue.ROWS) == list(range(1, 61))
    assert tested == set(catalogue.ROWS)


def test_table() -> None:
    *lines, end = catalogue.table({1: {'passed': 2}, 2: {'passed': 1, 'failed': 1}})
    assert len(lines) == 60
    assert lines[0].endswith(' 2 passed')
    assert lines[1].endswith(' 1 passed, 1 failed')
    assert lines[2].endswith(' 1 not run')
    assert end == '1 of 60 pass'
