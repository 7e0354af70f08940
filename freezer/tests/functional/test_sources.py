"""What of a source is in a backup: mounts, excludes, the container, another path."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests.agent import Agent, LocalStore, assert_restores
from freezer.tests.machine import bound, mounted


def left_out(made_err: str) -> list[str]:
    return [line for line in made_err.splitlines() if 'excluded nothing' in line]


# Mounts


@contextlib.contextmanager
def with_mounts(source: Path, tmp_path: Path) -> Iterator[None]:
    """A directory and a file of another file system, and a virtual file system."""
    (source / 'file name').touch()
    (source / 'proc').mkdir()
    with (
        mounted('none', tmp_path / 'other', '-t', 'tmpfs') as other,
        mounted('proc', source / 'proc', '-t', 'proc'),
    ):
        (other / 'data').mkdir()
        (other / 'data/inside').write_text('inside')
        (other / 'one').write_text('one file')
        (source / 'data').mkdir()
        with (
            bound(other / 'data', source / 'data'),
            bound(other / 'one', source / 'file name'),
        ):
            yield


def test_mounts_are_named(local: Agent, source: Path, tmp_path: Path) -> None:
    with with_mounts(source, tmp_path):
        made = local.backup(source).check()
        accepted = local.backup(source, '--one-file-system').check()
    lines = [line for line in made.err.splitlines() if 'another file system' in line]
    assert f'Warning: {source}/data is on another file system (' in made.err
    assert f'Warning: {source}/file name is on another file system (8 B)' in made.err
    assert not any(f'{source}/proc' in line for line in lines)
    assert '--cross-mounts' in made.err
    assert made.document['warnings'] == 2
    assert accepted.document['warnings'] == 0
    # They are listed all the same.
    assert accepted.document['left_out'] == 3


def test_mounts_are_crossed(local: Agent, source: Path, tmp_path: Path) -> None:
    """Level after level, and never into a virtual file system."""
    told = local.told('--cross-mounts')
    with with_mounts(source, tmp_path):
        assert told.increment(source).check().document['warnings'] == 0
        (source / 'data/second').write_text('second')
        (source / 'data/inside').unlink()
        made = told.increment(source).check()
        assert made.document['curr_backup_level'] == 1
    target = tmp_path / 'target'
    local.restore(target).check()
    assert (target / 'file name').read_text() == 'one file'
    assert os.listdir(target / 'data') == ['second']
    assert os.listdir(target / 'proc') == []


def test_excluded_mounts_are_no_surprise(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    with with_mounts(source, tmp_path):
        made = local.backup(
            source,
            *('--exclude', f'{source}/data/*', '--exclude', f'{source}/proc/*'),
            *('--exclude', 'file name'),
        ).check()
    assert made.document['warnings'] == 0


def test_links_to_another_file_system_are_named(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """tar leaves out what they lead to."""
    with mounted('none', tmp_path / 'other', '-t', 'tmpfs') as other:
        (other / 'file').write_text('content')
        (source / 'link').symlink_to(other / 'file')
        told = local.told('--dereference-symlink', 'soft')
        made = told.backup(source).check()
        assert f'{source}/link is on another file system' in made.err
        told.increment(source, '--cross-mounts').check()
    target = tmp_path / 'target'
    local.restore(target).check()
    assert (target / 'link').read_text() == 'content'


def test_both_options_at_once(local: Agent, source: Path) -> None:
    made = local.backup(source, '--cross-mounts', '--one-file-system')
    assert 'cross-mounts and one-file-system: pass one of them' in made.only_error


# Excludes

FILES = (
    *('cache/a', 'deep/cache/b', 'cache file', 'x.log', 'deep/y.log', 'deep/keep'),
    *('[odd]/a', 'back\\slash'),
)


@pytest.mark.parametrize(
    'pattern, excluded',
    [
        ('{source}/cache', {'cache'}),
        ('{source}/cache/', {'cache'}),
        ('cache/', {'cache', 'deep/cache'}),
        ('./cache', {'cache'}),
        ('{source}/deep/*.log', {'deep/y.log'}),
        ('{parent}/*/deep/cache', {'deep/cache'}),
        ('/**/{through}/cache', {'cache'}),
        ('{source}/[[]odd]', {'[odd]'}),
        ('{source}/x.log', {'x.log'}),
        ('{source}/**/cache', {'cache', 'deep/cache'}),
        ('*.log', {'x.log', 'deep/y.log'}),
    ],
)
@pytest.mark.parametrize('through', ['source', 'link'])
def test_what_a_pattern_excludes(
    local: Agent,
    source: Path,
    tmp_path: Path,
    pattern: str,
    excluded: set[str],
    through: str,
) -> None:
    """The same if the source is given by a link to it, or with a slash."""
    for name in FILES:
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).touch()
    link = tmp_path / 'link'
    link.symlink_to(source)
    names = {'source': source, 'link': link}
    text = pattern.format(source=source, parent=tmp_path, through=through)
    made = local.backup(f'{names[through]}/', '--exclude', text).check()
    assert left_out(made.err) == []
    target = tmp_path / 'target'
    local.restore(target).check()
    missing = {
        str(path.relative_to(source))
        for path in source.rglob('*')
        if not (target / path.relative_to(source)).exists()
    }
    top = {path for path in missing if str(Path(path).parent) not in missing}
    assert top == excluded


def test_a_pattern_with_the_path_of_a_link(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    (source / 'cache').touch()
    link = tmp_path / 'link'
    link.symlink_to(source)
    for pattern in (link / 'cache', source / 'cache'):
        made = local.backup(f'{link}/', '--exclude', pattern).check()
        assert made.document['left_out'] == 1
        assert left_out(made.err) == []


@pytest.mark.parametrize(
    'pattern, why',
    [
        ('/elsewhere/cache', 'the path is not below {source}'),
        ('/cache', 'the path is not below {source}'),
        ('*.log, *.pyc', 'a comma does not separate patterns'),
        ('cache', 'nothing has such a name at present'),
        ('./deep/file', 'nothing has such a name at present'),
    ],
)
def test_a_pattern_that_excludes_nothing(
    local: Agent, source: Path, pattern: str, why: str
) -> None:
    (source / 'x.log').touch()
    made = local.backup(source, '--exclude', pattern).check()
    (line,) = left_out(made.err)
    expected = f'Warning: --exclude {pattern!r} excluded nothing: '
    assert line.startswith(expected + why.format(source=source))


def test_patterns_below_an_excluded_directory(local: Agent, source: Path) -> None:
    (source / 'cache/deep').mkdir(parents=True)
    patterns = ('cache', 'cache/deep/*', f'{source}/cache/x/y', './cache/z')
    told = [word for each in patterns for word in ('--exclude', each)]
    assert left_out(local.backup(source, *told).check().err) == []


@pytest.mark.parametrize('pattern', ['{source}', '{source}/', '{source}/**', '/**'])
def test_all_excluded(local: Agent, source: Path, pattern: str) -> None:
    made = local.increment(source, '--exclude', pattern.format(source=source))
    assert 'excludes all of' in made.only_error


def test_all_excluded_at_an_increment(local: Agent, source: Path) -> None:
    """An empty level would remove everything."""
    local.increment(source).check()
    assert 'leaves nothing' in local.increment(source, '--exclude', '.').error


# The container


@pytest.mark.parametrize('name', ['backups', 'deep/[backups] *'])
@pytest.mark.parametrize('through', ['source', 'link'])
def test_the_container_inside_the_source(
    source: Path, tmp_path: Path, name: str, through: str
) -> None:
    (tmp_path / 'link').symlink_to(source)
    (source / 'deep').mkdir()
    (source / 'deep/b').touch()
    local = Agent(LocalStore(source / name))
    for level in (0, 1):
        made = local.increment(tmp_path / through).check()
        assert made.document['curr_backup_level'] == level
        assert made.document['warnings'] == 0
        assert f'1 path (1 storage of backups)\n    {name}' in made.err
    target = tmp_path / 'target'
    local.restore(target).check()
    assert not (target / name).exists()
    assert (target / 'deep/b').exists()


# Another path


def test_another_path_begins_a_chain(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'name').touch()
    local.increment(source).check()
    made = local.increment(other).check()
    assert made.document['curr_backup_level'] == 0
    assert f'the previous level is of {source}, and this backup of {other}' in made.err
    assert 'starting a new chain at level 0' in made.err
    assert_restores(local, other, tmp_path / 'target')


def test_the_same_path_in_other_words(local: Agent, source: Path) -> None:
    local.increment(source).check()
    words = f'{source}/../{source.name}/'
    assert local.increment(words).check().document['curr_backup_level'] == 1
