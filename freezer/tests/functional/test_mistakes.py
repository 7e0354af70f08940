"""What users mistype or overlook, and what the commands answer."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests.agent import Agent, LocalStore, job_file, run

# A local container


@pytest.fixture(params=['file', 'below a file', 'dangling', 'loop', 'socket'])
def no_folder(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, str]]:
    path = tmp_path / 'container'
    if request.param == 'file':
        path.touch()
        yield path, 'is not a directory'
    elif request.param == 'below a file':
        path.touch()
        yield path / 'below', f'{path} is not a directory'
    elif request.param == 'dangling':
        path.symlink_to('nowhere')
        yield path, 'is a symbolic link to nowhere, which does not exist'
    elif request.param == 'loop':
        path.symlink_to('container')
        yield path, 'Too many levels of symbolic links'
    else:
        os.mkfifo(path)
        yield path, 'is not a directory'


def test_a_container_that_is_no_directory(
    no_folder: tuple[Path, str], source: Path, tmp_path: Path
) -> None:
    path, problem = no_folder
    agent = Agent(LocalStore(path))
    for words in (
        ('backup', '--path-to-backup', source),
        ('backup', '--path-to-backup', source, '--dry-run'),
        ('restore', '--restore-abs-path', tmp_path / 'target'),
        ('info',),
        ('check',),
        ('verify',),
    ):
        assert agent.run(*words).only_error.startswith(
            f'Error: container {path}: {problem}'
        )


SPELLINGS = ('{0}/', '{0}/../copies', '{0}/.', '{1}/link', '{1}//copies')


@pytest.mark.parametrize('pair', [*itertools.combinations(SPELLINGS, 2)])
@pytest.mark.parametrize('exists', [True, False])
def test_one_directory_in_two_spellings(
    source: Path, tmp_path: Path, pair: tuple[str, str], exists: bool
) -> None:
    copies = tmp_path / 'copies'
    (tmp_path / 'link').symlink_to('copies')
    if exists:
        copies.mkdir()
    config = job_file(
        tmp_path / 'job',
        {
            f'storage:{name}': {
                'storage': 'local',
                'container': each.format(copies, tmp_path),
            }
            for name, each in zip('ab', pair, strict=True)
        },
    )
    error = run('--config', config, '--path-to-backup', source).only_error
    assert '[storage:a] and [storage:b] are the same container' in error
