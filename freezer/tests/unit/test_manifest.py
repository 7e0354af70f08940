"""Manifests: sizes and digests of what a stream became."""

import hashlib
import json
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freezer.storage import digests, layout, manifest
from freezer.storage.exceptions import IntegrityError, ManifestError, StorageConfigError

MIB = 1024 * 1024
PIECE = manifest.MAX_PIECE
TOKEN = 'a' * 32


def built(sizes: list[int], part_size: int = 5 * MIB) -> manifest.Manifest:
    """A manifest of volumes of these sizes, full of zeros."""
    builder = manifest.ManifestBuilder(TOKEN)
    for number, size in enumerate(sizes):
        lines = digests_of(size, part_size)
        builder.add(
            layout.volume_name(number),
            size,
            part_size,
            layout.digests_name(number),
            lines,
            f'"etag-{number}"',
        )
    return builder.finish()


def digests_of(size: int, part_size: int) -> bytes:
    ranges = manifest.piece_ranges(size, part_size)
    return manifest.dump_digests(
        hashlib.sha256(bytes(end - start)).digest() for start, end in ranges
    )


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 100))
def test_round_trip(sizes: list[int], part_size: int) -> None:
    made = built(sizes, part_size)
    assert manifest.load(made.dump(), 'm') == made
    assert made.size == sum(sizes)
    assert [volume.size for volume in made.volumes] == sizes


def test_a_stranger_can_check_it() -> None:
    """With dd, sha256sum and cat."""
    made = built([11 * MIB, 3 * MIB])
    lines = [digests_of(11 * MIB, 5 * MIB), digests_of(3 * MIB, 5 * MIB)]
    assert made.digest == hashlib.sha256(b''.join(lines)).hexdigest()
    assert lines[0].decode().split('\n') == [
        hashlib.sha256(bytes(size)).hexdigest() for size in (5 * MIB, 5 * MIB, MIB)
    ] + ['']


@given(st.binary())
@example(b'')
@example(b'{"version": 1}')
@example(b'[' * 100000)
@example(b'"\\ud800"')
@example(b'1' * 10000)
def test_any_bytes_are_a_manifest_or_an_error(document: bytes) -> None:
    with pytest.raises(ManifestError, match='where/it/is'):
        manifest.load(document, 'where/it/is')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def keys(document: Any) -> list[tuple[Any, ...]]:
    """The path to everything in a document."""
    paths: list[tuple[Any, ...]] = [()]
    items: Any = document.items() if isinstance(document, dict) else ()
    if isinstance(document, list):
        items = enumerate(document)
    for key, value in items:
        paths += [(key, *path) for path in keys(value)]
    return paths


GOOD = json.loads(built([11 * MIB, 3 * MIB]).dump())


@given(st.sampled_from(keys(GOOD)), JSON, st.booleans())
def test_any_change_gives_a_manifest_or_an_error(
    path: tuple[Any, ...], value: Any, remove: bool
) -> None:
    document = json.loads(json.dumps(GOOD))
    if path:
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        if remove:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    else:
        document = value
    try:
        found = manifest.load(json.dumps(document).encode(), 'm')
    except ManifestError:
        return
    assert found.size == sum(volume.size for volume in found.volumes)
    assert all(volume.size >= 0 for volume in found.volumes)
    assert manifest.load(found.dump(), 'm') == found


def changed(**values: Any) -> bytes:
    return json.dumps(GOOD | values).encode()


def with_volume(**values: Any) -> bytes:
    first, second = GOOD['volumes']
    return changed(volumes=[first | values, second])


@pytest.mark.parametrize(
    'document, reason',
    [
        (changed(version=2), 'unknown version 2'),
        (changed(version=True), 'version'),
        (changed(algorithm='md5'), 'algorithm'),
        (changed(size=1), 'do not add up'),
        (changed(volumes=[], size=0), 'do not add up'),
        (changed(volumes=[GOOD['volumes'][1]] * 2, size=6 * MIB), 'twice'),
        (changed(digest='x' * 64), 'digest'),
        (changed(digest='A' * 64), 'digest'),
        (with_volume(size=-1), 'negative'),
        (with_volume(part_size=0), 'negative'),
        (with_volume(name='../../etc/passwd'), 'name'),
        (with_volume(digests='../digests/00000000'), 'name'),
        (with_volume(name='data\n'), 'name'),
        (with_volume(etag=1), 'etag'),
    ],
)
def test_what_no_agent_writes_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        manifest.load(document, 'm')


@given(st.integers(0, 200 * MIB), st.integers(MIB, 100 * MIB))
@example(0, 5 * MIB)
@example(PIECE, PIECE)
@example(PIECE + 1, PIECE)
@example(100 * MIB, 50 * MIB)
def test_pieces_cover_a_volume_exactly(size: int, part_size: int) -> None:
    ranges = list(manifest.piece_ranges(size, part_size))
    assert len(ranges) == manifest.piece_count(size, part_size)
    position = 0
    for start, end in ranges:
        assert start == position < end <= start + PIECE
        # No piece is of two parts.
        assert start // part_size == (end - 1) // part_size
        position = end
    assert position == size


def test_the_digests_of_a_part_are_those_of_its_pieces() -> None:
    part = bytes(PIECE) + b'more'
    assert manifest.digest_part(part) == [
        hashlib.sha256(bytes(PIECE)).digest(),
        hashlib.sha256(b'more').digest(),
    ]
    assert manifest.digest_part(b'') == []


def test_pieces_have_their_digests() -> None:
    (volume,) = built([12 * MIB]).volumes
    pieces = list(volume.pieces(digests_of(12 * MIB, 5 * MIB)))
    assert [(piece.start, piece.end) for piece in pieces] == [
        (0, 5 * MIB),
        (5 * MIB, 10 * MIB),
        (10 * MIB, 12 * MIB),
    ]
    assert manifest.check_piece(bytes(5 * MIB), pieces[0])
    assert not manifest.check_piece(bytes(5 * MIB - 1) + b'x', pieces[0])
    assert not manifest.check_piece(bytes(2 * MIB - 1), pieces[2])
    assert manifest.check_piece(b'ab', manifest.Piece(0, 2, None))
    assert not manifest.check_piece(b'a', manifest.Piece(0, 2, None))


@given(st.binary(max_size=500))
def test_digests_that_are_not_its_own_are_refused(lines: bytes) -> None:
    (volume,) = built([12], 5).volumes
    with pytest.raises(ManifestError, match='digests of data are damaged'):
        list(volume.pieces(lines))


@pytest.mark.parametrize(
    'lines', [b'', b'\n', b'0' * 64, b'0' * 64 + b'\n', b'x\n' * 3, b'\xff\n' * 3]
)
def test_digests_that_do_not_fit_are_refused(lines: bytes) -> None:
    """As of a manifest that was made up."""
    digest = hashlib.sha256(lines).hexdigest()
    volume = manifest.Volume(
        'data', 12 * MIB, 5 * MIB, None, 'digests/00000000', digest
    )
    with pytest.raises(ManifestError, match='digests of data'):
        list(volume.pieces(lines))


def test_a_size_beyond_reason_takes_no_memory() -> None:
    digest = hashlib.sha256(b'').hexdigest()
    volume = manifest.Volume('data', 10**18, 1, None, 'digests/00000000', digest)
    with pytest.raises(ManifestError):
        list(volume.pieces(b''))


def test_the_marker_names_the_other_files() -> None:
    expected = {
        'engine_name': 'tar',
        manifest.MARKER_KEY: TOKEN,
        manifest.STATE_KEY: hashlib.sha256(b'state').hexdigest(),
    }
    made = manifest.commit_marker({'engine_name': 'tar'}, {'': TOKEN}, b'state')
    marker = json.loads(made)
    assert marker.pop(manifest.CONTENT_KEY)
    assert marker == expected
    index = {'size': 5}
    made = manifest.commit_marker({'engine_name': 'tar'}, {'': TOKEN}, b'state', index)
    marker = json.loads(made)
    assert marker.pop(manifest.CONTENT_KEY)
    assert marker == {**expected, 'index': index}
    # Freezer 19 reads the first line.
    assert b'\n' not in made


@pytest.mark.parametrize('add', ['commit', 'index'])
def test_the_marker_has_a_digest_of_itself(add: str) -> None:
    content = {'engine_name': 'tar', 'seal': 'abc', manifest.IDENTITY_KEY: 'd'}
    made = manifest.commit_marker(content, {'': TOKEN}, b'state')
    if add == 'index':
        made = manifest.indexed_marker(json.loads(made), content, {'size': 5})
    marker = json.loads(made)
    assert manifest.is_whole(marker)
    assert manifest.is_whole(dict(reversed(marker.items())))
    for key in marker:
        assert not manifest.is_whole({**marker, key: 'other'})
        changed = {name: value for name, value in marker.items() if name != key}
        assert not manifest.is_whole(changed)
    # Of Freezer 19.
    assert manifest.is_whole({'engine_name': 'tar'})


def test_the_error_of_damage() -> None:
    error = manifest.damaged('s3://bucket/key', manifest.Piece(10, 20, None))
    assert isinstance(error, IntegrityError)
    assert 's3://bucket/key: bytes 10 to 19 ' in error.message


# BLAKE3


def test_digests_with_blake3(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = manifest.dump_digests(manifest.digest_part(b'abc', digests.BLAKE3))
    builder = manifest.ManifestBuilder(TOKEN, digests.BLAKE3)
    builder.add('data', 3, 5 * MIB, 'digests/00000000', lines)
    document = builder.finish().dump()
    assert json.loads(document)['algorithm'] == 'blake3'
    volume = manifest.load(document, 'here').volumes[0]
    # Of its own test vectors (b3sum).
    assert lines == (
        b'6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85\n'
    )
    (piece,) = volume.pieces(lines)
    assert manifest.check_piece(b'abc', piece)
    assert not manifest.check_piece(b'abd', piece)
    # On a machine without the library.
    digests.function.cache_clear()
    monkeypatch.setitem(sys.modules, 'blake3', None)
    with pytest.raises(StorageConfigError, match=r'here: .* freezer\[blake3\]'):
        manifest.load(document, 'here')
    digests.function.cache_clear()
