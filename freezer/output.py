"""What is printed: the result on standard output, or where ``--metadata-out`` says, and
lines for the person who watches on standard error.

Either stream may be missing, closed, full, or unable to hold some characters.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from freezer.exceptions import FreezerError
from freezer.utils.text import printable

if TYPE_CHECKING:
    from freezer.job.job import Outcome, Table


class NoOutput(Exception):
    """What became of standard output; of what was asked for it says nothing."""


def publish(outcome: 'Outcome', metadata_out: str | None) -> None:
    """The result: JSON where it is asked for, else tables and text.

    :raises NoOutput: standard output does not take it
    :raises FreezerError: the file does not
    """
    if metadata_out:
        _write(_as_json(outcome), metadata_out)
    elif sys.stdout is not None:
        _print(_for_people(outcome))


def say(text: str) -> None:
    """A line on standard error, as far as there is one."""
    # Without one, print() would take standard output.
    if sys.stderr is None:
        return
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        # What is done is no worse for that, and the log has it.
        _point_to_nothing(sys.stderr)


def _as_json(outcome: 'Outcome') -> Iterator[str]:
    """One document, or one a line, each as it comes."""
    if outcome.records is not None:
        for record in outcome.records:
            yield json.dumps(record) + '\n'
    elif outcome.document is not None:
        yield json.dumps(outcome.document)


def _for_people(outcome: 'Outcome') -> Iterator[str]:
    for table in outcome.tables:
        yield f'{_drawn(table)}\n'
    for line in outcome.text:
        yield f'{printable(line)}\n'


def _drawn(table: 'Table') -> str:
    import prettytable

    shown = prettytable.PrettyTable(table.header)
    shown.align = 'l'
    if table.width:
        shown.max_width = table.width
        shown.break_on_hyphens = False
    shown.add_rows([[printable(str(cell)) for cell in row] for row in table.rows])
    return str(shown)


def _write(texts: Iterator[str], path: str) -> None:
    if path == '-':
        if sys.stdout is None:
            raise NoOutput('was closed')
        _print(texts)
        return
    # Nothing to tell is told without a file.
    first = next(texts, None)
    if first is None:
        return
    try:
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(first)
            for text in texts:
                stream.write(text)
    except OSError as error:
        whole = '' if first.endswith('\n') else f', and its result is: {first}'
        raise FreezerError(
            f'metadata-out {path}: {error.strerror}; what was asked for was done{whole}'
        ) from error


def _print(texts: Iterable[str]) -> None:
    """On standard output; what its encoding does not have is written out."""
    encoding = sys.stdout.encoding or 'ascii'
    for text in texts:
        with _output():
            encoded = text.encode(encoding, 'backslashreplace')
            sys.stdout.write(encoded.decode(encoding))
    with _output():
        sys.stdout.flush()


@contextlib.contextmanager
def _output() -> Iterator[None]:
    """:raises NoOutput: it does not take what is written in the block"""
    try:
        yield
    except OSError as error:
        _point_to_nothing(sys.stdout)
        gone = isinstance(error, BrokenPipeError)
        why = 'was closed' if gone else f'failed ({error.strerror})'
        raise NoOutput(why) from error


def _point_to_nothing(stream: TextIO) -> None:
    """Else the interpreter tries again when it ends."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
