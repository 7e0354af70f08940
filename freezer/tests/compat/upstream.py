"""Freezer 19.0.0 itself, with our S3 driver in it, and what it keeps of a tree."""

import dataclasses
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from freezer.tests import packages, trees
from freezer.tests.agent import Agent, Store
from freezer.tests.compat import clouds

NS = 10**9


def build(folder: Path) -> None:
    """Make a virtual environment with Freezer 19.0.0 and all that these tests have.

    The driver is not in it yet.
    """
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    wanted = ('freezer==19.0.0', 'python-swiftclient==4.11.0')
    packages.install(folder, '--no-deps', *wanted)
    own = site_packages(folder)
    shutil.copy(clouds.__file__, own / 'clouds.py')
    # Ours come last: its own freezer is found first.
    lines = [sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]
    lines.append('import clouds; clouds.pretend()')
    (own / 'tests.pth').write_text('\n'.join(lines) + '\n')


def site_packages(folder: Path) -> Path:
    (found,) = folder.glob('lib/python*/site-packages')
    return found


class Upstream(Agent):
    """The agent of Freezer 19, told and run as ours is.

    :param folder: the virtual environment it is in
    """

    def __init__(self, folder: Path, store: Store, name: str = 'bk') -> None:
        # It asks Keystone before anything else.
        cloud = {
            f'OS_{variable}': 'nowhere'
            for variable in ('AUTH_URL', 'USERNAME', 'PASSWORD', 'PROJECT_NAME')
        }
        env = {'PYTHONPATH': None, **cloud}
        # To write all that the machine has in memory takes time, and tells nothing.
        super().__init__(store, name, ['--nosync'], env)
        self.program = (str(folder / 'bin' / 'freezer-agent'),)


def in_seconds(tree: Mapping[bytes, trees.Entry]) -> dict[bytes, trees.Entry]:
    """A tree as Freezer 19 keeps it."""
    return {
        path: dataclasses.replace(
            entry, mtime_ns=entry.mtime_ns // NS * NS, allocated=entry.size
        )
        for path, entry in tree.items()
    }


def lost_by_upstream(expected: Path, actual: Path) -> list[str]:
    """In what a tree is not another, as far as Freezer 19 keeps it."""
    return trees.differences(
        in_seconds(trees.describe(expected)), in_seconds(trees.describe(actual))
    )
