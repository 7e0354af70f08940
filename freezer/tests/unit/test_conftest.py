"""How tests are run: what is a failure, and what they see of their caller."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip('no such thing')

@pytest.mark.skip(reason='not today')
def test_is_skipped():
    pass

@pytest.mark.xfail(reason='known')
def test_xfails():
    assert False

@pytest.fixture
def absent():
    pytest.skip('absent')

def test_skips_by_fixture(absent):
    pass
"""

MODULE = "import pytest\npytest.skip('nothing here', allow_module_level=True)\n"


def run(directory: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Run pytest on a directory with our conftest; return exit code and output."""
    command = [sys.executable, '-m', 'pytest', '-p', 'freezer.tests.conftest']
    (directory / 'pytest.ini').touch()
    ended = subprocess.run(
        [*command, '-rA', '-p', 'no:cacheprovider', *options, str(directory)],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)} | environment,
        check=False,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize('options', [(), ('-n', '1')], ids=['serial', 'xdist'])
def test_skips_fail_where_disallowed(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / 'test_skipping.py').write_text(SKIPPING)
    code, output = run(tmp_path, *options, FREEZER_TEST_DISALLOW_SKIP='1')
    assert code == 1, output
    # Before the test function starts, pytest calls it an error.
    assert '2 failed, 1 passed, 2 errors' in output
    for reason in ('no such thing', 'not today', 'xfail: known', 'absent'):
        assert f'and this did not run: {reason}' in output.replace('Skipped: ', '')


def test_skips_are_skips_elsewhere(tmp_path: Path) -> None:
    (tmp_path / 'test_skipping.py').write_text(SKIPPING)
    code, output = run(tmp_path, FREEZER_TEST_DISALLOW_SKIP='')
    assert code == 0, output
    assert '1 passed, 3 skipped, 1 xfailed' in output


def test_skipped_module_fails_where_disallowed(tmp_path: Path) -> None:
    (tmp_path / 'test_module.py').write_text(MODULE)
    (tmp_path / 'test_other.py').write_text('def test_passes(): pass\n')
    assert run(tmp_path, FREEZER_TEST_DISALLOW_SKIP='')[0] == 0
    code, output = run(tmp_path, FREEZER_TEST_DISALLOW_SKIP='1')
    assert code == 2, output
    assert 'nothing here' in output


def test_the_environment_is_not_the_callers(tmp_path: Path) -> None:
    (tmp_path / 'test_environment.py').write_text(
        'import os\n'
        'def test_environment():\n'
        "    seen = {'ACCESS_KEY', 'AWS_PROFILE', 'OS_CLOUD', 'http_proxy'}\n"
        '    assert not seen & set(os.environ)\n'
        "    assert os.environ['HOME'] != '/home/of-the-caller'\n"
        "    assert os.listdir(os.environ['HOME']) == []\n"
    )
    code, output = run(
        tmp_path,
        ACCESS_KEY='a',
        AWS_PROFILE='b',
        OS_CLOUD='c',
        http_proxy='http://127.0.0.1:9',
        HOME='/home/of-the-caller',
    )
    assert code == 0, output
