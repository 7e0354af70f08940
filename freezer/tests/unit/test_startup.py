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


def run(script: str, *path: Path) -> str:
    done = subprocess.run(
        [sys.executable, '-c', script, *map(str, path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_module_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / 'seldom.py').write_text('print("loaded")\nanswer = 42\n')
    said = run(
        'import sys\n'
        'from freezer.utils import startup\n'
        'sys.path.insert(0, sys.argv[1])\n'
        'for name in "seldom", "of_that_name_there_is_none":\n'
        '    sys.meta_path.insert(0, startup.Postponed(name))\n'
        'import seldom\n'
        'print("imported")\n'
        'print(seldom.answer)\n'
        'try:\n'
        '    import of_that_name_there_is_none\n'
        'except ModuleNotFoundError:\n'
        '    print("none")\n',
        tmp_path,
    )
    assert said.split() == ['imported', 'loaded', '42', 'none']


def test_the_agent_starts_without_what_it_has_no_option_for(tmp_path: Path) -> None:
    """And a URL is still one for who asks oslo.config for it."""
    said = run(
        'import sys\n'
        'from freezer.main import main\n'
        'here = sys.argv[1]\n'
        'main(["--storage", "local", "--container", here, "--action", "info",\n'
        '      "--log-file", here + "/log", "--metadata-out", here + "/out"])\n'
        'print("rfc3986.misc" in sys.modules)\n'
        'from oslo_config import types\n'
        'print(types.URI()("http://host/"))\n',
        tmp_path,
    )
    assert said.split() == ['False', 'http://host/']
