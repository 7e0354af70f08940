"""Line numbers of the keys in a JSON text. Pure."""

import json
import re
from typing import Any

#: keys of objects and indexes of lists, from the outermost inwards
KeyPath = tuple[str | int, ...]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


class Positions:
    """Path -> line, for a text that ``json.loads`` accepts."""

    def __init__(self, text: str) -> None:
        self._lines: dict[KeyPath, int] = {(): 1}
        #: keys that an object has twice, with the line of the second
        self.duplicates: list[tuple[KeyPath, int]] = []
        self._walk(text)

    def line(self, path: KeyPath) -> int:
        """The line of the key; if the key is missing, that of the object around it."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _walk(self, text: str) -> None:
        # The current key or index in each open object and list; None before a key.
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
        """Note the line of a key, or of the first token of a value."""
        if here and here[-1] is None:
            here[-1] = json.loads(word)
            path = tuple(here)
            if path in self._lines:
                self.duplicates.append((path, line))
            self._lines[path] = line
            return
        if here and isinstance(here[-1], int):
            self._lines[tuple(here)] = line
        if word in '{[':
            here.append(None if word == '{' else 0)


def format_path(path: KeyPath) -> str:
    """``job_actions[0].freezer_action.action``"""
    words = (f'[{part}]' if isinstance(part, int) else f'.{part}' for part in path)
    return ''.join(words).removeprefix('.')
