"""Writes the result to standard output or ``--metadata-out``."""

import contextlib
import itertools
import json
import os
import stat
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from freezer.exceptions import FreezerError
from freezer.utils import streams, trusted
from freezer.utils.blocks import Block
from freezer.utils.text import columns_of, printable

if TYPE_CHECKING:
    from freezer.job.job import Outcome, Table


# Lines that are written at once.
_LINES = 512


def publish(outcome: 'Outcome', metadata_out: str | None, long: bool) -> None:
    """Write the result: bytes; or JSON with ``--metadata-out``, else tables and text.

    :param long: write the tables of an outcome that is summarized, too
    :raises NoOutput, ReaderGone: standard output cannot be written
    :raises FreezerError: the file cannot be written
    """
    if outcome.content is not None:
        _print_bytes(outcome.content)
    elif metadata_out:
        _write(_as_json(outcome), metadata_out)
    elif sys.stdout is not None:
        shortened = outcome.summarized and streams.is_terminal() and not long
        streams.write(_as_text(outcome, () if shortened else outcome.tables))


def _as_json(outcome: 'Outcome') -> Iterator[str]:
    """One document, or one per line as they arrive."""
    if outcome.records is not None:
        yield from _joined(map(json.dumps, outcome.records))
    elif outcome.document is not None:
        yield json.dumps(outcome.document)


def _as_text(outcome: 'Outcome', tables: Sequence['Table']) -> Iterator[str]:
    for table in tables:
        yield f'{_render(table)}\n'
    yield from _joined(outcome.text)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Many lines at a time: each write costs more than a line."""
    lines = iter(lines)
    while some := list(itertools.islice(lines, _LINES)):
        if not ''.join(some).isprintable():
            some = list(map(printable, some))
        some.append('')
        yield '\n'.join(some)


def _render(table: 'Table') -> str:
    # Takes 5 ms to import, and not every action prints a table.
    import prettytable

    shown = prettytable.PrettyTable(table.header)
    shown.align = 'l'
    shown.break_on_hyphens = False
    rows = [[printable(str(cell)) for cell in row] for row in table.rows]
    limits = [table.width, _cell_width([table.header, *rows])]
    if any(limits):
        shown.max_width = min(filter(None, limits))
    shown.add_rows(rows)
    return str(shown)


def _cell_width(rows: Sequence[Sequence[str]]) -> int | None:
    """At how many columns cells are wrapped, so that a table fits the terminal; the
    widest are wrapped, and no header. None if it fits, or there is no terminal."""
    columns = streams.columns()
    if columns is None:
        return None
    widths = [max(map(columns_of, cells)) for cells in zip(*rows, strict=True)]
    # A border, and a blank on each side of a cell.
    room = columns - 1 - 3 * len(widths)
    if sum(widths) <= room:
        return None
    width = max(widths)
    while width > max(map(columns_of, rows[0])) and (
        sum(min(each, width) for each in widths) > room
    ):
        width -= 1
    return width


def _write(texts: Iterator[str], path: str) -> None:
    if path == '-':
        streams.write(texts)
        return
    # An empty result creates no file.
    first = next(texts, None)
    if first is None:
        return
    try:
        with open(path, 'w', encoding='utf-8', opener=trusted.opener) as stream:
            stream.write(first)
            for text in texts:
                stream.write(text)
    except OSError as error:
        result = '' if first.endswith('\n') else f', and its result is: {first}'
        raise FreezerError(
            f'metadata-out {path}: {error.strerror}; the action succeeded{result}'
        ) from error


def _print_bytes(content: Generator[Block, None, None]) -> None:
    if sys.stdout is None:
        raise streams.NoOutput('was closed')
    # It has downloads in flight.
    with contextlib.closing(content) as blocks:
        for block in blocks:
            with streams.writing():
                sys.stdout.buffer.write(block)
    with streams.writing():
        sys.stdout.flush()


def is_file() -> bool:
    """Whether standard output is a file, and no terminal or pipe that shows it."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False
