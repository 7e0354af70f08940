"""Freezer 19.0.0 with our driver, made once for all workers."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from freezer.tests.agent import ROOT
from freezer.tests.compat import upstream

INSTALLER = ROOT / 'tools' / 'install-into-freezer.sh'


@pytest.fixture(scope='session')
def freezer19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with Freezer 19.0.0 in which our driver was installed."""
    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        shared = shared.parent
    folder, ready = shared / 'freezer19', shared / 'freezer19.ready'
    with open(shared / 'freezer19.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            try:
                upstream.build(folder)
            except upstream.Unavailable as error:
                pytest.skip(f'no freezer 19.0.0: {error}')
            subprocess.run([INSTALLER, upstream.site_packages(folder)], check=True)
            ready.touch()
    return folder
