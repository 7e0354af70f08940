"""Files with patterns to exclude, one a line."""

import dataclasses
import os

from freezer.exceptions import ConfigError
from freezer.utils.paths import absolute

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'


@dataclasses.dataclass(frozen=True)
class Line:
    """One pattern.

    :ivar number: of the line, from 1
    :ivar is_negated: what it matches is not excluded by the lines above
    """

    number: int
    text: str
    is_negated: bool = False


@dataclasses.dataclass(frozen=True)
class PatternFile:
    """The patterns of a file, in order; the last one that matches a path decides."""

    path: str
    lines: tuple[Line, ...]

    @property
    def negates(self) -> bool:
        """Whether a line takes back what others exclude."""
        return any(line.is_negated for line in self.lines)


def read(path: str) -> PatternFile:
    """Read a file. Blank lines, and lines that begin with ``#``, are skipped; spaces
    around a pattern are removed. Names are bytes: no encoding is required.

    :raises ConfigError: it cannot be read, or has a line that is no pattern
    """
    path = absolute(path)
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f'exclude-from {path}: {error.strerror}') from error
    lines = []
    for number, raw in enumerate(
        content.removeprefix(_BYTE_ORDER_MARK).split(b'\n'), start=1
    ):
        text = raw.strip()
        if not text or text.startswith(b'#'):
            continue
        if b'\0' in text:
            raise ConfigError(
                f'exclude-from {path}, line {number}: a null byte: write patterns as '
                f'plain text, one a line'
            )
        is_negated = text.startswith(b'!')
        pattern = text.removeprefix(b'!').strip()
        if not pattern:
            raise ConfigError(
                f'exclude-from {path}, line {number}: a pattern has to follow the !'
            )
        lines.append(Line(number, os.fsdecode(pattern), is_negated))
    return PatternFile(path, tuple(lines))
