"""What makes the start faster."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from freezer.utils import startup


def test_it_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with startup.no_garbage_collection():
        assert not gc.isenabled()
        with startup.no_garbage_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_failure() -> None:
    with pytest.raises(OSError, match='no'), startup.no_garbage_collection():
        raise OSError('no')
    assert gc.isenabled()


def test_who_does_without_is_left_alone() -> None:
    gc.disable()
    try:
        with startup.no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_collections_are_rare_and_still_happen() -> None:
    before = gc.get_threshold()
    try:
        startup.collect_less_often()
        assert before[0] < gc.get_threshold()[0] < 100_000
    finally:
        gc.set_threshold(*before)


SCRIPT = """
import sys, threading
from freezer.utils import startup
startup.defer_seldom_used()
import oslo_config.types
for name in ('netaddr', 'rfc3986'):
    assert type(sys.modules[name]).__name__ == '_Deferred', name
    assert 'core' not in vars(sys.modules[name])
found = []
def use():
    address = oslo_config.types.IPAddress()
    found.append((address('::1'), oslo_config.types.URI()('http://host/')))
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == [('::1', 'http://host/')] * 8, found
try: sys.modules['netaddr'].nothing
except AttributeError as error: print(error)
"""


def test_a_deferred_module_is_executed_when_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.stdout == "module 'netaddr' has no attribute 'nothing'\n", done.stderr


@pytest.mark.parametrize('action', ['info', 'check'])
def test_the_agent_imports_nothing_that_an_action_does_not_need(
    action: str, tmp_path: Path
) -> None:
    script = f"""
import sys
from freezer.main import main
main(['--storage', 's3', '--action', {action!r}, '--container', 'bucket',
      '--endpoint', 'http://127.0.0.1:1', '--access-key', 'a', '--secret-key', 's'])
print([name for name in ('netaddr.core', 'rfc3986.uri', 'asyncssh', 'openstack',
       'jmespath.lexer', 'iso8601.iso8601',
       'freezer.storage._s3.check.run') if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, '-c', script],
        env={'HOME': str(tmp_path), 'PATH': ''},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = ['freezer.storage._s3.check.run'] if action == 'check' else []
    assert done.stdout == f'{expected}\n', done.stderr
