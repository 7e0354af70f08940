"""Writes the result to standard output or ``--metadata-out``, and messages to standard
error.

Either stream may be missing, closed or full, or its encoding may lack characters.
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
    """Standard output cannot be written; the action itself succeeded."""


def publish(outcome: 'Outcome', metadata_out: str | None) -> None:
    """Write the result: JSON with ``--metadata-out``, else tables and text.

    :raises NoOutput: standard output cannot be written
    :raises FreezerError: the file cannot be written
    """
    if metadata_out:
        _write(_as_json(outcome), metadata_out)
    elif sys.stdout is not None:
        _print(_as_text(outcome))


def say(text: str) -> None:
    """Print a line to standard error, if it is there."""
    # Without one, print() would take standard output.
    if sys.stderr is None:
        return
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        # The action does not fail for that; the log has the line.
        _discard(sys.stderr)


def _as_json(outcome: 'Outcome') -> Iterator[str]:
    """One document, or one per line as they arrive."""
    if outcome.records is not None:
        for record in outcome.records:
            yield json.dumps(record) + '\n'
    elif outcome.document is not None:
        yield json.dumps(outcome.document)


def _as_text(outcome: 'Outcome') -> Iterator[str]:
    for table in outcome.tables:
        yield f'{_render(table)}\n'
    for line in outcome.text:
        yield f'{printable(line)}\n'


def _render(table: 'Table') -> str:
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
    # An empty result creates no file.
    first = next(texts, None)
    if first is None:
        return
    try:
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(first)
            for text in texts:
                stream.write(text)
    except OSError as error:
        result = '' if first.endswith('\n') else f', and its result is: {first}'
        raise FreezerError(
            f'metadata-out {path}: {error.strerror}; the action succeeded{result}'
        ) from error


def _print(texts: Iterable[str]) -> None:
    """Write to standard output; characters its encoding lacks are escaped."""
    encoding = sys.stdout.encoding or 'ascii'
    for text in texts:
        with _output():
            encoded = text.encode(encoding, 'backslashreplace')
            sys.stdout.write(encoded.decode(encoding))
    with _output():
        sys.stdout.flush()


@contextlib.contextmanager
def _output() -> Iterator[None]:
    """:raises NoOutput: the block could not write to standard output"""
    try:
        yield
    except OSError as error:
        _discard(sys.stdout)
        gone = isinstance(error, BrokenPipeError)
        why = 'was closed' if gone else f'failed ({error.strerror})'
        raise NoOutput(why) from error


def _discard(stream: TextIO) -> None:
    """Redirect to /dev/null: the interpreter flushes the stream again at exit."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
