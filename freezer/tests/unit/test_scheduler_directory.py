"""The directory of job files, as it is looked at again and again."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from freezer.exceptions import ConfigError
from freezer.scheduler import directory
from freezer.scheduler.directory import Directory
from freezer.scheduler.document import DocumentError
from freezer.scheduler.source import Listing

EXEC = {'action': 'exec', 'command': 'true'}


def write(path: Path, **top: Any) -> Path:
    path.write_text(json.dumps({'job_actions': [{'freezer_action': EXEC}], **top}))
    return path


def errors(listing: Listing) -> list[str]:
    return [str(error) for error in listing.errors]


def test_what_is_a_job_file(tmp_path: Path) -> None:
    write(tmp_path / 'a.conf')
    for name in ('b.conf~', '.c.conf', 'd.json', 'conf'):
        (tmp_path / name).write_text('{')
    listing = Directory(tmp_path).list()
    assert list(listing.documents) == ['a']
    assert listing.errors == []


def test_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / 'my job')
    looked_at = Directory(path)
    assert list(looked_at.list().documents) == ['my job']
    path.unlink()
    with pytest.raises(ConfigError, match='my job'):
        looked_at.list()


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.conf')
    looked_at = Directory(tmp_path)
    first = looked_at.list().documents['a']
    assert looked_at.list().documents['a'] is first
    # Of the same size, and with a time that was set back.
    before = path.stat()
    path.write_text(path.read_text().replace('true', 'less'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert looked_at.list().documents['a'].actions[0].options['command'] == 'less'


def test_a_file_that_is_wrong_and_right_again(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.conf')
    looked_at = Directory(tmp_path)
    first = looked_at.list().documents['a']
    path.write_text('{')
    for _look in range(2):
        listing = looked_at.list()
        assert listing.documents['a'] is first
        assert len(listing.errors) == 1
    write(path, description='new')
    listing = looked_at.list()
    assert listing.documents['a'].description == 'new'
    assert listing.errors == []
    path.write_text('{')
    looked_at.list()
    path.unlink()
    assert looked_at.list() == Listing()


def test_two_files_of_one_job(tmp_path: Path) -> None:
    first = write(tmp_path / 'a.conf', job_id='x')
    write(tmp_path / 'b.conf', job_id='x')
    write(tmp_path / 'c.conf', job_id='y')
    looked_at = Directory(tmp_path)
    listing = looked_at.list()
    assert sorted(listing.documents) == ['x', 'y']
    assert listing.documents['x'].path == str(first)
    (said,) = errors(listing)
    assert said == f'{tmp_path}/b.conf: line 1: job_id: x is the id of {first}'
    first.unlink()
    assert errors(looked_at.list()) == []


def test_a_file_that_everybody_can_write_to(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.conf')
    path.chmod(0o666)
    with pytest.raises(DocumentError, match='everybody can write'):
        directory.read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / 'large.conf').write_text(' ' * (2 << 20))
    (tmp_path / 'dir.conf').mkdir()
    (tmp_path / 'nowhere.conf').symlink_to('nothing')
    write(tmp_path / 'good.conf')
    listing = Directory(tmp_path).list()
    assert list(listing.documents) == ['good']
    assert len(listing.errors) == 3


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='jobs-dir'):
        Directory(tmp_path / 'none').list()
