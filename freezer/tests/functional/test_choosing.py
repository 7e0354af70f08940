"""The options that leave files out, level after level: each level restores, lists and
overwrites the same."""

import json
import os
from pathlib import Path

import pytest

from freezer.tests import handmade, trees
from freezer.tests.agent import Agent, iso, job_file, missed

Tree = dict[bytes, trees.Entry]


class Levels:
    """Levels of one source, and the tree that each has to restore to."""

    def __init__(
        self, agent: Agent, source: Path, folder: Path, indexed: bool = True
    ) -> None:
        self._indexed = indexed
        self.agent = agent
        self.source = source
        self.folder = folder
        self.made: list[tuple[str, Tree]] = []

    def make(self, *options: object, excluded: str = '') -> str:
        """Make a level; returns the messages.

        :param excluded: the paths that it leaves out, without those below them. They
            stay as the level below has them
        """
        paths = [os.fsencode(path) for path in excluded.split()]

        def is_excluded(path: bytes) -> bool:
            return any(path == p or path.startswith(p + b'/') for p in paths)

        tree = trees.describe(self.source)
        expected = {path: each for path, each in tree.items() if not is_excluded(path)}
        if self.made:
            below = self.made[-1][1]
            expected |= {p: each for p, each in below.items() if is_excluded(p)}
        made = self.agent.increment(self.source, *options).check()
        assert made.document['curr_backup_level'] == len(self.made)
        assert made.document['left_out'] == len(paths), made
        if not self._indexed and not self.made:
            # The levels that build on it have none either.
            handmade.remove_indexes(self.agent.store)
        self.made.append((iso(made.document['time_stamp']), expected))
        return made.err

    def check(self) -> None:
        """Restore each level, list it, and restore it again over a later one."""
        for number, (date, expected) in enumerate(self.made):
            target = self.folder / f'level {number}'
            at = ('--restore-from-date', date)
            self.agent.restore(target, *at).check()
            assert missed(expected, target) == [], number
            listed = self.agent.run('list', '--json', *at).check().out.splitlines()
            names = {json.loads(line)['path'] for line in listed}
            assert names == {os.fsdecode(path) for path in expected} - {'.'}
            (target / 'extra').touch()
            self.agent.restore(target, '--overwrite', *at).check()
            assert missed(expected, target) == [], number


@pytest.fixture(params=['index', 'snapshot files'])
def levels(
    request: pytest.FixtureRequest,
    local: Agent,
    source: Path,
    tmp_path: Path,
) -> Levels:
    """Increments that build on indexes; or on tar's snapshot files alone."""
    return Levels(local, source, tmp_path, request.param == 'index')


def write(folder: Path, files: str, content: str = 'content') -> None:
    for name in files.split():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


# --exclude-from


def test_patterns_of_a_file(levels: Levels, tmp_path: Path) -> None:
    patterns = tmp_path / 'patterns'
    patterns.write_text(
        '\ufeff# objects\n\n  *.o \r\n./cache\n\\#odd\n\\!odd\n', encoding='utf-8'
    )
    write(levels.source, 'a.o deep/b.o cache/x deep/cache/x #odd !odd')
    options = ('--exclude-from', patterns)
    said = levels.make(*options, excluded='a.o deep/b.o cache #odd !odd')
    assert 'excluded nothing' not in said
    # Other patterns, and none.
    patterns.write_text('deep\n')
    levels.make(*options, excluded='deep')
    levels.make()
    write(levels.source, 'a.o deep/b.o', 'changed')
    patterns.write_text('*.o')
    levels.make(*options, excluded='a.o deep/b.o')
    levels.check()


def test_negated_patterns(levels: Levels, tmp_path: Path) -> None:
    """The last line that matches decides; a file does not take back those of another,
    nor what is in a directory that is excluded."""
    patterns = tmp_path / 'patterns'
    other = tmp_path / 'other'
    patterns.write_text('*.o\n! keep.o\n./deep/keep.o\ncache/*\n!cache/here\n')
    other.write_text('!*\n')
    write(
        levels.source,
        'a.o keep.o deep/keep.o other/keep.o other/b.o cache/a cache/here/b.c '
        'closed/keep.o',
    )
    options = ('--exclude-from', patterns, '--exclude-from', other)
    excluded = 'a.o deep/keep.o other/b.o cache/a closed'
    levels.make(*options, '--exclude', 'closed', excluded=excluded)
    write(levels.source, 'a.o keep.o deep/keep.o cache/a cache/here/b.c', 'changed')
    levels.make(*options, '--exclude', 'closed', excluded=excluded)
    patterns.write_text('keep.o\n!./keep.o')
    levels.make(*options, excluded='deep/keep.o other/keep.o closed/keep.o')
    levels.make()
    levels.check()


def test_any_name_is_left_out(local: Agent, source: Path, tmp_path: Path) -> None:
    """tar gets names in a file, whatever characters they have."""
    folder = source / 'folder'
    names = [
        'a b ',
        '\nl',
        'n\n',
        '[x]',
        'b\\',
        'é',
        ' lead',
        'q?',
        't\t',
        '*',
        '\udcff',
    ]
    write(source, 'folder/keep folder/bx folder/q1 folder/x')
    for name in names:
        (folder / name).write_text('content')
    patterns = tmp_path / 'patterns'
    patterns.write_text('folder/*\n!keep\n!bx\n!q1\n!./folder/x')
    made = local.backup(source, '--exclude-from', patterns).check()
    assert made.document['left_out'] == len(names)
    local.restore(tmp_path / 'target').check()
    assert sorted(os.listdir(tmp_path / 'target/folder')) == ['bx', 'keep', 'q1', 'x']


def test_all_but_a_few(local: Agent, source: Path, tmp_path: Path) -> None:
    """By absolute paths, from a job file with two files of patterns."""
    write(source, 'www/a data/b data/c')
    (tmp_path / 'one').write_text(f'{source}/*\n!{source}/data\n')
    (tmp_path / 'two').write_text('c\n')
    job = job_file(
        tmp_path / 'job',
        {'job': {'exclude_from': f'\n{tmp_path}/one\n{tmp_path}/two'}},
    )
    local.backup(source, '--config', job).check()
    # Where they are missing a backup can be restored.
    (tmp_path / 'one').unlink()
    local.restore(tmp_path / 'target', '--config', job).check()
    found = {os.fsdecode(path) for path in trees.describe(tmp_path / 'target')}
    assert found == {'.', 'data', 'data/b'}
    assert f'exclude-from {tmp_path}/one: No such file' in (
        local.backup(source, '--config', job).only_error
    )


def test_patterns_of_a_file_that_exclude_nothing(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """One warning for all of them; a negated one excludes nothing anyway."""
    patterns = tmp_path / 'patterns'
    patterns.write_text('file\n# none\na\nb\n!c\nd\n/elsewhere/e\n')
    made = local.backup(source, '--exclude-from', patterns, '--exclude', '?x').check()
    assert made.document['warnings'] == 2
    assert (
        f"Warning: --exclude-from {patterns}: patterns that excluded nothing: 'a' in "
        f"line 3, 'b' in line 4, 'd' in line 6 and 1 more" in made.err
    )


@pytest.mark.parametrize(
    'content, error',
    [
        (b'a\n!\n', 'line 2: a pattern has to follow the !'),
        (b'a\0b', 'line 1: a null byte'),
        (b'{source}', 'line 1: exclude {source}: excludes all of {source}'),
        (b'{source}/*', 'line 1: exclude {source}/*: excludes all of {source}'),
    ],
)
def test_lines_that_are_no_patterns(
    local: Agent, source: Path, tmp_path: Path, content: bytes, error: str
) -> None:
    patterns = tmp_path / 'patterns'
    patterns.write_bytes(content.replace(b'{source}', os.fsencode(source)))
    made = local.backup(source, '--exclude-from', patterns)
    expected = error.format(source=source)
    assert f'exclude-from {patterns}, {expected}' in made.only_error


def test_a_single_file_that_is_excluded(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    (tmp_path / 'patterns').write_text('a\n!b\nfile')
    local.increment(source / 'file').check()
    made = local.increment(source / 'file', '--exclude-from', tmp_path / 'patterns')
    assert 'leaves nothing to back up' in made.only_error


# --exclude-larger-than


def test_files_that_grow_over_the_limit(levels: Levels) -> None:
    """And shrink again; and other limits."""
    source = levels.source
    write(source, 'exact deep/grows', 1000 * 'x')
    write(source, 'large deep/linked', 1001 * 'x')
    (source / 'name').hardlink_to(source / 'deep/linked')
    (source / 'link').symlink_to('large')
    options = ('--exclude-larger-than', 1000)
    said = levels.make(*options, excluded='large deep/linked name')
    assert '(3 larger than 1000 B)' in said
    write(source, 'deep/grows', 2000 * 'y')
    write(source, 'large', 'small')
    levels.make(*options, excluded='deep/grows deep/linked name')
    write(source, 'deep/grows', 1000 * 'z')
    levels.make(*options, excluded='deep/linked name')
    levels.make()
    levels.make('--exclude-larger-than', '1K')
    levels.check()


def test_a_single_file_over_the_limit(local: Agent, source: Path) -> None:
    options = ('--exclude-larger-than', 7)
    local.increment(source / 'file', *options).check()
    write(source, 'file', '8 bytes.')
    made = local.increment(source / 'file', *options)
    assert '--exclude-larger-than leaves nothing to back up' in made.only_error


# --exclude-caches

TAG = 'Signature: 8a477f597d28d172789f06886806bc55'


def test_directories_that_become_caches(levels: Levels) -> None:
    """And are none later."""
    source = levels.source
    write(source, 'a/x a/sub/y b/x b/sub/y no/x link/x short/x folder/CACHEDIR.TAG/x')
    write(source, 'a/CACHEDIR.TAG', TAG)
    write(source, 'no/CACHEDIR.TAG', f' {TAG}')
    write(source, 'short/CACHEDIR.TAG', TAG[:-1])
    (source / 'link/CACHEDIR.TAG').symlink_to('../a/CACHEDIR.TAG')
    (source / 'a/nowhere').symlink_to('nothing')
    said = levels.make('--exclude-caches', excluded='a/x a/sub a/nowhere')
    assert '(3 in caches)' in said
    write(source, 'b/CACHEDIR.TAG', TAG + '# and a comment')
    write(source, 'b/x b/sub/y a/x', 'changed')
    left_out = 'a/x a/sub a/nowhere b/x b/sub'
    levels.make('--exclude-caches', excluded=left_out)
    write(source, 'b/sub/z')
    levels.make('--exclude-caches', excluded=left_out)
    (source / 'a/CACHEDIR.TAG').unlink()
    levels.make('--exclude-caches', excluded='b/x b/sub')
    levels.make()
    levels.check()


def test_a_cache_with_followed_links(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """Nothing of it is read, not even a link that leads nowhere."""
    write(source, 'cache/x', 'content')
    write(tmp_path, 'tag', TAG)
    (source / 'cache/CACHEDIR.TAG').symlink_to(tmp_path / 'tag')
    (source / 'cache/nowhere').symlink_to('nothing')
    options = ('--exclude-caches', '--dereference-symlink', 'soft')
    made = local.backup(source, *options, '--exclude', 'cache/x').check()
    assert made.document['warnings'] == 0
    assert made.document['left_out'] == 2
    local.restore(tmp_path / 'target').check()
    assert os.listdir(tmp_path / 'target/cache') == ['CACHEDIR.TAG']


def test_a_source_that_is_a_cache(local: Agent, source: Path) -> None:
    local.increment(source, '--exclude-caches').check()
    write(source, 'CACHEDIR.TAG', TAG)
    made = local.increment(source, '--exclude-caches')
    assert f'{source} has CACHEDIR.TAG' in made.only_error
    assert 'leaves nothing to back up' in made.only_error


# --exclude-if-present


def test_directories_that_get_a_marker(levels: Levels) -> None:
    """And lose it later; of several names."""
    source = levels.source
    write(source, 'a/.nobackup a/x a/sub/y b/x b/sub/y c/x c/no[*] plain/no1')
    write(source, 'folder/.nobackup/x')
    (source / 'linked').mkdir()
    (source / 'linked/.nobackup').symlink_to('nothing')
    write(source, 'linked/x')
    options = ('--exclude-if-present', '.nobackup', '--exclude-if-present', 'no[*]')
    said = levels.make(*options, excluded='a/x a/sub c/x linked/x')
    assert '(3 beside .nobackup, 1 beside no[*])' in said
    write(source, 'b/.nobackup', '')
    write(source, 'b/x b/sub/y a/x', 'changed')
    write(source, 'b/new b/sub/new')
    left_out = 'a/x a/sub b/x b/sub b/new c/x linked/x'
    levels.make(*options, excluded=left_out)
    (source / 'a/.nobackup').unlink()
    write(source, 'b/new', 'changed')
    levels.make(*options, excluded='b/x b/sub b/new c/x linked/x')
    (source / 'b/.nobackup').rename(source / 'c/.nobackup')
    levels.make('--exclude-if-present', '.nobackup', excluded='c/no[*] c/x linked/x')
    levels.make()
    levels.check()


def test_a_marker_and_a_tag(local: Agent, source: Path, tmp_path: Path) -> None:
    """Both stay, unless a pattern excludes one."""
    write(source, 'a/.nobackup a/x')
    write(source, 'a/CACHEDIR.TAG', TAG)
    options = ('--exclude-caches', '--exclude-if-present', '.nobackup')
    for number, (further, expected) in enumerate(
        [((), {'.nobackup', 'CACHEDIR.TAG'}), (('--exclude', '.no*'), {'CACHEDIR.TAG'})]
    ):
        local.backup(source, *options, *further).check()
        target = tmp_path / str(number)
        local.restore(target).check()
        assert set(os.listdir(target / 'a')) == expected


def test_the_checksum_is_of_what_the_rules_leave(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    write(source, 'a/.nobackup a/x b/large', 'more than the limit')
    options = ('--exclude-if-present', '.nobackup', '--exclude-larger-than', 18)
    made = local.backup(source, '--consistency-check', *options).check()
    local.restore(
        tmp_path / 'target',
        *('--consistency-checksum', made.document['consistency_checksum']),
    ).check()


def test_a_source_with_a_marker(local: Agent, source: Path) -> None:
    made = local.backup(source, '--exclude-if-present', 'file')
    assert f'{source} has file, so its contents are excluded' in made.only_error


@pytest.mark.parametrize('name', ['', 'a/b', '/a', '.', '..'])
def test_markers_that_are_no_names(local: Agent, source: Path, name: str) -> None:
    made = local.backup(source, '--exclude-if-present', name)
    assert 'give the name of a file, without a path' in made.only_error
