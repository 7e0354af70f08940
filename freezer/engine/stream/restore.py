"""Restores the streams of a chain: to files, to a command, or to a data directory."""

import abc
import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final

from freezer.engine.engine import Extractor, Restored
from freezer.engine.stream import processes
from freezer.engine.stream.frame import FrameReader
from freezer.engine.stream.presets import TARGET, Preset
from freezer.engine.stream.processes import Command
from freezer.exceptions import EngineError, RestoreError
from freezer.utils.blocks import Block

#: end of the name of a file that is not complete
PARTIAL: Final = '.partial'


class ChainReader:
    """Reads the archives of a chain, from level 0 up."""

    def __init__(self, level: int = 0) -> None:
        self._next = level
        # Nothing is known of the levels below.
        self._base: str | None = None if level else ''

    def open(self, archive: Iterable[Block]) -> FrameReader:
        """:raises EngineError: it is that of another level, or of another chain"""
        frame = FrameReader(archive)
        header = frame.header
        if header.level != self._next or self._base not in (None, header.base):
            raise EngineError(
                f'the archive of level {self._next} is that of another level or '
                f'chain: the backup is damaged'
            )
        return frame

    def read(self, frame: FrameReader) -> Iterator[Block]:
        """Its stream."""
        yield from frame.blocks()
        self._next += 1
        self._base = frame.digest

    def copy(self) -> 'ChainReader':
        other = ChainReader()
        vars(other).update(vars(self))
        return other


class _ChainExtractor(Extractor):
    def __init__(self) -> None:
        self._chain = ChainReader()

    def extract(self, blocks: Iterator[Block]) -> None:
        frame = self._chain.open(blocks)
        self._restore(frame, self._chain.read(frame))

    @abc.abstractmethod
    def _restore(self, frame: FrameReader, stream: Iterator[Block]) -> None:
        """Restore one level."""


class FileExtractor(_ChainExtractor):
    """A file for each level, named as level 0 says. They get their names when all are
    complete.

    :param folder: created if it is missing
    """

    def __init__(self, folder: str, overwrite: bool) -> None:
        super().__init__()
        self._folder = folder
        self._overwrite = overwrite
        self._name = ''
        self._made: list[str] = []

    def _restore(self, frame: FrameReader, stream: Iterator[Block]) -> None:
        level = frame.header.level
        name = self._name = self._name or frame.header.name
        if level:
            stem, dot, extension = name.partition('.')
            name = f'{stem}.{level}{dot}{extension}'
        path = os.path.join(self._folder, name)
        try:
            os.makedirs(self._folder, exist_ok=True)
            self._check(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + PARTIAL)
            with open(path + PARTIAL, 'xb', opener=_private) as file:
                self._made.append(path)
                for block in stream:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EngineError(f'{path}: {error.strerror}') from error

    def _check(self, path: str) -> None:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise RestoreError(f'{path} is a directory: restore into another directory')
        if not self._overwrite:
            raise RestoreError(f'{path} exists: --overwrite replaces it')

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for path in self._made:
            try:
                if error is None:
                    os.replace(path + PARTIAL, path)
                else:
                    os.unlink(path + PARTIAL)
            except OSError as problem:
                if error is None:
                    raise EngineError(f'{path}: {problem.strerror}') from problem

    @property
    def restored(self) -> Restored | None:
        files = [path for path in self._made if os.path.exists(path)]
        return Restored(', '.join(files), {'restored_files': '\n'.join(files)})


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


class CommandExtractor(_ChainExtractor):
    """The stream of level 0, which must be the only one, to a command."""

    def __init__(self, command: Command) -> None:
        super().__init__()
        self._command = command

    def _restore(self, frame: FrameReader, stream: Iterator[Block]) -> None:
        if frame.header.level:
            raise alone(frame.header.level)
        processes.feed(self._command, stream)

    @property
    def restored(self) -> Restored | None:
        name = self._command.name
        return Restored(f'the command {name}', {'restored_by': name})


def alone(level: int) -> RestoreError:
    """The error for an increment that is to be restored by itself."""
    return RestoreError(
        f'level {level} has only the changes since the level below, and its stream '
        f'is no use alone: restore into a directory with --restore-abs-path'
    )


class DirectoryExtractor(_ChainExtractor):
    """A data directory, unpacked and prepared by the programs of a preset.

    :param folder: created if it is missing; else it is empty
    """

    def __init__(self, folder: str, preset: Preset) -> None:
        super().__init__()
        self._folder = folder
        self._preset = preset

    def _restore(self, frame: FrameReader, stream: Iterator[Block]) -> None:
        if not frame.header.level:
            try:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
            except OSError as error:
                raise EngineError(f'{self._folder}: {error.strerror}') from error
            self._unpack(self._folder, stream)
            self._prepare()
            return
        # Beside it: in it, the directory would be taken for a database.
        above, name = os.path.split(self._folder)
        with _temporary_directory(above, f'{name}.level-') as changes:
            self._unpack(changes, stream)
            self._prepare(f'--incremental-dir={changes}')

    def _unpack(self, folder: str, stream: Iterator[Block]) -> None:
        argv = [each.replace(TARGET, folder) for each in self._preset.unpack]
        processes.feed(Command('restore', [argv]), stream)

    def _prepare(self, *further: str) -> None:
        if self._preset.prepare:
            argv = [each.replace(TARGET, self._folder) for each in self._preset.prepare]
            processes.run(Command('restore', [[*argv, *further]]))


@contextlib.contextmanager
def _temporary_directory(above: str, prefix: str) -> Iterator[str]:
    try:
        path = tempfile.mkdtemp(dir=above, prefix=prefix)
    except OSError as error:
        raise EngineError(f'{above}: {error.strerror}') from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
