"""How age writes keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.stream import bech32

PREFIX = 'age-secret-key-'
# The example of the format's description.
EXAMPLE = 'AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX'


def test_the_example() -> None:
    assert bech32.decode(PREFIX, EXAMPLE) == b'B' * 32
    assert bech32.encode(PREFIX, b'B' * 32).upper() == EXAMPLE


@given(st.binary(min_size=32, max_size=32), st.sampled_from(['age', PREFIX]))
def test_round_trip(content: bytes, prefix: str) -> None:
    text = bech32.encode(prefix, content)
    assert text == text.lower()
    assert bech32.decode(prefix, text) == content
    assert bech32.decode(prefix, text.upper()) == content


@pytest.mark.parametrize('position', range(len(EXAMPLE)))
def test_another_letter_is_seen(position: int) -> None:
    for letter in 'QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L1B-é':
        if letter != EXAMPLE[position]:
            text = EXAMPLE[:position] + letter + EXAMPLE[position + 1 :]
            with pytest.raises(ValueError, match='Bech32'):
                bech32.decode(PREFIX, text)


@pytest.mark.parametrize(
    'text',
    [
        '',
        EXAMPLE[:-1],
        EXAMPLE + 'Q',
        EXAMPLE[:-7] + EXAMPLE[-6:],
        EXAMPLE.replace('KEY', 'key'),
        EXAMPLE.removeprefix('AGE-'),
        'age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj',
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match='Bech32') as caught:
        bech32.decode(PREFIX, text)
    assert not text or text not in str(caught.value)
