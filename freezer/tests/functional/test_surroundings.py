"""What a backup is made of, and where the agent runs, is odd: it says so, or holds."""

import os
import time
from pathlib import Path

import pytest

from freezer.engine.tar import snapshot
from freezer.tests import trees
from freezer.tests.agent import Agent, missed

# What is this much older than a level counts as not changed by the next.
OLD = snapshot.MARGIN_NANOSECONDS / 10**9 + 0.1


def level(agent: Agent, path: object) -> int:
    made: int = agent.increment(path).check().document['curr_backup_level']
    return made


# Single files


@pytest.mark.parametrize('other', ['other', 'folder/one'])
def test_another_single_file_begins_a_chain(
    local: Agent, tmp_path: Path, other: str
) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'one').write_text('first')
    (tmp_path / other).write_text('second')
    time.sleep(OLD)
    assert level(local, tmp_path / 'one') == 0
    assert level(local, tmp_path / 'one') == 1
    # Once: nothing was stored, because it is older, and the first came back.
    assert level(local, tmp_path / other) == 0
    local.restore(tmp_path / 'target').check()
    assert os.listdir(tmp_path / 'target') == [Path(other).name]
    assert (tmp_path / 'target' / Path(other).name).read_text() == 'second'


def test_directory_that_became_a_file_and_a_directory(
    local: Agent, tmp_path: Path
) -> None:
    path = tmp_path / 'path'
    path.mkdir()
    (path / 'inside').write_text('inside')
    assert level(local, path) == 0
    (path / 'inside').unlink()
    path.rmdir()
    path.write_text('a file')
    # Once: what the directory had held came back as well.
    assert level(local, path) == 0
    local.restore(tmp_path / 'file').check()
    assert os.listdir(tmp_path / 'file') == ['path']
    path.unlink()
    path.mkdir()
    (path / 'later').write_text('later')
    assert level(local, path) == 0
    assert level(local, path) == 1
    local.restore(tmp_path / 'directory').check()
    assert missed(trees.describe(path), tmp_path / 'directory') == []
