"""The index: its file, its order, merging levels, damage."""

import contextlib
import io
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from freezer.engine.index import file, sorter
from freezer.engine.index.file import BLOCK_RECORDS, IndexFile, IndexWriter, Part
from freezer.engine.index.record import (
    ALL_KINDS,
    REMOVED,
    Record,
    merge_ranges,
    removed,
    sort_key,
)
from freezer.engine.index.sorter import Sorter
from freezer.engine.index.state import merged
from freezer.engine.index.tree import StateTree
from freezer.exceptions import EngineError


def record(path: bytes, kind: str = 'file', **changed: object) -> Record:
    made = Record(path, kind, 0o644, 0, 0, 'root', 'root', 1, 2, 3, 4, b'', 512, 1536)
    return made._replace(**changed)  # type: ignore[arg-type]


def some(count: int, seed: int = 0) -> list[Record]:
    """Records of every kind, with odd numbers, in order."""
    rng = random.Random(seed)
    paths = {
        b'/'.join(
            bytes(rng.choices(b'ab.-\n\xff', k=rng.randint(1, 5)))
            for _ in range(rng.randint(1, 6))
        )
        for _ in range(count)
    }
    found = []
    for path in sorted(paths, key=sort_key):
        kind = rng.choice(ALL_KINDS)
        owner = rng.randrange(4)
        found.append(
            Record(
                path,
                kind,
                rng.randrange(0o10000),
                owner,
                2**32 - owner,
                f'user{owner}',
                rng.choice(['', 'gröup', '\udcff']),
                rng.choice([0, 1, 511, 512, 513, 2**63 - 1, rng.randrange(2**40)]),
                rng.choice([0, -(10**9), 2**70, rng.randrange(10**19)]),
                rng.choice([0, -1, -(2**66), rng.randrange(10**19)]),
                rng.choice([0, 2**64 - 1, rng.randrange(2**33)]),
                rng.choice([b'', b'../x', b'\xff\n']),
                512 * rng.randrange(2**30),
                512 * rng.randrange(2**20),
            )
        )
    return found


def write(records: list[Record], **properties: object) -> bytes:
    stream = io.BytesIO()
    writer = IndexWriter(stream)
    for each in records:
        writer.add(each)
    writer.finish(properties)
    return stream.getvalue()


def load(content: bytes) -> IndexFile:
    return IndexFile(lambda start, end: content[start:end], len(content), 'INDEX')


@pytest.mark.parametrize('count', [0, 1, BLOCK_RECORDS, 3 * BLOCK_RECORDS + 5])
def test_all_records_are_read_back(count: int) -> None:
    records = some(2 * count)[:count]
    index = load(write(records, subject='.'))
    assert list(index.records()) == records
    assert index.count == len(records)
    assert index.properties == {'subject': '.'}


def test_one_path_is_found_in_one_block() -> None:
    records = some(4 * BLOCK_RECORDS)
    content = write(records)
    reads: list[int] = []

    def read(start: int, end: int) -> bytes:
        reads.append(end - start)
        return content[start:end]

    index = IndexFile(read, len(content), 'INDEX')
    opened = len(reads)
    for each in random.Random(1).sample(records, 100):
        reads.clear()
        assert index.find(each.path) == each
        assert len(reads) <= 1
    assert opened == 2
    assert index.find(b'not there') is None
    assert index.find(b'\0') is None


def test_within_paths() -> None:
    """With the directories above, and nothing beside."""
    records = some(4 * BLOCK_RECORDS)
    index = load(write(records))
    rng = random.Random(5)
    for _ in range(20):
        roots: list[bytes] = []
        for each in rng.sample(records, 3):
            path = each.path
            if not any(
                (path + b'/').startswith(r + b'/') or r.startswith(path + b'/')
                for r in roots
            ):
                roots.append(path)
        roots.append(b'missing/path')
        expected = [
            each
            for each in records
            if any(
                (each.path + b'/').startswith(root + b'/')
                or root.startswith(each.path + b'/')
                for root in roots
            )
        ]
        assert records_of(index.parts(roots)) == expected


def test_damage_is_reported() -> None:
    records = some(50)
    content = write(records, subject='.')
    harmless = 0
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        # Some bits of deflate change nothing: padding, and the codes of bytes that do
        # not occur. The first magic is left to the storage's digests.
        with contextlib.suppress(EngineError):
            assert list(load(bytes(changed)).records()) == records
            harmless += 1
    assert harmless < 16 + 12
    for length in range(len(content)):
        with pytest.raises(EngineError):
            list(load(content[:length]).records())


def test_the_sorter_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorter, '_IN_MEMORY', 100)
    records = some(1000)
    mixed = records.copy()
    random.Random(2).shuffle(mixed)
    found = Sorter(tmp_path)
    for each in mixed:
        found.add(each)
    assert list(found.sorted()) == records
    assert not list(tmp_path.iterdir())


def test_of_two_members_of_one_path_the_later_one_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorter, '_IN_MEMORY', 3)
    found = Sorter(tmp_path)
    for offset in range(10):
        found.add(record(b'a', offset=offset))
        found.add(record(b'b', offset=offset))
    assert [each.offset for each in found.sorted()] == [*range(10), *range(10)]


def records_of(parts: Iterable[Part]) -> list[Record]:
    return [each for block, start, end in parts for each in block.records[start:end]]


def state(levels: list[list[Record]]) -> list[tuple[int, Record]]:
    return list(merged([load(write(records)).parts() for records in levels]))


def paths(levels: list[list[Record]]) -> list[tuple[int, bytes]]:
    return [(level, each.path) for level, each in state(levels)]


def test_the_newest_record_of_a_path_counts() -> None:
    levels = [[record(b'a'), record(b'b')], [record(b'b')], [record(b'c')]]
    assert paths(levels) == [(0, b'a'), (1, b'b'), (2, b'c')]


def test_a_removed_directory_takes_its_contents_along() -> None:
    tree = [record(b'd', 'directory'), record(b'd/f'), record(b'd.x'), record(b'e')]
    tree.sort(key=lambda each: sort_key(each.path))
    assert paths([tree, [removed(b'd')]]) == [(0, b'd.x'), (0, b'e')]


def test_a_directory_that_comes_again_is_empty() -> None:
    tree = [record(b'd', 'directory'), record(b'd/f'), record(b'd/g')]
    again = [record(b'd', 'directory'), record(b'd/g')]
    assert paths([tree, [removed(b'd')], again]) == [(2, b'd'), (2, b'd/g')]


def test_a_file_in_the_place_of_a_directory() -> None:
    tree = [record(b'd', 'directory'), record(b'd/e', 'directory'), record(b'd/e/f')]
    one = [record(b'd')]
    assert paths([tree, one]) == [(1, b'd')]
    assert paths([tree, one, tree[:2]]) == [(2, b'd'), (2, b'd/e')]


@pytest.mark.parametrize('records', [1, 2, 3, BLOCK_RECORDS])
def test_merging_is_what_applying_the_levels_gives(
    records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, 'BLOCK_RECORDS', records)
    rng = random.Random(records)
    for _ in range(100):
        expected: dict[bytes, tuple[int, Record]] = {}
        levels: list[list[Record]] = []
        for level in range(5):
            changes: dict[bytes, Record] = {}
            for _change in range(rng.randint(0, 8)):
                parents = [p for p, (_, r) in expected.items() if r.kind == 'directory']
                parent = rng.choice([b'', *parents])
                path = (parent + b'/' if parent else b'') + rng.choice(
                    [b'a', b'b', b'a.']
                )
                kind = rng.choice(['file', 'directory', REMOVED])
                if any(
                    path.startswith(p + b'/') or p.startswith(path + b'/') or p == path
                    for p in changes
                ):
                    continue
                if kind == REMOVED and path not in expected:
                    continue
                changes[path] = record(path, kind)
                if kind != 'directory':
                    for below in [p for p in expected if p.startswith(path + b'/')]:
                        del expected[below]
                    expected.pop(path, None)
                if kind != REMOVED:
                    expected[path] = level, changes[path]
            levels.append([changes[p] for p in sorted(changes, key=sort_key)])
        found = state(levels)
        assert {r.path: (level, r) for level, r in found} == expected
        assert found == sorted(found, key=lambda each: sort_key(each[1].path))


def test_neighbouring_members_are_one_range() -> None:
    records = [
        record(b'a', offset=0),
        record(b'b', offset=1536),
        record(b'c', offset=9728),
    ]
    assert merge_ranges([*records, *records]) == [(0, 3072), (9728, 11264)]


def changed_tree(
    rng: random.Random, old: dict[bytes, str], changes: int
) -> tuple[dict[bytes, str], list[Record]]:
    """A tree after some changes, path -> kind, and the records of its level."""
    new, touched = dict(old), set()
    for _ in range(changes):
        path = rng.choice(sorted(new))
        match rng.randrange(4):
            case 0 if path:
                for each in [p for p in new if (p + b'/').startswith(path + b'/')]:
                    del new[each]
            case 1 if path and new[path] == 'file':
                new[path] = 'directory'
            case 2 if path:
                for each in [p for p in new if p.startswith(path + b'/')]:
                    del new[each]
                new[path] = 'file'
                touched.add(path)
            case _ if new[path] == 'directory':
                name = bytes(rng.choices(b'ab.-\x01\xff', k=rng.randint(1, 3)))
                full = path + b'/' + name if path else name
                new.setdefault(full, rng.choice(['file', 'directory', 'directory']))
    records = [
        record(path, kind)
        for path, kind in new.items()
        if old.get(path) != kind or path in touched
    ]
    for path in old.keys() - new.keys():
        parent = path.rpartition(b'/')[0]
        if old[parent] == new.get(parent) == 'directory':
            records.append(removed(path))
    return new, sorted(records, key=lambda each: sort_key(each.path))


@pytest.mark.parametrize('seed', range(30))
def test_a_state_is_found_path_by_path(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, 'BLOCK_RECORDS', 4)
    rng = random.Random(seed)
    levels = []
    tree: dict[bytes, str] = {b'': 'directory'}
    seen: set[bytes] = set()
    for number in range(6):
        old = tree if number else {}
        tree, records = changed_tree(rng, tree, 12)
        if not old:
            records = [record(path, kind) for path, kind in tree.items()]
            records.sort(key=lambda each: sort_key(each.path))
        levels.append(records)
        seen |= tree.keys()
        expected = {each.path: (level, each) for level, each in state(levels)}
        assert {path: each.kind for path, (_, each) in expected.items()} == tree
        found = StateTree([load(write(each)) for each in levels])
        # Another order than that of a walk.
        for path in rng.sample(sorted(seen), len(seen)):
            one = found.find(path)
            if path not in tree:
                assert one is None
                continue
            assert one is not None
            level, (block, at, _end) = one
            assert (level, block.records[at]) == expected[path]
            children = [
                (level, each)
                for level, part in found.children(path)
                for each in records_of([part])
            ]
            assert children == [
                one
                for name, one in expected.items()
                if name and name.rpartition(b'/')[0] == path
            ]


def test_a_directory_is_listed_without_what_is_below() -> None:
    """Whole blocks of other directories are not read."""
    names = [b'%06d' % number for number in range(3)]
    records = [record(b'', 'directory')]
    for name in names:
        records.append(record(name, 'directory'))
        records += [record(b'%s/%06d' % (name, n)) for n in range(4 * BLOCK_RECORDS)]
    content = write(records)
    reads: list[int] = []

    def read(start: int, end: int) -> bytes:
        reads.append(start)
        return content[start:end]

    index = IndexFile(read, len(content), 'INDEX')
    reads.clear()
    found = [each.path for each in records_of(index.children(b''))]
    assert found == names
    assert len(reads) <= 6
    assert len(records_of(index.children(names[1]))) == 4 * BLOCK_RECORDS
    assert list(index.children(b'missing')) == []


def test_links_and_the_end_of_the_archive() -> None:
    records = [
        record(b'a', offset=4096, length=1024),
        record(b'b', 'link', target=b'a', offset=0, length=512, size=0),
        record(b'c', 'link', target=b'a', offset=512, length=512, size=0),
    ]
    assert load(write(records)).links_and_end() == ({b'a': [b'b', b'c']}, 5120)
    assert load(write([])).links_and_end() == ({}, 0)


def test_blocks_of_several_indexes_share_a_cache() -> None:
    records = [record(b'%06d' % number) for number in range(8 * BLOCK_RECORDS)]
    content = write(records)
    reads: list[int] = []

    def read(start: int, end: int) -> bytes:
        reads.append(start)
        return content[start:end]

    cache = file.BlockCache(3)
    both = [IndexFile(read, len(content), 'INDEX', cache) for _ in range(2)]
    reads.clear()
    for _ in range(3):
        for index, number in ((both[0], 0), (both[1], 0), (both[0], 5 * BLOCK_RECORDS)):
            assert index.find(records[number].path) == records[number]
    assert len(reads) == 3
    # The one that was used first goes.
    both[0].find(records[-1].path)
    both[1].find(records[0].path)
    assert len(reads) == 4
    both[0].find(records[0].path)
    assert len(reads) == 5
