"""Modules that are loaded when they are used."""

import sys
from pathlib import Path

from freezer.tests.commands import run_command


def run(script: str, *path: Path) -> str:
    return run_command(sys.executable, '-c', script, *path, check=True).stdout.strip()


def test_a_module_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / 'seldom.py').write_text('print("loaded")\nanswer = 42\n')
    said = run(
        'import sys\n'
        'from freezer.utils import lazy\n'
        'sys.path.insert(0, sys.argv[1])\n'
        'lazy.postpone("seldom", "of_that_name_there_is_none")\n'
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
