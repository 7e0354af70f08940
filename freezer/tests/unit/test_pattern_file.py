"""Files of ``--exclude-from``: which lines are patterns."""

from pathlib import Path

import pytest

from freezer.engine.tar.excludes import Excludes
from freezer.engine.tar.pattern_file import Line, PatternFile, read


@pytest.mark.parametrize(
    'content, lines',
    [
        (b'', ()),
        (b'\n \t\r\n# a\n  # b\n', ()),
        (b'a', (Line(1, 'a'),)),
        (b'\xef\xbb\xbfa b \r\n\n#\nb\t\n', (Line(1, 'a b'), Line(4, 'b'))),
        (
            b'!a\n! b\n\\!c\n!#d',
            (
                *(Line(1, 'a', True), Line(2, 'b', True)),
                *(Line(3, '\\!c'), Line(4, '#d', True)),
            ),
        ),
        (b'a#b\n\xff\n\xc3\xa9', (Line(1, 'a#b'), Line(2, '\udcff'), Line(3, 'é'))),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: tuple[Line, ...]) -> None:
    path = tmp_path / 'patterns'
    path.write_bytes(content)
    assert read(str(path)) == PatternFile(str(path), lines)


@pytest.mark.parametrize(
    'texts, path, excluded',
    [
        ('*.o !keep.o', b'a/keep.o', False),
        ('*.o !keep.o', b'a/b.o', True),
        ('!keep.o *.o', b'keep.o', True),
        ('*.o !keep.o ./keep.o', b'keep.o', True),
        ('*.o !keep.o ./keep.o', b'a/keep.o', False),
        ('a/* !a/b', b'a/b/c', False),
        ('a/* !a/b', b'a/c', True),
        ('!a', b'b', False),
    ],
)
def test_the_last_line_that_matches_decides(
    texts: str, path: bytes, excluded: bool
) -> None:
    lines = (
        Line(number, text.removeprefix('!'), text.startswith('!'))
        for number, text in enumerate(texts.split(), start=1)
    )
    excludes = Excludes([], files=[PatternFile('patterns', tuple(lines))])
    # Both times: what is known to match is not matched again.
    for _ in range(2):
        assert excludes.matches(path) == excluded
