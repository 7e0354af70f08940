"""A skipped test fails where skips are not allowed; tests see nothing of the caller."""

import sys

import pytest

pytest_plugins = ['pytester']

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


OURS = ('-p', 'freezer.tests.conftest', '-rA')


@pytest.fixture(autouse=True)
def _fail_on_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PYTHONPATH', ':'.join(sys.path))
    monkeypatch.setenv('FREEZER_TEST_DISALLOW_SKIP', '1')


@pytest.mark.parametrize('options', [(), ('-n', '1')], ids=['serial', 'xdist'])
def test_skips_fail_where_disallowed(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(SKIPPING)
    result = pytester.runpytest_subprocess(*OURS, *options)
    # Before the test function starts, pytest calls it an error.
    result.assert_outcomes(failed=2, passed=1, errors=2)
    for reason in ('no such thing', 'not today', 'xfail: known', 'absent'):
        output = result.stdout.str().replace('Skipped: ', '')
        assert f'and this did not run: {reason}' in output


def test_skips_are_allowed_by_default(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('FREEZER_TEST_DISALLOW_SKIP')
    pytester.makepyfile(SKIPPING)
    result = pytester.runpytest_subprocess(*OURS)
    result.assert_outcomes(passed=1, skipped=3, xfailed=1)


def test_skipped_module_fails_where_disallowed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\npytest.skip('none', allow_module_level=True)")
    pytester.runpytest_subprocess(*OURS).assert_outcomes(errors=1)


def test_the_environment_is_not_the_callers(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('ACCESS_KEY', 'AWS_PROFILE', 'OS_CLOUD', 'http_proxy', 'HOME'):
        monkeypatch.setenv(name, 'of-the-caller')
    pytester.makepyfile("""
        import os
        def test_environment():
            assert 'of-the-caller' not in os.environ.values()
            assert os.listdir(os.environ['HOME']) == []
        """)
    pytester.runpytest_subprocess(*OURS).assert_outcomes(passed=1)
