"""Which paths ``--exclude`` leaves out, as tar itself decides it.

tar matches a pattern with fnmatch(3) against the name it gives a file (``./a/b``), and
against each part of it that follows a slash. Wildcards match slashes, and a pattern
that matches a directory excludes what is in it.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Final

# In GNU's fnmatch.h: a slash and anything may follow what the pattern matches.
_LEADING_DIR: Final = 8


class Excludes:
    """:param patterns: as given to tar"""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [
            pattern.encode(errors='surrogateescape') for pattern in patterns
        ]

    def matches(self, path: bytes) -> bool:
        """Whether a path below the source, or a directory it is in, is excluded."""
        if not self._patterns:
            return False
        name = b'./' + path
        while True:
            for pattern in self._patterns:
                if not _fnmatch(pattern, name, _LEADING_DIR):
                    return True
            _, slash, name = name.partition(b'/')
            if not slash:
                return False


def _load() -> Callable[[bytes, bytes, int], int]:
    function: Callable[[bytes, bytes, int], int] = ctypes.CDLL(None).fnmatch
    return function


_fnmatch: Final = _load()
