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


@pytest.fixture
def plugin(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    pytester.plugins.append('freezer.tests.conftest')
    monkeypatch.setenv('PYTHONPATH', ':'.join(sys.path))
    monkeypatch.delenv('FREEZER_TEST_DISALLOW_SKIP', raising=False)
    return pytester


@pytest.mark.parametrize('options', [(), ('-n', '1')], ids=['serial', 'xdist'])
def test_skips_fail_where_disallowed(
    plugin: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    plugin.makepyfile(SKIPPING)
    plugin.runpytest_subprocess().assert_outcomes(passed=1, skipped=3, xfailed=1)
    monkeypatch.setenv('FREEZER_TEST_DISALLOW_SKIP', '1')
    result = plugin.runpytest_subprocess('-rA', *options)
    # Before the test function starts, pytest calls it an error.
    result.assert_outcomes(failed=2, passed=1, errors=2)
    for reason in ('no such thing', 'not today', 'xfail: known', 'absent'):
        output = result.stdout.str().replace('Skipped: ', '')
        assert f'and this did not run: {reason}' in output


def test_skipped_module_fails_where_disallowed(
    plugin: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FREEZER_TEST_DISALLOW_SKIP', '1')
    plugin.makepyfile("import pytest\npytest.skip('none', allow_module_level=True)")
    plugin.runpytest_subprocess().assert_outcomes(errors=1)


def test_the_environment_is_not_the_callers(
    plugin: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('ACCESS_KEY', 'AWS_PROFILE', 'OS_CLOUD', 'http_proxy', 'HOME'):
        monkeypatch.setenv(name, 'of-the-caller')
    plugin.makepyfile("""
        import os
        def test_environment():
            assert 'of-the-caller' not in os.environ.values()
            assert os.listdir(os.environ['HOME']) == []
        """)
    plugin.runpytest_subprocess().assert_outcomes(passed=1)
