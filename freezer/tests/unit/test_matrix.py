"""The table of the matrix has every run, and fails if one of them did."""

from pathlib import Path

import pytest

from freezer.tests import matrix, servers
from freezer.tests.conformance.variants import VARIANTS

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" {counts} tests="9"><properties>
<property name="botocore" value="1.2.3"/><property name="urllib3" value="4.5.6"/>
</properties><testcase classname="a" name="b" time="1"/></testsuite></testsuites>
"""


def table(folder: Path, **runs: str | None) -> tuple[int, list[str]]:
    """Exit code and lines, after these runs: variant -> report."""
    for name, report in runs.items():
        log = folder / f'newest-moto-{name}.log'
        log.touch()
        if report is not None:
            log.with_suffix('.xml').write_text(report)
    code = matrix.main(['table', str(folder), str(folder / 'table.rst')])
    return code, (folder / 'table.rst').read_text().splitlines()


GOOD = REPORT.format(counts='')


def test_good_runs(tmp_path: Path) -> None:
    code, lines = table(tmp_path, plain=GOOD, https=GOOD)
    assert code == 0
    assert lines[1].split()[-len(VARIANTS) :] == list(VARIANTS)
    assert lines[3].startswith(f'moto {servers.Moto.version()}  1.2.3, 4.5.6')
    assert lines[3].count('9 passed') == 2
    assert lines[3].count('—') == len(VARIANTS) - 2
    assert lines[4] == lines[2] == lines[0]


@pytest.mark.parametrize(
    'report, text',
    [
        (None, 'FAILED before its end'),
        ('', 'FAILED before its end'),
        ('<testsuites/>', 'FAILED before its end'),
        (REPORT.format(counts='failures="2"'), '7 passed, 2 FAILED'),
        (REPORT.format(counts='errors="2"'), '7 passed, 2 FAILED'),
        (REPORT.format(counts='skipped="9"'), '0 passed, 9 FAILED'),
    ],
)
def test_a_run_that_failed(tmp_path: Path, report: str | None, text: str) -> None:
    code, lines = table(tmp_path, plain=GOOD, https=report)
    assert code == 1
    assert text in lines[3]


def test_no_run(tmp_path: Path) -> None:
    assert table(tmp_path)[0] == 1


def test_every_server_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(['runs']) == 0
    runs = capsys.readouterr().out.split()
    for name, kind in servers.KINDS.items():
        missing = [v for v in VARIANTS if f'{name}-{v}' not in runs]
        assert missing == ([] if kind.properties.virtual_hosts else ['virtual'])
