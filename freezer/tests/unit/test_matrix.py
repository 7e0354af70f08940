"""The table of the matrix, and that no run is lost from it."""

from pathlib import Path

import pytest

from freezer.tests import matrix, servers
from freezer.tests.conformance.variants import VARIANTS

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="{errors}"
failures="{failures}" skipped="{skipped}" tests="9"><properties>
<property name="botocore" value="1.2.3"/><property name="urllib3" value="4.5.6"/>
</properties><testcase classname="a" name="b" time="1"/></testsuite></testsuites>
"""


def begun(folder: Path, name: str, **counts: int) -> None:
    (folder / f'{name}.log').touch()
    if counts:
        text = REPORT.format(**{'errors': 0, 'failures': 0, 'skipped': 0} | counts)
        (folder / f'{name}.xml').write_text(text)


def table(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    file = folder / 'table.rst'
    code = matrix.main(['table', str(folder), str(file)])
    assert capsys.readouterr().out == file.read_text() + '\n'
    return code, file.read_text().splitlines()


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path, 'newest-moto-plain', failures=0)
    begun(tmp_path, 'newest-moto-list-v1', failures=0)
    begun(tmp_path, 'oldest-moto-plain', failures=0)
    code, lines = table(tmp_path, capsys)
    assert code == 0
    assert lines[1].split('  ')[0] == 'Server'
    assert lines[1].split()[-len(VARIANTS) :] == list(VARIANTS)
    moto = f'moto {servers.Moto.version()}'
    for line in lines[3:5]:
        assert line.startswith(f'{moto}  1.2.3, 4.5.6')
    assert lines[3].count('9 passed') == 1
    assert lines[4].count('9 passed') == 2
    assert lines[4].count('—') == len(VARIANTS) - 2


@pytest.mark.parametrize('kind', ['failures', 'errors', 'skipped'])
def test_what_did_not_pass_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    begun(tmp_path, 'newest-moto-plain', failures=0)
    begun(tmp_path, 'newest-moto-https', **{kind: 2})
    code, lines = table(tmp_path, capsys)
    assert code == 1
    assert '7 passed, 2 FAILED' in lines[3]


@pytest.mark.parametrize('report', [None, '', '<testsuites/>', '<testsuites><tests'])
def test_a_run_that_broke_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: str | None
) -> None:
    begun(tmp_path, 'newest-moto-plain', failures=0)
    begun(tmp_path, 'newest-moto-https')
    if report is not None:
        (tmp_path / 'newest-moto-https.xml').write_text(report)
    code, lines = table(tmp_path, capsys)
    assert code == 1
    assert 'broke down' in lines[3]


def test_no_run_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table(tmp_path, capsys)[0] == 1


def test_a_run_without_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path, 'newest-moto-plain', skipped=9)
    assert table(tmp_path, capsys)[0] == 1


def test_every_server_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(['runs']) == 0
    runs = capsys.readouterr().out.split()
    for name, kind in servers.KINDS.items():
        missing = [v for v in VARIANTS if f'{name}-{v}' not in runs]
        assert missing == ([] if kind.properties.virtual_hosts else ['virtual'])
