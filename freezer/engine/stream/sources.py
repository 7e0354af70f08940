"""What can be backed up as a stream: the output of a command, and standard input."""

import abc
import os
import stat
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field, replace

from freezer.engine.engine import Source
from freezer.engine.stream import processes
from freezer.engine.stream.mariadb import Increments
from freezer.engine.stream.presets import Preset
from freezer.engine.stream.processes import Command
from freezer.exceptions import EngineError

#: ``--path-to-backup`` for standard input
STANDARD_INPUT = '-'


@dataclass(frozen=True)
class StreamSource(Source, abc.ABC):
    """
    :param file: the name of the file that a restore makes
    """

    file: str

    @abc.abstractmethod
    def blocks(self, cancelled: threading.Event) -> Generator[bytes, None, None]:
        """:raises EngineError: it cannot be read to its end, or is not complete"""


@dataclass(frozen=True)
class InputSource(StreamSource):
    def blocks(self, cancelled: threading.Event) -> Generator[bytes, None, None]:
        return processes.read(_descriptor(), cancelled)


def check_input() -> None:
    """:raises EngineError: standard input cannot be a backup"""
    if os.isatty(_descriptor()):
        raise EngineError(
            'standard input is a terminal: pipe the output of a command into the '
            'agent, or pass --stream-command'
        )
    if stat.S_ISDIR(os.fstat(_descriptor()).st_mode):
        raise EngineError('standard input is a directory: pass --engine tar for files')


def _descriptor() -> int:
    if sys.stdin is None:
        raise EngineError('standard input is closed')
    return sys.stdin.fileno()


@dataclass(frozen=True)
class CommandSource(StreamSource):
    """
    :param increments: what a preset does for them; None if it makes none
    """

    command: Command
    preset: Preset | None = None
    increments: Increments | None = field(default=None, compare=False)

    def blocks(self, cancelled: threading.Event) -> Generator[bytes, None, None]:
        return processes.output(self.command, cancelled)

    def with_options(self, options: list[str]) -> 'CommandSource':
        """The same with further options for the program of the preset."""
        first, *others = self.command.pipeline
        pipeline = [[*first, *options], *others]
        return replace(self, command=Command(self.command.option, pipeline))
