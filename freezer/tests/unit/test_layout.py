"""Names and paths on storage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.storage import layout
from freezer.storage.backup import Backup, LevelPaths

NUMBERS = st.integers(min_value=0, max_value=10**11 - 1)
LEVELS = st.integers(min_value=0, max_value=10**6 - 1)
PARTS = st.text(min_size=1).filter(
    lambda text: '/' not in text and text not in ('.', '..')
)
# No part of an identity may look like a chain; no agent makes such names.
IDENTITIES = st.lists(
    PARTS.filter(lambda part: not part.isdigit()), min_size=1, max_size=3
).map('/'.join)


@given(LEVELS, NUMBERS)
def test_level_names(level: int, timestamp: int) -> None:
    name = layout.level_name(level, timestamp)
    assert layout.parse_level_name(name) == (level, timestamp)


@pytest.mark.parametrize(
    'name',
    [
        '',
        '0',
        '0_',
        '_1',
        '01_2',
        '-1_2',
        '1_2_3',
        '1_2\n',
        ' 1_2',
        '1_x',
        '0_999999999999',
        '1000000_1',
        '99999999999_1',
        f'{"9" * 5000}_1',
    ],
)
def test_no_level_names(name: str) -> None:
    assert layout.parse_level_name(name) is None


@given(st.text())
def test_any_text_is_a_level_name_or_not(text: str) -> None:
    parsed = layout.parse_level_name(text)
    if parsed is not None and text.isascii():
        level, _, timestamp = text.partition('_')
        assert parsed == (int(level), int(timestamp))


@given(
    st.sampled_from([layout.DATA, layout.METADATA]),
    PARTS,
    IDENTITIES,
    NUMBERS,
    LEVELS,
    NUMBERS,
    st.sampled_from(['data', 'metadata', 'segments/00000001', 'engine_metadata']),
)
def test_paths(
    kind: str, engine: str, identity: str, zero: int, level: int, time: int, name: str
) -> None:
    path = layout.join(
        kind, engine, identity, str(zero), layout.level_name(level, time), name
    )
    assert layout.parse(path) == (kind, engine, identity, zero, level, time, name)


@given(st.text())
def test_any_text_is_a_path_or_not(text: str) -> None:
    layout.parse(text)


@pytest.mark.parametrize(
    'path',
    [
        '',
        'README',
        'data/tar/h/1/0_1',
        'data/tar/h/1/0_1/',
        'data/tar/1/0_1/data',
        'other/tar/h/1/0_1/data',
        'data/tar/h/x/0_1/data',
        'data/tar/h/1/x_1/data',
        '/data/tar/h/1/0_1/data',
    ],
)
def test_what_is_not_ours(path: str) -> None:
    assert layout.parse(path) is None


def test_join_normalises_nothing() -> None:
    assert layout.join('bucket/', '/a', '', 'b') == 'bucket///a//b'


@given(st.integers(min_value=0, max_value=10**8 - 2))
def test_volume_names_are_distinct_and_sort(number: int) -> None:
    assert (layout.volume_name(number) == 'data') == (number == 0)
    assert layout.digests_name(number) < layout.digests_name(number + 1)
    if number:
        assert layout.volume_name(number) < layout.volume_name(number + 1)


def test_the_paths_of_freezer_19() -> None:
    backup = Backup('tar', 'hosta_bk', 1795331791, 1795331800, 1)
    paths = LevelPaths('st', backup)
    level = 'tar/hosta_bk/1795331791/1_1795331800'
    assert paths.folder == f'st/data/{level}'
    assert paths.data == f'st/data/{level}/data'
    assert paths.engine_metadata == f'st/data/{level}/engine_metadata'
    assert paths.file('segments/00000001') == f'st/data/{level}/segments/00000001'
    assert paths.identity == f'st/data/{level}/identity.age'
    assert paths.index == f'st/data/{level}/index'
    assert paths.marker == f'st/metadata/{level}/metadata'


@pytest.mark.parametrize(
    'identity, parts',
    [
        ('host_name', ('host', 'name')),
        ('h.example_a_b', ('h.example', 'a_b')),
        ('h', ('h', '')),
    ],
)
def test_split_identity(identity: str, parts: tuple[str, str]) -> None:
    assert layout.split_identity(identity) == parts
