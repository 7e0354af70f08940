"""What of a source is in a backup: mounts, excludes, the container, another path."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import handmade, trees
from freezer.tests.agent import Agent, LocalStore, assert_restores
from freezer.tests.machine import bound, mounted


def left_out(made_err: str) -> list[str]:
    return [line for line in made_err.splitlines() if 'excluded nothing' in line]


# Mounts


@contextlib.contextmanager
def with_mounts(source: Path, tmp_path: Path) -> Iterator[None]:
    """A directory and a file of another file system, and a virtual file system."""
    (source / 'file name').touch()
    (source / 'proc').mkdir(exist_ok=True)
    tmp_path.mkdir(exist_ok=True)
    with (
        mounted('none', tmp_path / 'other', '-t', 'tmpfs') as other,
        mounted('proc', source / 'proc', '-t', 'proc'),
    ):
        (other / 'data').mkdir()
        (other / 'data/inside').write_text('inside')
        (other / 'one').write_text('one file')
        (source / 'data').mkdir(exist_ok=True)
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


def test_links_to_another_file_system(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """Files that a followed link leads to are stored, directories are named."""
    with mounted('none', tmp_path / 'other', '-t', 'tmpfs') as other:
        (other / 'file').write_text('content')
        (other / 'folder').mkdir()
        (other / 'folder/file').write_text('deeper')
        (source / 'link').symlink_to(other / 'file')
        (source / 'to folder').symlink_to(other / 'folder')
        told = local.told('--dereference-symlink', 'soft', '--consistency-check')
        made = told.increment(source).check()
        assert made.document['warnings'] == 1
        assert f'{source}/to folder is on another file system' in made.err
        target = tmp_path / 'target'
        local.restore(
            target,
            *('--consistency-checksum', made.document['consistency_checksum']),
        ).check()
        assert (target / 'link').read_text() == 'content'
        assert list((target / 'to folder').iterdir()) == []
        told.increment(source, '--cross-mounts').check()
    local.restore(tmp_path / 'all').check()
    assert (tmp_path / 'all/to folder/file').read_text() == 'deeper'


@pytest.mark.parametrize('options', [(), ('--one-file-system',), ('--cross-mounts',)])
def test_an_overlay_of_several_devices(
    local: Agent, source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Its files have the devices of its layers, and its directories another one."""
    (tmp_path / 'lower/deep').mkdir(parents=True)
    (tmp_path / 'lower/deep/below').write_text('below')
    (tmp_path / 'lower/name').write_text('below')
    with mounted('none', tmp_path / 'memory', '-t', 'tmpfs') as memory:
        for name in ('upper', 'work'):
            (memory / name).mkdir()
        layers = (
            f'lowerdir={tmp_path}/lower,upperdir={memory}/upper,workdir={memory}/work'
        )
        with mounted('overlay', source, '-t', 'overlay', '-o', layers):
            (source / 'above').write_text('above')
            (source / 'mount').mkdir()
            (memory / 'elsewhere').write_text('elsewhere')
            with bound(memory, source / 'mount'):
                made = local.increment(source, *options).check()
            (source / 'deep/below').write_text('changed')
            expected = trees.describe(source)
            again = local.increment(source, *options).check()
            assert again.document['curr_backup_level'] == 1
    crossed = options == ('--cross-mounts',)
    assert made.document['warnings'] == (not options)
    # The mount has the upper layer, too.
    assert made.document['files'] == 3 + 2 * crossed
    assert_restores(local, expected, tmp_path / 'target')


def test_a_file_system_without_blocks(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """As that of autofs, and others by FUSE."""
    (source / 'home').mkdir()
    with mounted('none', source / 'home', '-t', 'tmpfs', '-o', 'size=0'):
        (source / 'home/file').write_text('content')
        made = local.increment(source).check()
        assert f'{source}/home is on another file system' in made.err
        local.increment(source, '--cross-mounts').check()
    local.restore(tmp_path / 'target').check()
    assert (tmp_path / 'target/home/file').read_text() == 'content'


def test_the_checksum_is_of_the_backup(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """Not of what it leaves out."""
    for options in ((), ('--cross-mounts',)):
        target = tmp_path / f'target{options}'
        with with_mounts(source, tmp_path / f'mounts{options}'):
            made = local.backup(source, '--consistency-check', *options).check()
            local.restore(
                target,
                *('--consistency-checksum', made.document['consistency_checksum']),
            ).check()


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
        ('{parent}//source/./cache', {'cache'}),
        ('.//cache', {'cache'}),
        ('./cache/.', {'cache'}),
        ('{parent}/alias/cache', {'cache'}),
        ('{source}/short/cache', {'deep/cache'}),
        ('{source}/[[]odd]/*', {'[odd]/a'}),
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
    (tmp_path / 'alias').symlink_to(source)
    (source / 'short').symlink_to('deep')
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


ALL = ('{source}', '{source}/', '{source}/*', '{source}/**', '/**', '{parent}', '/')


@pytest.mark.parametrize('pattern', ALL)
def test_all_excluded(local: Agent, source: Path, pattern: str) -> None:
    text = pattern.format(source=source, parent=source.parent)
    made = local.increment(source, '--exclude', text)
    assert 'excludes all of' in made.only_error


def test_an_empty_pattern(local: Agent, source: Path) -> None:
    assert 'a pattern is empty' in local.backup(source, '--exclude', '').only_error


def test_a_source_whose_name_is_a_pattern(
    local: Agent, tmp_path: Path, source: Path
) -> None:
    odd = tmp_path / '[x]'
    source.rename(odd)
    (odd / 'tmp').touch()
    made = local.backup(odd, '--exclude', f'{odd}/tmp').check()
    assert made.document['left_out'] == 1


def test_a_name_with_backslashes(local: Agent, source: Path, tmp_path: Path) -> None:
    """tar would take it for an escape, of the name of another file."""
    for name in (r'a\101', 'aA'):
        (source / name).mkdir()
        (source / name / name).write_text(name)
    for each in (source / r'a\101', source / r'a\101' / r'a\101'):
        local.increment(each).check()
        target = tmp_path / rf'target\101-{len(each.parts)}'
        target.with_name(target.name.replace(r'\101', 'A')).mkdir()
        local.restore(target).check()
        assert {path.name: path.read_text() for path in target.iterdir()} == {
            r'a\101': r'a\101'
        }


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


def test_the_container_under_another_name(source: Path, tmp_path: Path) -> None:
    local = Agent(LocalStore(tmp_path / 'store'))
    (source / 'alias').mkdir()
    local.backup(source).check()
    with bound(tmp_path / 'store', source / 'alias'):
        made = local.backup(source).check()
    assert '1 path (1 storage of backups)' in made.err
    local.restore(tmp_path / 'target').check()
    assert not (tmp_path / 'target/alias').exists()


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


def test_another_path_begins_a_chain_without_an_index(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """Where the first level does not say its path, its names decide; then the engine's
    file of the second has it."""
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'name').touch()
    local.increment(source).check()
    handmade.remove_indexes(local.store)
    made = local.increment(source).check()
    assert made.document['curr_backup_level'] == 1
    assert not handmade.indexes(local.store)
    # Names do not decide any more.
    (other / 'file').touch()
    made = local.increment(other).check()
    assert made.document['curr_backup_level'] == 0
    assert f'the previous level is of {source}, and this backup of {other}' in made.err


def test_other_names_begin_a_chain(local: Agent, source: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'name').touch()
    local.increment(source).check()
    handmade.remove_indexes(local.store)
    made = local.increment(other).check()
    assert made.document['curr_backup_level'] == 0
    assert f'{other} has none of the names that the previous level has' in made.err
    assert_restores(local, other, tmp_path / 'target')


def test_the_same_path_in_other_words(local: Agent, source: Path) -> None:
    local.increment(source).check()
    words = f'{source}/../{source.name}/'
    assert local.increment(words).check().document['curr_backup_level'] == 1
