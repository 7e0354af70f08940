"""Job files in a directory, read again and again."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from freezer.exceptions import ConfigError
from freezer.scheduler.documents import check as documents_check
from freezer.scheduler.documents.check import check
from freezer.scheduler.documents.document import Document, DocumentError, Problem
from freezer.scheduler.sources import directory
from freezer.scheduler.sources.directory import JobDirectory
from freezer.scheduler.sources.source import JobListing

EXEC = {'action': 'exec', 'command': 'true'}


def write(path: Path, **top: Any) -> Path:
    path.write_text(json.dumps({'job_actions': [{'freezer_action': EXEC}]} | top))
    return path


def errors(listing: JobListing) -> list[str]:
    return [str(error) for error in listing.errors]


@pytest.fixture
def jobs(tmp_path: Path) -> JobDirectory:
    return JobDirectory(tmp_path)


def test_which_files_are_job_files(tmp_path: Path, jobs: JobDirectory) -> None:
    write(tmp_path / 'a.conf')
    for name in ('b.conf~', '.c.conf', 'd.json', 'conf'):
        (tmp_path / name).write_text('{')
    listing = jobs.list()
    assert list(listing.documents) == ['a']
    assert listing.errors == []


def test_single_job_file(tmp_path: Path) -> None:
    path = write(tmp_path / 'my job')
    jobs = JobDirectory(path)
    assert list(jobs.list().documents) == ['my job']
    path.unlink()
    with pytest.raises(ConfigError, match='my job'):
        jobs.list()


def test_unchanged_files_are_not_read_again(tmp_path: Path, jobs: JobDirectory) -> None:
    path = write(tmp_path / 'a.conf')
    first = jobs.list().documents['a']
    assert jobs.list().documents['a'] is first
    # Same size, and the old mtime.
    before = path.stat()
    path.write_text(path.read_text().replace('true', 'less'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert jobs.list().documents['a'].actions[0].options['command'] == 'less'


def test_invalid_file_keeps_its_last_valid_version(
    tmp_path: Path, jobs: JobDirectory
) -> None:
    path = write(tmp_path / 'a.conf')
    first = jobs.list().documents['a']
    path.write_text('{')
    for _look in range(2):
        listing = jobs.list()
        assert listing.documents['a'] is first
        assert len(listing.errors) == 1
    write(path, description='new')
    listing = jobs.list()
    assert listing.documents['a'].description == 'new'
    assert listing.errors == []
    path.write_text('{')
    jobs.list()
    path.unlink()
    assert jobs.list() == JobListing()


def test_two_files_with_one_job_id(tmp_path: Path, jobs: JobDirectory) -> None:
    first = write(tmp_path / 'a.conf', job_id='x')
    write(tmp_path / 'b.conf', job_id='x')
    write(tmp_path / 'c.conf', job_id='y')
    listing = jobs.list()
    assert sorted(listing.documents) == ['x', 'y']
    assert listing.documents['x'].path == str(first)
    (message,) = errors(listing)
    assert message == f'{tmp_path}/b.conf: line 1: job_id: x is the id of {first}'
    first.unlink()
    assert errors(jobs.list()) == []


def test_permissions_of_a_file(tmp_path: Path) -> None:
    action = {'action': 'info', 'storage': 'local', 'secret_key': 'sk/secret'}
    path = write(tmp_path / 'a.conf', job_actions=[{'freezer_action': action}])
    path.chmod(0o644)
    (remark,) = directory.read(path).remarks
    assert str(remark) == 'line 1: contains a secret, and everyone can read it'
    path.chmod(0o640)
    assert directory.read(path).remarks == ()
    path.chmod(0o666)
    with pytest.raises(DocumentError, match='writable by everyone'):
        directory.read(path)


def test_unreadable_files(tmp_path: Path, jobs: JobDirectory) -> None:
    (tmp_path / 'large.conf').write_text(' ' * (2 << 20))
    (tmp_path / 'dir.conf').mkdir()
    (tmp_path / 'nowhere.conf').symlink_to('nothing')
    write(tmp_path / 'good.conf')
    listing = jobs.list()
    assert list(listing.documents) == ['good']
    assert len(listing.errors) == 3
    with pytest.raises(ConfigError, match='jobs-dir'):
        JobDirectory(tmp_path / 'none').list()


def test_a_check_that_fails_stops_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / 'a.conf')
    run = functools.partial(check, environ={}, same_environ=True)
    jobs = JobDirectory(tmp_path, run)
    monkeypatch.setattr(documents_check, 'PYTHON', ('/bin/false',))
    assert list(jobs.list().documents) == ['a']
    assert 'the options of the jobs could not be checked' in caplog.text


def test_a_check_that_takes_too_long_counts_as_far_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number, command in enumerate(('true', 'sleep', 'false')):
        actions = [{'freezer_action': {'action': 'exec', 'command': command}}]
        write(tmp_path / f'{number}.conf', job_actions=actions)
    script = (
        'echo \'{"error": "cannot run", "is_missing": false}\'; '
        'printf "{\\"error\\""; sleep 60'
    )
    monkeypatch.setattr(documents_check, 'PYTHON', ('sh', '-c', script))
    # The shell writes at once.
    run = functools.partial(check, environ={}, same_environ=True, seconds=10)
    listing = JobDirectory(tmp_path, run).list()
    assert len(listing.documents) == 2
    assert 'cannot run' in ''.join(errors(listing))
    assert 'the options of 2 jobs of 3 could not be checked' in caplog.text


def test_only_changed_actions_are_checked(tmp_path: Path) -> None:
    seen: list[str] = []
    refused = True

    def one(each: Document) -> Document | DocumentError:
        seen.append(each.job_id)
        problem = Problem(1, '', 'cannot run')
        return DocumentError(each.path, [problem]) if refused else each

    jobs = JobDirectory(tmp_path, lambda documents: [*map(one, documents)])
    write(tmp_path / 'a.conf')
    write(tmp_path / 'b.conf', job_actions=[])
    listing = jobs.list()
    assert (list(listing.documents), len(listing.errors)) == ([], 2)
    # Not at each interval.
    jobs.list()
    assert seen == ['a']
    refused = False
    jobs.refresh()
    assert list(jobs.list().documents) == ['a']
    write(tmp_path / 'a.conf', description='other')
    assert jobs.list().documents['a'].description == 'other'
    assert seen == ['a', 'a']
    (tmp_path / 'a.conf').unlink()
    assert list(jobs.list().documents) == []
