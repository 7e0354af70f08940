"""Command line arguments: options that are given twice, and spelling mistakes."""

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import NoReturn

from freezer.common.usage import Entry, Usage
from freezer.exceptions import ConfigError
from freezer.utils.text import printable

# Longer words are no misspelt options, and matching takes quadratic time.
_LONGEST = 60


def refuse_repeated(argv: Sequence[str], usage: Usage) -> None:
    """For a command line that oslo.config accepted, of which the last value would win.

    :raises ConfigError: an option that takes one value has two, or a flag is turned on
        and off
    """
    parser = _Parser(add_help=False)
    entries = dict(enumerate(_entries(usage)))
    for number, one in entries.items():
        if one.metavar:
            parser.add_argument(*one.all_names, dest=str(number), action='append')
            continue
        for names, value in ((one.all_names, True), (one.all_inverses, False)):
            if names:
                parser.add_argument(
                    *names, dest=str(number), action='append_const', const=value
                )
    try:
        given, _others = parser.parse_known_args(list(argv))
    except _Unreadable:
        return
    for number, one in entries.items():
        values = getattr(given, str(number)) or ()
        name = one.names[-1]
        if one.metavar and len(values) > 1 and not one.many:
            raise ConfigError(f'{name} is given more than once: pass it once')
        if not one.metavar and len(set(values)) > 1:
            raise ConfigError(f'{name} and {one.inverse}: pass one of them')


def explain_unknown(words: Sequence[str], usage: Usage) -> str:
    """The problem of arguments that oslo.config does not know.

    Repeats no value: it may be a secret.

    :param words: these arguments; empty if it is not certain which they are
    """
    if not words:
        return 'unknown argument'
    entries = list(_entries(usage))
    names = [_name(word) for word in words if word.startswith('-')]
    if names:
        known = [
            name for one in entries for name in (*one.all_names, *one.all_inverses)
        ]
        close = [found for name in names for found in closest(name, known)]
        return f'unknown argument {" ".join(names)}{_did_you_mean(close)}'
    actions = [
        word for one in entries if '--action' in one.names for word in one.choices
    ]
    close = []
    for word in words:
        close += (f'--action {found}' for found in closest(word, actions))
        if os.path.isfile(word):
            close.append(f'--config {word}')
    return f'unexpected positional argument{_did_you_mean(close)}'


def _name(word: str) -> str:
    """The part of an argument that is surely no value, as in ``-pVALUE``."""
    name = re.split(r'[=\s]', word, maxsplit=1)[0] if word[:2] == '--' else word[:2]
    return printable(name)


def closest(word: str, known: Iterable[str]) -> list[str]:
    """The known word that is spelt like this one, if there is one."""
    if len(word) > _LONGEST:
        return []
    folded: dict[str, str] = {}
    for each in known:
        folded.setdefault(each.lower().replace('_', '-'), each)
    found = get_close_matches(word.lower().replace('_', '-'), folded, 1, 0.7)
    return [folded[each] for each in found]


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean backup?``, or nothing."""
    return _did_you_mean(closest(word, known))


def _did_you_mean(close: Sequence[str]) -> str:
    return f'; did you mean {" ".join(close)}?' if close else ''


def _entries(usage: Usage) -> Iterator[Entry]:
    return (one for section in usage.sections for one in section.entries)


class _Unreadable(Exception):
    """oslo.config knows more options than the help shows."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Unreadable(message)
