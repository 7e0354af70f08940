"""The comparison with other tools: its commands still do what the page says."""

import shutil
import subprocess
import sys

import pytest

from freezer.tests.agent import ROOT


@pytest.mark.timeout(600)
def test_every_command_of_the_comparison() -> None:
    """Exit code, output and result of each, and whether the page is up to date."""
    for program in ('restic', 'borg', 'rclone'):
        if shutil.which(program) is None:
            pytest.skip(f'no {program}')
    argv = [sys.executable, '-m', 'benchmarks.compare', '--check']
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
