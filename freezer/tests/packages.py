"""Packages for the environments that tests make."""

import subprocess
import sys
from pathlib import Path


class Unavailable(Exception):
    """The packages cannot be installed."""


def install(folder: Path, *arguments: str) -> None:
    """Install packages into the virtual environment at a path, by uv: pip takes minutes
    for those of OpenStack. By pip where uv finds no index, as it does not read pip's
    configuration.

    :param arguments: options that both know, and packages
    :raises Unavailable: with what pip said
    """
    python = f'{folder}/bin/python'
    uv = ['uv', 'pip', 'install', '--system-certs', f'--python={python}']
    pip = ['pip', f'--python={python}', 'install', '--disable-pip-version-check']
    for tool in (uv, pip):
        command = [sys.executable, '-m', *tool, '--quiet', *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    raise Unavailable(done.stderr.strip())
