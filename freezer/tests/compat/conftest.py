"""Freezer 19.0.0 with our driver, made once for all workers."""

import subprocess
from pathlib import Path

import pytest

from freezer.tests import packages
from freezer.tests.agent import ROOT
from freezer.tests.compat import upstream
from freezer.tests.once import made_once

INSTALLER = ROOT / 'tools' / 'install-into-freezer.sh'


@pytest.fixture(scope='session')
def freezer19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with Freezer 19.0.0 in which our driver was installed."""

    def make(folder: Path) -> None:
        try:
            upstream.build(folder)
        except packages.Unavailable as error:
            pytest.skip(f'no freezer 19.0.0: {error}')
        subprocess.run([INSTALLER, upstream.site_packages(folder)], check=True)

    return made_once(tmp_path_factory, 'freezer19', make)
