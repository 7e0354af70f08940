"""Reads JSON from a stream, without keeping it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from freezer.engine.rsync.msgpack import Scalar
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

_TOKEN: Final = re.compile(
    rb'[ \t\r\n]*("(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+)', re.DOTALL
)
_LONGEST: Final = 1 << 20
_DEEPEST: Final = 8


class JsonReader:
    """
    :param damaged: makes an error of a reason
    """

    def __init__(
        self, blocks: Iterable[Block], damaged: Callable[[str], EngineError]
    ) -> None:
        self._blocks = iter(blocks)
        self.damaged = damaged
        self._buffer = b''
        self._at = 0
        self._next: bytes | None = None

    def map(self) -> Iterator[bytes]:
        """The keys of a map. Its values are to be read in between."""
        self._expect(b'{')
        if self._take_if(b'}'):
            return
        while True:
            yield self._text(self._token())
            if self._end_or_comma(b'}'):
                return

    def items(self) -> Iterator[None]:
        """One for each value of an array. The values are to be read in between."""
        self._expect(b'[')
        if self._take_if(b']'):
            return
        while True:
            yield
            if self._end_or_comma(b']'):
                return

    def scalar(self) -> Scalar:
        self._skip_colon()
        token = self._token()
        if token.startswith(b'"'):
            return self._text(token)
        try:
            value: Scalar = json.loads(token)
        except ValueError as error:
            raise self.damaged(f'{token[:20]!r} is not expected') from error
        return value

    def skip(self, depth: int = 0) -> None:
        """Skip a value of any kind."""
        if depth > _DEEPEST:
            raise self.damaged('its values are nested too deep')
        self._skip_colon()
        token = self._peek()
        if token in (b'{', b'['):
            for _ in self.map() if token == b'{' else self.items():
                self.skip(depth + 1)
        else:
            self.scalar()

    def _text(self, token: bytes) -> bytes:
        try:
            text = json.loads(token)
            if isinstance(text, str):
                return text.encode(errors='surrogateescape')
        except ValueError as error:
            raise self.damaged(f'{token[:20]!r} is no text') from error
        raise self.damaged(f'{token[:20]!r} is no text')

    def _expect(self, wanted: bytes) -> None:
        self._skip_colon()
        token = self._token()
        if token != wanted:
            raise self.damaged(f'{token[:20]!r} is not expected')

    def _skip_colon(self) -> None:
        self._take_if(b':')

    def _end_or_comma(self, end: bytes) -> bool:
        if self._take_if(end):
            return True
        self._expect(b',')
        return False

    def _take_if(self, wanted: bytes) -> bool:
        if self._peek() != wanted:
            return False
        self._token()
        return True

    def _peek(self) -> bytes:
        if self._next is None:
            self._next = self._read()
        return self._next

    def _token(self) -> bytes:
        token, self._next = self._peek(), None
        return token

    def _read(self) -> bytes:
        while True:
            found = _TOKEN.match(self._buffer, self._at)
            # At the end of the buffer, more of it may follow.
            if found and found.end() < len(self._buffer):
                break
            block = next(self._blocks, None)
            if block is None:
                break
            self._buffer = self._buffer[self._at :] + bytes(block)
            self._at = 0
            if len(self._buffer) > _LONGEST + len(block):
                raise self.damaged('a value is too long')
        if found is None:
            raise self.damaged('it is cut off')
        self._at = found.end()
        return found[1]
