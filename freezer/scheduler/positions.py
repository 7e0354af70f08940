"""In which line of a JSON text something stands. Pure."""

import json
import re
from typing import Any

Path = tuple[str | int, ...]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


class Positions:
    """Of a text that ``json.loads`` takes: path of keys and numbers -> line."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {(): 1}
        #: keys that an object has twice, with the line of the second
        self.twice: list[tuple[Path, int]] = []
        self._walk(text)

    def line(self, path: Path) -> int:
        """Of the key, or of what would hold it if it were there."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _walk(self, text: str) -> None:
        # Of each object and array we are in, where we are in it; None before a key.
        here: list[str | int | None] = []
        line, counted = 1, 0
        for token in _TOKEN.finditer(text):
            line += text.count('\n', counted, token.start())
            counted = token.start()
            word = token[0]
            if word == ',':
                last = here.pop()
                here.append(last + 1 if isinstance(last, int) else None)
            elif word in '}]':
                here.pop()
            elif word != ':':
                self._note(here, word, line)

    def _note(self, here: list[Any], word: str, line: int) -> None:
        """A key, or the beginning of a value."""
        if here and here[-1] is None:
            here[-1] = json.loads(word)
            path = tuple(here)
            if path in self._lines:
                self.twice.append((path, line))
            self._lines[path] = line
            return
        if here and isinstance(here[-1], int):
            self._lines[tuple(here)] = line
        if word in '{[':
            here.append(None if word == '{' else 0)


def shown(path: Path) -> str:
    """``job_actions[0].freezer_action.action``"""
    words = (f'[{part}]' if isinstance(part, int) else f'.{part}' for part in path)
    return ''.join(words).removeprefix('.')
