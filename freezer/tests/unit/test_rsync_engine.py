"""Engines rsync and rsyncv2: chains of Freezer 19, damaged and hostile ones."""

import bz2
import contextlib
import hashlib
import json
import os
import random
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from freezer.engine.engine import TargetPlan, Warnings
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.rsync.engine import RsyncEngine
from freezer.engine.settings import EngineSettings
from freezer.exceptions import (
    ConfigError,
    EngineError,
    FreezerError,
    RestoreError,
    UnsafeArchiveError,
)
from freezer.storage.local.storage import LocalStorage
from freezer.stream import encryption
from freezer.tests import rsync19
from freezer.tests.engines import EngineAgent
from freezer.tests.rsync19 import (
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    SYMLINK,
    changes,
    entry,
    header,
    level2,
    state1,
    state2,
    store,
)

RANDOM = random.Random(37).randbytes(3 * 4096 + 100)


def agent(folder: Path, **settings: Any) -> EngineAgent:
    storage = LocalStorage(str(folder / 'store'), 1 << 20)
    return EngineAgent(storage, EngineSettings(**settings), RsyncEngine)


def restored(folder: Path, level: int, **settings: Any) -> Warnings:
    """Restore a level into ``target``."""
    known = agent(folder, **settings)
    chain = known.state(rsync19.NAME, rsync19.ZERO + level)
    return known.restore(folder / 'target', chain)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Files and directories."""
    top = folder / 'target'
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
        for path in top.rglob('*')
    }


def changed(path: str, content: bytes, blocks: Mapping[int, bytes]) -> dict[str, Any]:
    total = sum(map(len, blocks.values()))
    return entry(path, FILE, len(content), new_level=True, deltas=[total, list(blocks)])


def second_chain(folder: Path) -> list[dict[str, bytes | None]]:
    """Three levels of version 2; returns the states."""
    at = folder / 'store'
    grown = RANDOM[:4096] + b'X' * 4096 + RANDOM[8192:] + b'more'
    states: list[dict[str, bytes | None]] = [
        {
            'd': None,
            'd/f': RANDOM,
            'gone': b'gone',
            'kind': b'file',
            'zeros': bytes(9999),
        },
        {'d': None, 'd/f': grown, 'kind': None, 'kind/in': b'in', 'zeros': b''},
        {'d': None, 'd/f': grown[:5000], 'kind': b'file again', 'zeros': b''},
    ]
    first = [
        entry('d', DIRECTORY),
        entry('gone', FILE, 4),
        entry('kind', FILE, 4),
        entry('zeros', FILE, 9999),
        entry('d/f', FILE, len(RANDOM)),
    ]
    store(at, 0, level2(first, b'gonefile' + bytes(9999) + RANDOM), state2(states[0]))
    blocks = {1: b'X' * 4096, 3: grown[3 * 4096 :]}
    entries = [
        entry('kind', DIRECTORY),
        entry('zeros', FILE, 0, new_level=True),
        changed('d/f', grown, blocks),
        entry('kind/in', FILE, 2),
        {'path': 'gone', 'deleted': True},
    ]
    archive = level2(entries, b''.join(blocks.values()) + b'in')
    store(at, 1, archive, state2(states[1]))
    entries = [
        entry('d', DIRECTORY | 0o1000, new_level=True),
        entry('kind', FILE, 10),
        changed('d/f', grown[:5000], {1: grown[4096:5000]}),
        {'path': 'kind/in', 'deleted': True},
    ]
    store(at, 2, level2(entries, b'file again' + grown[4096:5000]), state2(states[2]))
    return states


@pytest.mark.parametrize('level', [0, 1, 2])
def test_each_level_of_version_2_is_exact(tmp_path: Path, level: int) -> None:
    states = second_chain(tmp_path)
    warnings = restored(tmp_path, level)
    assert warnings.kept == []
    assert contents(tmp_path) == states[level]
    status = (tmp_path / 'target/d').stat()
    assert status.st_mtime_ns == 10**18 + 5 * 10**8
    assert stat.S_IMODE(status.st_mode) == (0o1755 if level == 2 else 0o755)
    rows = [row for rows in listed(tmp_path, level) for row in rows]
    assert {row.path.decode(): row.kind for row in rows} == {
        path: 'directory' if content is None else 'file'
        for path, content in states[level].items()
    }


def listed(folder: Path, level: int, **settings: Any) -> list[list[Any]]:
    known = agent(folder, **settings)
    chain = known.open(known.state(rsync19.NAME, rsync19.ZERO + level))
    return [list(rows.each()) for rows in chain.rows()]


def test_a_part_is_restored_and_printed(tmp_path: Path) -> None:
    states = second_chain(tmp_path)
    assert restored(tmp_path, 1, include=('d/*',)).kept == []
    assert contents(tmp_path) == {'d': None, 'd/f': states[1]['d/f']}
    known = agent(tmp_path, include=('d/f',))
    chain = known.open(known.state(rsync19.NAME, rsync19.ZERO + 2))
    assert b''.join(chain.contents().blocks) == states[2]['d/f']
    with pytest.raises(RestoreError, match='nothing in the backup matches'):
        restored(tmp_path, 1, include=('nothing',))


@pytest.mark.parametrize('keep', [True, False])
def test_a_target_that_is_not_empty(tmp_path: Path, keep: bool) -> None:
    """Extra files stay or go as planned, whatever levels had below their names."""
    states = second_chain(tmp_path)
    target = tmp_path / 'target'
    target.mkdir()
    outside = tmp_path / 'outside'
    outside.write_bytes(b'outside')
    (target / 'gone').write_bytes(b'mine')
    (target / 'd').symlink_to(tmp_path)
    os.link(outside, target / 'zeros')
    known = agent(tmp_path)
    chain = known.open(known.state(rsync19.NAME, rsync19.ZERO + 2))
    if keep:
        (target / 'd').unlink()
    plan = chain.plan(str(target), keep)
    assert plan is not None
    assert plan.removed == (() if keep else (b'gone',))
    assert chain.restore(str(target), plan).kept == []
    extra = {'gone': b'mine'} if keep else {}
    assert contents(tmp_path) == {**states[2], **extra}
    assert outside.read_bytes() == b'outside'


def test_a_single_file_removes_nothing_beside_it(tmp_path: Path) -> None:
    archive = level2([entry('f', FILE, 3)], b'new')
    store(tmp_path / 'store', 0, archive, state2({'f': b'new'}))
    (tmp_path / 'target').mkdir()
    (tmp_path / 'target/other').write_bytes(b'other')
    known = agent(tmp_path)
    chain = known.open(known.state(rsync19.NAME, None))
    assert chain.plan(str(tmp_path / 'target')) == TargetPlan()
    chain.restore(str(tmp_path / 'target'))
    assert contents(tmp_path) == {'f': b'new', 'other': b'other'}


def first_chain(folder: Path, inserted: bool = False) -> dict[str, bytes | None]:
    """Three levels of version 1: a file is removed at level 1, and comes back at level
    2 as changes of what it was. Returns the last state."""
    at = folder / 'store'
    top = header('.', DIRECTORY)
    archive = top + header('f', FILE, len(RANDOM)) + RANDOM
    archive += header('old', DIRECTORY) + header('old/x', FILE, 1) + b'x'
    archive += header('l', SYMLINK, 1, target='f') + header('p', FIFO)
    store(at, 0, archive, state1({'.': None, 'f': RANDOM}), {'x': 1})
    removed = header('f', FILE, 5, removed=True) + header('old/x', FILE, removed=True)
    store(at, 1, top + removed, state1({'.': None}, ['f', 'old/x']), {'x': 1})
    new = RANDOM[:4096] + b'Y' * 4096 + RANDOM[8192:]
    archive = top + header('f', FILE, len(new), changed=True)
    archive += changes({1: new[4096:8192]}) + header('old/x', FILE, removed=True)
    if inserted:
        new = b'!' + RANDOM
    store(at, 2, archive, state1({'.': None, 'f': new}, ['old/x']), {'x': 1})
    return {'f': new, 'l': new, 'p': None}


def test_version_1(tmp_path: Path) -> None:
    state = first_chain(tmp_path)
    warnings = restored(tmp_path, 2)
    assert (warnings.kept, warnings.damaged) == ([], 0)
    assert contents(tmp_path) == state
    assert os.readlink(tmp_path / 'target/l') == 'f'
    assert (tmp_path / 'target').stat().st_mtime_ns == 10**18


def test_version_1_names_the_files_that_it_lost(tmp_path: Path) -> None:
    first_chain(tmp_path, inserted=True)
    warnings = restored(tmp_path, 2)
    assert warnings.damaged == 1
    assert 'target/f: not what was backed up' in warnings.kept[0]
    known = agent(tmp_path, include=('f',))
    chain = known.open(known.state(rsync19.NAME, None))
    with pytest.raises(EngineError, match='not what was backed up'):
        list(chain.contents().blocks)


def test_version_1_without_checksums_is_in_doubt(tmp_path: Path) -> None:
    first_chain(tmp_path)
    for path in tmp_path.rglob('2_*/engine_metadata'):
        path.write_bytes(b'damaged')
    warnings = restored(tmp_path, 2)
    assert warnings.damaged == 1
    assert 'could not be compared' in warnings.kept[0]


def test_version_1_names_each_file_without_checksums(tmp_path: Path) -> None:
    """At level 0 only their number is named."""
    state = first_chain(tmp_path)
    for path in tmp_path.rglob('[02]_*/engine_metadata'):
        path.write_bytes(zlib.compress(state1({'.': None})))
    warnings = restored(tmp_path, 2)
    assert contents(tmp_path) == state
    assert warnings.damaged == 1
    assert 'target/f: its contents may be wrong' in warnings.kept[0]
    known = agent(tmp_path)
    warnings = known.restore(
        tmp_path / 'other', known.state(rsync19.NAME, rsync19.ZERO)
    )
    assert warnings.damaged == 0
    assert '2 restored files could not be compared' in warnings.kept[0]


@pytest.mark.parametrize('include', [(), ('d/*',), ('f',)])
def test_paths_that_were_listed_and_not_stored_are_named(
    tmp_path: Path, include: tuple[str, ...]
) -> None:
    """As version 1 does with a symbolic link whose target is missing."""
    archive = header('.', DIRECTORY) + header('d', DIRECTORY)
    archive += header('d/f', FILE, 1) + b'f' + header('f', FILE, 1) + b'f'
    known = json.loads(state1({'.': None, 'd': None, 'd/f': b'f', 'f': b'f'}))
    known['files']['d/dangling'] = {'inode': {'mode': SYMLINK, 'deleted': '0000'}}
    known['files']['d/removed'] = {'inode': {'mode': FILE, 'deleted': '1111'}}
    store(tmp_path / 'store', 0, archive, json.dumps(known).encode(), {'x': 1})
    warnings = restored(tmp_path, 0, include=include)
    if include == ('f',):
        assert warnings.kept == []
    else:
        (text,) = warnings.kept
        assert 'target/d/dangling: Freezer 19 listed it, and did not' in text
        assert warnings.damaged == 1


@pytest.mark.parametrize('more', [b'longer than its entry says', b''])
def test_a_file_that_changed_its_size_is_found_by_checksums(
    tmp_path: Path, more: bytes
) -> None:
    """Version 2: what comes after it is shifted."""
    entries = [entry('a', FILE, 5), entry('grew', FILE, 5), entry('z', FILE, 5)]
    archive = level2(entries, b'aaaaa' + (b'grew!' + more if more else b'') + b'zzzzz')
    known = state2({'a': b'aaaaa', 'grew': b'grew!' + more, 'z': b'zzzzz'})
    store(tmp_path / 'store', 0, archive, known)
    warnings = restored(tmp_path, 0)
    assert contents(tmp_path)['a'] == b'aaaaa'
    assert warnings.damaged == 3
    assert 'a file changed its size' in warnings.kept[0]
    names = [Path(each.partition(':')[0]).name for each in warnings.kept[1:]]
    assert names == ['grew', 'z']
    for path in tmp_path.rglob('engine_metadata'):
        path.unlink()
    again = agent(tmp_path)
    with pytest.raises(EngineError, match='a file changed its size'):
        again.restore(tmp_path / 'other', again.state(rsync19.NAME))


@pytest.mark.parametrize(
    'path', ['../out', '/etc/out', 'a/../../out', 'a//b', './a', '', '.', 'a\0b']
)
def test_paths_outside_are_refused_before_anything_is_written(
    tmp_path: Path, path: str
) -> None:
    archive = level2([entry('good', FILE, 1), entry(path, FILE, 1)], b'ab')
    store(tmp_path / 'store', 0, archive, state2({}))
    with pytest.raises(UnsafeArchiveError):
        restored(tmp_path, 0)
    assert not (tmp_path / 'target').exists()


def test_names_of_version_1_are_bytes(tmp_path: Path) -> None:
    archive = header('f??', FILE, 1).replace(b'f??', b'f\xff\n') + b'a'
    store(tmp_path / 'store', 0, archive, None)
    restored(tmp_path, 0)
    assert os.listdir(os.fsencode(tmp_path / 'target')) == [b'f\xff\n']


def test_version_1_refuses_paths_outside(tmp_path: Path) -> None:
    store(tmp_path / 'store', 0, header('../out', FILE, 1) + b'a', None)
    with pytest.raises(UnsafeArchiveError):
        restored(tmp_path, 0)
    assert not (tmp_path / 'out').exists()


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    outside = tmp_path / 'outside'
    outside.mkdir()
    entries = [
        entry('link', SYMLINK, 1, lname=str(outside)),
        entry('link/file', FILE, 1),
    ]
    store(tmp_path / 'store', 0, level2(entries, b'a'), state2({}))
    with pytest.raises(UnsafeArchiveError, match='which is a symlink'):
        restored(tmp_path, 0)
    assert list(outside.iterdir()) == []


def test_changes_of_a_file_that_no_level_has(tmp_path: Path) -> None:
    store(tmp_path / 'store', 0, level2([]), state2({}))
    archive = level2([changed('f', b'ab', {0: b'ab'})], b'ab')
    store(tmp_path / 'store', 1, archive, state2({'f': b'ab'}))
    with pytest.raises(EngineError, match='the levels below do not have this file'):
        restored(tmp_path, 1)


def damaged() -> dict[str, bytes]:
    """Archives that are not right."""
    good = level2([entry('f', FILE, 9)], b'123456789')
    first = header('f', FILE, 9) + b'123456789'
    return {
        'empty': b'',
        'no archive': b'\x01\x02',
        'array without an end': b'\xdd\xff\xff\xff\xff',
        'text of 4 GiB': b'\x91\x81\xdb\xff\xff\xff\xff',
        'nested deep': b'\x91\x81\xa1x' + b'\x91' * 99,
        'cut list': good[:40],
        'no mode': level2([{'path': 'f', 'inode': {'size': 1}}]),
        'negative size': level2([entry('f', FILE, -1)]),
        'unknown kind': level2([entry('f', 0o170000)]),
        'link to nothing': level2([entry('f', SYMLINK, 1)]),
        'no time': level2(
            [{**entry('f'), 'inode': {**entry('f')['inode'], 'mtime': 1e300}}]
        ),
        'not a number': level2(
            [{**entry('f'), 'inode': {**entry('f')['inode'], 'mtime': float('nan')}}]
        ),
        'blocks without length': level2([entry('f', FILE, 9, deltas=[9, []])]),
        'block too far': level2([entry('f', FILE, 9, deltas=[9, [2**62]])]),
        'first cut': first[:-1],
        'first header cut': first[:20],
        'first huge header': b'99999999999\0' + first,
        'first no number': b'12x\0' + first,
        'first garbage': first + b'garbage',
        'first blocks': header('f', FILE, 9, changed=True) + b'\x005\x0099999\x00\x00x',
    }


@pytest.mark.parametrize('name', damaged())
def test_damage_is_an_error(tmp_path: Path, name: str) -> None:
    archive = damaged()[name]
    store(tmp_path / 'store', 0, archive, state2({}))
    with pytest.raises(FreezerError):
        restored(tmp_path, 0)
    reader = agent(tmp_path).engine.archive_reader(0)
    assert reader is not None
    if name != 'blocks without length':
        with pytest.raises(FreezerError):
            reader.read([archive], tmp_path)


@pytest.mark.parametrize('cut', [3, 20, -1])
def test_a_stream_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    second_chain(tmp_path)
    (data,) = tmp_path.rglob('0_*/data')
    data.write_bytes(data.read_bytes()[:cut])
    with pytest.raises(EngineError, match=r'0_.*/data: .*(cut off|damaged)'):
        restored(tmp_path, 2)


def test_random_bytes_are_no_crash(tmp_path: Path) -> None:
    random_ = random.Random(5)
    good = level2([entry('d', DIRECTORY), entry('d/f', FILE, 50)], bytes(50))
    first = header('d', DIRECTORY) + header('d/f', FILE, 50) + bytes(50)
    reader = agent(tmp_path).engine.archive_reader(0)
    assert reader is not None
    for _ in range(400):
        archive = bytearray(random_.choice((good, first)))
        for _ in range(random_.randint(1, 4)):
            archive[random_.randrange(len(archive))] = random_.randrange(256)
        with contextlib.suppress(EngineError):
            reader.read([bytes(archive)], tmp_path)


def test_far_offsets_stay_sparse(tmp_path: Path) -> None:
    """More than 2 GiB, without the bytes."""
    far = (3 << 30) // 4096
    size = far * 4096 + 5
    entries = [changed('f', b'', {far: b'there'})]
    entries[0]['inode']['size'] = size
    store(tmp_path / 'store', 0, level2([entry('f', FILE, 0)]), None)
    store(tmp_path / 'store', 1, level2(entries, b'there'), None)
    restored(tmp_path, 1)
    with (tmp_path / 'target/f').open('rb') as file:
        assert file.seek(0, os.SEEK_END) == size
        file.seek(-7, os.SEEK_END)
        assert file.read() == b'\0\0there'
    assert (tmp_path / 'target/f').stat().st_blocks < 100


@pytest.mark.root
def test_rights_of_unknown_owners_are_not_given(tmp_path: Path) -> None:
    one = entry('f', FILE | 0o6111, 0)
    one['inode']['uname'] = 'nobody-of-this-name'
    store(tmp_path / 'store', 0, level2([one, entry('b', DEVICE)]), state2({'f': b''}))
    warnings = restored(tmp_path, 0)
    assert warnings.incomplete == 2
    assert stat.S_IMODE((tmp_path / 'target/f').stat().st_mode) == 0o755
    assert not (tmp_path / 'target/b').exists()


def test_untrusted_and_numeric(tmp_path: Path) -> None:
    archive = level2([entry('f', FILE | 0o4111, 0)])
    store(tmp_path / 'store', 0, archive, state2({'f': b''}))
    with pytest.raises(ConfigError, match='numeric-owner'):
        restored(tmp_path, 0, options={'numeric_owner': True})
    restored(tmp_path, 0, untrusted=True)
    assert stat.S_IMODE((tmp_path / 'target/f').stat().st_mode) == 0o755


def test_the_list_has_a_limit(tmp_path: Path) -> None:
    second_chain(tmp_path)
    with pytest.raises(EngineError, match='max-restore-size'):
        restored(tmp_path, 0, max_restore_size=50)


def test_backups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='use --engine tar'):
        agent(tmp_path).engine.check_source(['/etc'])


def test_another_order_of_keys(tmp_path: Path) -> None:
    """Python 2 had no order of keys, and raw texts."""
    one = dict(
        reversed(entry('f\udcff'.encode(errors='surrogateescape'), FILE, 1).items())
    )
    store(tmp_path / 'store', 0, level2([one], b'a'), None)
    restored(tmp_path, 0)
    assert os.listdir(os.fsencode(tmp_path / 'target')) == [b'f\xff']


def test_compression_bzip2(tmp_path: Path) -> None:
    second_chain(tmp_path)
    (data,) = tmp_path.rglob('data/rsync/*/*/0_*/data')
    data.write_bytes(bz2.compress(zlib.decompress(data.read_bytes())))
    (marker,) = tmp_path.rglob('metadata/rsync/*/*/0_*/metadata')
    marker.write_text(marker.read_text().replace('gzip', 'bzip2'))
    assert restored(tmp_path, 0).kept == []


def encrypt(archive: bytes, passphrase: bytes) -> bytes:
    """As Freezer 19's engines do: the end of the line is a part of the passphrase."""
    salt, material, last = b'8 bytes.', b'', b''
    while len(material) < 48:
        last = hashlib.md5(last + passphrase + salt).digest()
        material += last
    cipher = encryption._cipher(material[:32], material[32:48]).encryptor()
    data: bytes = cipher.update(archive) + cipher.finalize()
    return b'Salted__' + salt + data


@pytest.mark.parametrize('name', ['gzip', 'bzip2'])
@pytest.mark.parametrize('end', [b'\n', b''])
def test_encrypted(tmp_path: Path, name: str, end: bytes) -> None:
    states = second_chain(tmp_path)
    for path in tmp_path.rglob('data/rsync/*/*/*/data'):
        archive = path.read_bytes()
        if name == 'bzip2':
            archive = bz2.compress(zlib.decompress(archive))
        path.write_bytes(encrypt(archive, b'pass phrase' + end))
    for path in tmp_path.rglob('metadata/rsync/*/*/*/metadata'):
        marker = {**json.loads(path.read_text()), 'encryption': True}
        path.write_text(json.dumps({**marker, 'compression': name}))
    file = tmp_path / 'pass'
    file.write_bytes(b'another')
    with pytest.raises(FreezerError, match='wrong passphrase'):
        restored(tmp_path, 2, passphrase=encryption.Passphrase(str(file)))
    file.write_bytes(b'pass phrase' + end)
    assert restored(tmp_path, 2, passphrase=encryption.Passphrase(str(file))).kept == []
    assert contents(tmp_path) == states[2]


def test_two_bytes_do_not_show_that_a_passphrase_is_right(tmp_path: Path) -> None:
    known = agent(tmp_path)
    second_chain(tmp_path)
    level = OpenedLevel(
        known.state(rsync19.NAME)[0], LevelOpener(known.settings, known.engine)
    )
    assert level._looks_right(zlib.compress(b'\x90' + RANDOM, 9)[:496])
    assert not level._looks_right(b'\x78\xda' + RANDOM[:494])
    assert not level._looks_right(zlib.compress(b'no archive', 9))
