"""Writes to standard output and standard error.

Either stream may be missing, closed or full, or its encoding may lack characters. A
reader that has read enough, as ``head``, closes the pipe: that is no error.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from freezer.exceptions import FreezerError
from freezer.utils.text import printable


class NoOutput(Exception):
    """Standard output cannot be written; the action itself succeeded."""


class ReaderGone(Exception):
    """The reader of standard output has closed the pipe."""


def write(texts: Iterable[str]) -> None:
    """Write to standard output; characters its encoding lacks are escaped.

    :raises NoOutput, ReaderGone: not all was written
    """
    if sys.stdout is None:
        raise NoOutput('was closed')
    encoding = sys.stdout.encoding or 'ascii'
    for text in texts:
        with writing():
            encoded = text.encode(encoding, 'backslashreplace')
            sys.stdout.write(encoded.decode(encoding))
    with writing():
        sys.stdout.flush()


def show(text: str) -> None:
    """Write what somebody asked to read, as far as the reader reads it.

    :raises FreezerError: it cannot be written
    """
    try:
        write([text])
    except ReaderGone:
        pass
    except NoOutput as error:
        raise FreezerError(
            f'standard output {error} before the result was written'
        ) from error


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """A block whose ``print`` is shown at its end.

    :raises FreezerError: see :func:`show`
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    show(printed.getvalue())


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


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def columns() -> int | None:
    """The columns of the terminal that standard output is; None if it is none, or does
    not report them."""
    if not is_terminal():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """:raises NoOutput, ReaderGone: the block could not write to standard output"""
    try:
        yield
    except BrokenPipeError as error:
        _discard(sys.stdout)
        raise ReaderGone from error
    except OSError as error:
        _discard(sys.stdout)
        raise NoOutput(f'failed ({error.strerror})') from error


def _discard(stream: TextIO) -> None:
    """Redirect to /dev/null: the interpreter flushes the stream again at exit."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
