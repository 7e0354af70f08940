"""The rest is in pyproject.toml. Here is what pbr cannot tell: the version of a tree
without history.
"""

import configparser
import os
import pathlib
import subprocess

import setuptools

HERE = pathlib.Path(__file__).resolve().parent


def pbr_knows() -> bool:
    """Whether there are tags or commits to count, or somebody has said it already."""
    if 'PBR_VERSION' in os.environ or (HERE / 'PKG-INFO').exists():
        return True
    # Of this directory: an export may lie inside of another project's clone.
    if not (HERE / '.git').exists():
        return False
    for command in (
        ['git', 'describe', '--exact-match'],
        # pbr takes a lone commit, as in a clone of depth 1, for version 0.0.0.
        ['git', 'rev-parse', '--verify', '--quiet', 'HEAD~1'],
    ):
        try:
            done = subprocess.run(command, cwd=HERE, capture_output=True, check=False)
        except FileNotFoundError:
            return False
        if done.returncode == 0:
            return True
    return False


if not pbr_knows():
    settings = configparser.ConfigParser()
    settings.read(HERE / 'setup.cfg')
    os.environ['PBR_VERSION'] = settings['metadata']['version'] + '.dev0'

setuptools.setup(setup_requires=['pbr>=5.10.0'], pbr=True)
