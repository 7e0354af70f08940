"""Several paths in one backup, and paths that a file lists (``sources.rst``)."""

import contextlib
import json
import os
import shutil
import socket
import tarfile
import time
from pathlib import Path

import pytest

from freezer.engine import path_list
from freezer.engine.path_list import ListedPath
from freezer.engine.settings import EngineSettings
from freezer.engine.tar.create import members
from freezer.engine.tar.source import source_at
from freezer.exceptions import ConfigError, EngineError
from freezer.job import INCOMPLETE
from freezer.tests import machine, trees
from freezer.tests.agent import Agent, LocalStore, Result, iso, missed


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The common parent of the paths."""
    top = tmp_path / 'top'
    for name in ('a/b/file', 'a/b/#c', 'a/beside', 'd/file', 'e'):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    (top / 'link').symlink_to('a')
    return top


def back_up(agent: Agent, *paths: Path, options: tuple[object, ...] = ()) -> Result:
    words = [word for path in paths for word in ('--path-to-backup', path)]
    return agent.run('backup', '--incremental', '--metadata-out', '-', *words, *options)


def listed(agent: Agent) -> dict[str, int]:
    """Path -> level."""
    lines = agent.run('list', '--json').check().out.splitlines()
    return {each['path']: each['level'] for each in map(json.loads, lines)}


def level(result: Result) -> int:
    number: int = result.check().document['curr_backup_level']
    return number


def test_members(local: Agent, top: Path, tmp_path: Path) -> None:
    """Plain tar finds the paths, and the directories above them without a list of
    names: it removes nothing that is beside the paths in its target."""
    back_up(local, top / 'a/b', top / 'e', options=('--compression', 'none')).check()
    (data,) = tmp_path.glob('**/data/tar/*/*/*/data')
    with tarfile.open(data) as archive:
        lists = {member.name: 'GNU.dumpdir' in member.pax_headers for member in archive}
    names = ('.', './a', './a/b', './e', './a/b/file', './a/b/#c')
    assert lists == {name: name == './a/b' for name in names}


def test_paths_that_change(local: Agent, top: Path, tmp_path: Path) -> None:
    """One that is added is archived whole; without one, a chain begins."""
    paths = [top / 'a/b', top / 'e']
    assert level(back_up(local, *paths)) == 0
    (top / 'e').write_text('changed')
    assert level(back_up(local, *paths, top / 'd')) == 1
    found = listed(local)
    assert found.keys() == {'a', 'a/b', 'a/b/#c', 'a/b/file', 'd', 'd/file', 'e'}
    assert found['d/file'] == found['e'] == 1
    # A directory above some of them.
    assert level(back_up(local, top / 'a', top / 'e', top / 'd')) == 2
    assert listed(local)['a/beside'] == 2
    (top / 'a/b/file').unlink()
    assert level(back_up(local, top)) == 3
    target = tmp_path / 'target'
    local.restore(target).check()
    assert missed(trees.describe(top), target) == []
    made = back_up(local, top / 'a', top / 'e')
    assert level(made) == 0
    assert f'the previous level is of all of {top}' in made.err
    made = back_up(local, top / 'a', top / 'd')
    assert level(made) == 0
    assert f'{top}/e is in the previous level, and not among the paths' in made.err
    (top / 'd/file').unlink()
    (top / 'd').rmdir()
    (top / 'd').touch()
    made = back_up(local, top / 'a', top / 'd')
    assert level(made) == 0
    assert f'{top}/d was a directory in the previous level, and is a file' in made.err
    made = back_up(local, top / 'a/b', top / 'a/beside')
    assert level(made) == 0
    assert f'the previous level is of {top}, and this backup of {top}/a' in made.err


def test_paths_that_are_given_twice(local: Agent, top: Path) -> None:
    given = (top / 'a', top / 'link/b', top / 'a/', top / 'd/../e', top / 'link')
    made = back_up(local, *given).check()
    assert f'{top}/link/b is in {top}/a: it is backed up once' in made.err
    assert f'{top}/a is given twice' not in made.err
    assert f'{top}/link is a symbolic link; only the link is backed up' in made.err
    assert f'Backed up {top}/a, {top}/e and {top}/link as level 0' in made.err
    assert {'a/b/file', 'e', 'link'} <= listed(local).keys()
    # One path is left, and the backup begins there.
    made = back_up(local, top / 'a/b', top / 'a').check()
    assert listed(local).keys() == {'b', 'b/file', 'b/#c', 'beside'}


def test_a_socket(local: Agent, top: Path, tmp_path: Path) -> None:
    """A path alone, or one of several, is an error; one of a list is left out."""
    with contextlib.chdir(top), socket.socket(socket.AF_UNIX) as server:
        server.bind('s')
    for given in ([top / 's'], [top / 's', top / 'e']):
        error = f'Error: path-to-backup {top}/s: a socket, which cannot be stored'
        assert back_up(local, *given).only_error == error
    (tmp_path / 'list').write_text('s\ne\n')
    back_up(local, top, options=('--files-from', tmp_path / 'list')).check()
    assert listed(local).keys() == {'e'}


def test_excludes(local: Agent, top: Path) -> None:
    options = ('--exclude', 'file', '--exclude', top / 'a/b/#c', '--exclude', 'link')
    paths = (top / 'a/b', top / 'd', top / 'link')
    made = back_up(local, *paths, options=options).check()
    assert listed(local).keys() == {'a', 'a/b', 'd'}
    assert 'Left out:  4 paths (4 excluded)' in made.err
    made = back_up(local, *paths, options=('--exclude', '[adl]*'))
    assert 'leaves nothing to back up' in made.error


@pytest.mark.skipif(not trees.is_root(), reason='mounts')
def test_paths_on_several_file_systems(local: Agent, top: Path, tmp_path: Path) -> None:
    """A path is backed up whatever it is on; what is mounted below it is not."""
    with machine.mounted('tmpfs', top / 'm', '-t', 'tmpfs'):
        (top / 'm/n').mkdir()
        (top / 'm/n/file').write_text('mounted')
        with machine.mounted('tmpfs', top / 'm/n/o', '-t', 'tmpfs'):
            (top / 'm/n/o/file').write_text('deeper')
            paths = (top / 'm/n', top / 'd', top / 'm/n/o/file')
            made = back_up(local, *paths[:2]).check()
            assert listed(local).keys() == {
                *('d', 'd/file', 'm', 'm/n', 'm/n/file', 'm/n/o')
            }
            assert f'{top}/m/n/o is on another file system' in made.err
            made = back_up(local, top / 'm/n/o', top / 'd').check()
            assert 'm/n/o/file' in listed(local)


@pytest.mark.parametrize('other', ['e', 'link'])
@pytest.mark.parametrize('first', [0, 1])
def test_a_directory_that_is_replaced_meanwhile(
    local: Agent, top: Path, tmp_path: Path, first: int, other: str
) -> None:
    """tar does not say that it skips a link, nor a file, unless it may not read it."""
    given = top / 'a', top / 'd'
    if first:
        back_up(local, *given).check()
    racing = machine.with_exchange(local, top / 'd', top / other, './a')
    made = back_up(racing, *given)
    assert made.code == INCOMPLETE, made
    skipped = f'{top}/d changed while it was read, and is not in the backup' in made.err
    assert skipped or (other == 'e' and './d: Cannot open' in made.err), made
    assert ('d/file' in listed(local)) == bool(first)
    local.restore(tmp_path / 'incomplete').check()
    machine.exchange(top / 'd', top / other)
    assert level(back_up(local, *given)) == first + 1
    target = tmp_path / 'target'
    local.restore(target).check()
    assert sorted(os.listdir(target)) == ['a', 'd']
    assert missed(trees.describe(top / 'd'), target / 'd') == []


def test_a_path_that_is_gone_before_the_walk(top: Path, tmp_path: Path) -> None:
    """The error has its whole path."""
    source = source_at([f'{top}/a/b/file', f'{top}/e'], None, '', follows_links=False)
    (top / 'a/b/file').unlink()
    with pytest.raises(EngineError, match=f'{top}/a/b/file: No such file'):
        members(source, EngineSettings())
    shutil.rmtree(top / 'a')
    with pytest.raises(EngineError, match=f'{top}/a: No such file'):
        members(source, EngineSettings())


def test_root_directory_is_the_common_parent(local: Agent, top: Path) -> None:
    back_up(local, Path('/etc/passwd'), top / 'e').check()
    parents = {str(path)[1:] for path in (top / 'e').parents} - {''}
    assert listed(local).keys() == {'etc', 'etc/passwd', f'{top}/e'[1:], *parents}


# Lists


@pytest.mark.parametrize(
    'option, content',
    [
        ('--files-from', b'a/b/#c\n\n{top}/d\n'),
        ('--files-from0', b'a/b/#c\0{top}/d\0'),
        ('--files-from', b'./a/b/../b/#c\n{top}//d'),
    ],
)
def test_a_list(
    local: Agent, top: Path, tmp_path: Path, option: str, content: bytes
) -> None:
    """Lines have no comments; directories are whole."""
    lines = content.replace(b'{top}', os.fsencode(top))
    (tmp_path / 'list').write_bytes(lines)
    made = back_up(local, top, options=(option, tmp_path / 'list'))
    assert level(made) == 0
    assert f'Backed up 2 paths in {top} as level 0' in made.err
    assert listed(local).keys() == {'a', 'a/b', 'a/b/#c', 'd', 'd/file'}
    # The same paths, and the same directory above them.
    made = back_up(local, top / 'a/b/#c', top / 'd')
    assert level(made) == 1


def test_a_list_on_standard_input_that_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('sys.stdin', None)
    with pytest.raises(ConfigError, match='files-from -: standard input is closed'):
        path_list.read('-')


@pytest.mark.parametrize(
    'content, error',
    [
        (b'', 'files-from: no path is listed'),
        (b'e\n', "line 1: 'e' is relative: write absolute paths"),
        (b'/\n\n{top}/nowhere\n{top}/no', 'line 3: {top}/nowhere: No such file'),
        (b'a\0b', 'line 1: contains a null byte'),
    ],
)
def test_lists_that_are_wrong(
    local: Agent, top: Path, tmp_path: Path, content: bytes, error: str
) -> None:
    """Found before any work."""
    (tmp_path / 'list').write_bytes(content.replace(b'{top}', os.fsencode(top)))
    made = local.run('backup', '--files-from', tmp_path / 'list')
    assert error.format(top=top) in made.only_error
    assert local.store.is_untouched()


@pytest.mark.parametrize('line', ['../e', '/etc', 'link/../../e', 'up/x'])
def test_a_line_that_leads_out(
    local: Agent, top: Path, tmp_path: Path, line: str
) -> None:
    (top / 'a' / 'up').symlink_to('..')
    (top / 'x').touch()
    (tmp_path / 'list').write_text(f'{line}\n')
    made = back_up(local, top / 'a', options=('--files-from', tmp_path / 'list'))
    assert f'not in {top}/a' in made.only_error


def test_a_list_and_a_snapshot(top: Path, tmp_path: Path) -> None:
    """Absolute paths are those of the directory, and are read in its snapshot."""
    view = tmp_path / 'snapshots' / '1'
    shutil.copytree(top, view, symlinks=True)
    shutil.rmtree(top)
    lines = [ListedPath('line', text) for text in (f'{top}/a/b/file', 'e', 'd')]
    found = source_at([str(view)], lines, str(top), follows_links=False)
    assert (found.folder, found.name) == (str(view), '.')
    assert found.selection is not None
    assert found.selection.paths == (b'a/b/file', b'd/', b'e')


def test_several_paths_and_a_list(local: Agent, top: Path, tmp_path: Path) -> None:
    (tmp_path / 'list').write_text('e')
    options = ('--files-from', tmp_path / 'list')
    made = back_up(local, top, top / 'a', options=options)
    assert 'give one --path-to-backup' in made.only_error
    made = back_up(local, top / 'a', top / 'nowhere')
    assert f'path-to-backup {top}/nowhere: No such file' in made.only_error


def test_a_long_list(tmp_path: Path) -> None:
    """Longer than a command line may be, on standard input; and increments."""
    top = tmp_path / ('long' * 50)
    paths = []
    for folder in range(120):
        (top / str(folder)).mkdir(parents=True)
        for name in range(100):
            path = top / str(folder) / f'{name} [?]'
            path.write_text('old')
            paths.append(path)
    # What is younger than two seconds is archived again in any case.
    time.sleep(2.1)
    local = Agent(LocalStore(tmp_path / 'store'))
    chosen = tmp_path / 'list'

    def back_up_list(count: int) -> Result:
        lines = ''.join(f'{path}\n' for path in paths[:count])
        chosen.write_text(lines)
        return local.run(
            *('backup', '--incremental', '--metadata-out', '-'),
            *('--files-from', chosen),
        ).check()

    assert back_up_list(11_900).document['files'] == 11_900
    paths[7].write_text('new')
    made = back_up_list(12_000).document
    assert (made['curr_backup_level'], made['files']) == (1, 101)
    local.restore(tmp_path / 'target').check()
    assert missed(trees.describe(top), tmp_path / 'target') == []


def test_job_file(local: Agent, top: Path, tmp_path: Path) -> None:
    """One path per line; and the environment."""
    lines = f'{top}/a/b\n{top}/e'
    job = tmp_path / 'job'
    job.write_text('[job]\npath_to_backup = ' + lines.replace('\n', '\n  '))
    local.run('backup', '--config', job).check()
    names = {'a', 'a/b', 'a/b/#c', 'a/b/file', 'e'}
    assert listed(local).keys() == names
    local.told(OS_DEFAULT__PATH_TO_BACKUP=lines).run('backup', '--incremental').check()
    assert listed(local).keys() == names
    # Those of the command line replace them.
    local.run('backup', '--config', job, '--path-to-backup', top / 'd').check()
    assert listed(local).keys() == {'file'}


def test_restore_beside_other_files(local: Agent, top: Path) -> None:
    """In place: what is beside the paths stays, with the directories above."""
    date = iso(back_up(local, top / 'a/b', top / 'e').check().document['time_stamp'])
    (top / 'a/b/file').write_text('changed')
    (top / 'a/b/new').touch()
    (top / 'a/beside').write_text('also changed')
    (top / 'a').chmod(0o700)
    (top / 'e').unlink()
    (top / 'e').mkdir()
    (top / 'e/x').touch()
    local.restore(top, '--overwrite', '--restore-from-date', date).check()
    assert (top / 'a/b/file').read_text() == 'a/b/file'
    assert not (top / 'a/b/new').exists()
    assert (top / 'e').read_text() == 'e'
    assert (top / 'a/beside').read_text() == 'also changed'
    assert (top / 'a').stat().st_mode & 0o777 == 0o700
    assert (top / 'd/file').exists()
