"""The page of the stores' deviations and the tests that show them are in step."""

import re
from pathlib import Path

from freezer.tests.agent import ROOT

PAGE = Path(ROOT) / 'doc/source/reference/store-differences.rst'
TESTS = Path(ROOT) / 'freezer/tests/conformance/test_deviations.py'


def test_every_deviation_has_its_row() -> None:
    rows = re.findall(r'^     - ``(test_\w+)``$', PAGE.read_text(), re.MULTILINE)
    tests = re.findall(r'^def (test_\w+)\(', TESTS.read_text(), re.MULTILINE)
    assert len(tests) > 20
    assert rows == tests
