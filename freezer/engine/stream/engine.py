"""The engine stream: the output of a command, or standard input."""

import contextlib
import functools
import os
import shlex
import shutil
import tempfile
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from freezer.engine.engine import (
    ArchiveReader,
    Archiving,
    Base,
    Extractor,
    Source,
    StreamedEngine,
    Warnings,
)
from freezer.engine.index.file import Part
from freezer.engine.index.record import Record
from freezer.engine.settings import EngineSettings
from freezer.engine.stream import processes, restore
from freezer.engine.stream.frame import (
    MAGIC,
    FrameReader,
    FrameWriter,
    Header,
    name_problem,
)
from freezer.engine.stream.mariadb import Increments
from freezer.engine.stream.options import OPTIONS
from freezer.engine.stream.presets import PRESETS, Preset
from freezer.engine.stream.processes import Command
from freezer.engine.stream.sources import (
    STANDARD_INPUT,
    CommandSource,
    InputSource,
    StreamSource,
    check_input,
)
from freezer.engine.stream.state import LevelState
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.storage import layout
from freezer.utils import commands
from freezer.utils.blocks import Block
from freezer.utils.paths import absolute

_NO_SOURCE = (
    'engine stream needs --stream PRESET, --stream-command COMMAND, or '
    '--path-to-backup - for standard input'
)


class StreamEngine(StreamedEngine):
    """An archive is a stream in a frame, which shows that it is complete."""

    name = 'stream'

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        options = OPTIONS.defaults() | {**settings.options}
        self._preset: Preset | None = PRESETS.get(options['stream'] or '')
        self._arguments = _words('stream-arguments', options['stream_arguments'])
        self._command: str = options['stream_command'] or ''
        self._file: str = options['stream_name'] or ''
        self._restore_command: str = options['restore_command'] or ''
        self._overwrite = False
        self._check()

    def _check(self) -> None:
        if self._arguments:
            if self._preset is None:
                raise ConfigError('stream-arguments needs --stream PRESET')
            if self._command:
                raise ConfigError(
                    'stream-arguments and stream-command: pass one of them'
                )
            self._preset.check_arguments(self._arguments)
        if self._file and (problem := name_problem(self._file)):
            raise ConfigError(f'stream-name: {problem}')
        for option, text in (
            ('stream-command', self._command),
            ('restore-command', self._restore_command),
        ):
            if text:
                commands.split(option, text)

    # Backup

    def check_source(self, paths: Sequence[str]) -> None:
        if paths and (self._preset or self._command):
            raise ConfigError(
                '--stream and --stream-command back up the output of a command: leave '
                'out --path-to-backup'
            )
        if not (paths or self._preset or self._command):
            raise ConfigError(_NO_SOURCE)
        if paths and [*paths] != [STANDARD_INPUT]:
            raise ConfigError(
                f'engine stream backs up no files, and {paths[0]} is one: {_NO_SOURCE}'
            )
        if not paths and (problem := name_problem(self._file_name)):
            # The name of the program.
            raise ConfigError(f'stream-name: {problem}')
        passphrase = self.settings.passphrase
        if paths and passphrase is not None and passphrase.descriptor == 0:
            raise ConfigError(
                'standard input cannot be both the backup and the passphrase: pass '
                '--encrypt-pass-file'
            )

    def check_incremental(self) -> None:
        if self._increments is None:
            what = 'standard input'
            if self._preset or self._command:
                what = self._tool
            raise ConfigError(
                f'--incremental: engine stream has no increments of {what}, only of '
                f'--stream mariadb-backup: leave out --incremental'
            )

    def source(self, paths: Sequence[str]) -> StreamSource:
        self.check_source(paths)
        if paths:
            check_input()
            file = self._file or 'stream'
            return InputSource(
                'standard input', file, marker={layout.ABOUT_KEY: {'file': file}}
            )
        command = self._source_command
        command.check()
        return CommandSource(
            f'the output of {command.name}',
            self._file_name,
            command,
            self._preset,
            self._increments,
            marker={layout.ABOUT_KEY: self._about},
        )

    @functools.cached_property
    def _source_command(self) -> Command:
        if self._command:
            option = 'stream-command'
            return Command(option, commands.split(option, self._command))
        assert self._preset is not None
        return Command('stream', [self._preset.argv(self._arguments)])

    @property
    def _file_name(self) -> str:
        if self._file:
            return self._file
        if self._preset is not None:
            return self._preset.file
        return self._source_command.name.split(' | ')[0] + '.stream'

    @functools.cached_property
    def _increments(self) -> Increments | None:
        # A command of the user may have any arguments.
        if self._preset is None or self._command or not self._preset.has_increments:
            return None
        return Increments(self._preset, self._arguments)

    @functools.cached_property
    def _tool(self) -> str:
        """The program; of a preset, with its version."""
        command = self._source_command
        program = command.pipeline[0][0]
        # A script in its place may do anything with --version.
        is_known = (
            self._preset is not None
            and os.path.basename(program) == self._preset.name
            and shutil.which(program)
        )
        version = processes.first_line([program, '--version']) if is_known else None
        return version or command.name

    @functools.cached_property
    def _about(self) -> dict[str, str]:
        """What is recorded of the programs."""
        about = {'file': self._file_name, 'tool': self._tool}
        if self._preset is not None and self._preset.server:
            client = self._preset.client(self._preset.server, self._arguments)
            server = processes.first_line(client)
            about |= {'server': server} if server else {}
        return about

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = archiving.source
        assert isinstance(source, StreamSource)
        base = None
        if archiving.base is not None:
            base = LevelState.load(archiving.base.state.read_bytes())
        with tempfile.TemporaryDirectory(dir=archiving.state.parent) as name:
            folder = Path(name)
            increments = None
            position = base.position if base else None
            if isinstance(source, CommandSource) and source.increments is not None:
                increments = source.increments
                source = source.with_options(increments.options(position, folder))
            header = Header(archiving.level, source.file, base.digest if base else '')
            frame = FrameWriter(header)
            with contextlib.closing(source.blocks(archiving.cancelled)) as stream:
                yield from frame.blocks(_not_empty(source, stream))
            state = LevelState(
                archiving.level,
                frame.digest,
                self._preset.name if self._preset else '',
                increments.position(position, folder) if increments else {},
            )
        archiving.state.write_bytes(state.dump())

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        try:
            state = LevelState.load(base.state.read_bytes())
        except EngineError as error:
            return str(error)
        if not isinstance(source, CommandSource) or source.increments is None:
            return 'a stream without a position has no increments'
        return source.increments.problem(state.position)

    # Restore

    def check_target(self, path: str | None, overwrite: bool) -> str:
        self._overwrite = overwrite
        if self._restore_command:
            if path:
                raise ConfigError(
                    'restore-command and restore-abs-path: pass one of them'
                )
            self._target_command.check()
            self.restores_to_path = False
            return self._restore_command
        if path:
            return self._check_directory(absolute(path))
        preset = self._preset
        if preset is None or not preset.restore:
            raise ConfigError(
                'engine stream needs --restore-abs-path, a directory for a file with '
                'the stream, or --restore-command'
            )
        if not overwrite:
            raise ConfigError(
                f'--stream {preset.name} restores into a running server, and replaces '
                f'what is there: add --overwrite; or pass --restore-abs-path, a '
                f'directory for a file with the stream'
            )
        self._target_command.check()
        self.restores_to_path = False
        return self._target_command.name

    def _check_directory(self, path: str) -> str:
        try:
            names = sorted(Path(path).iterdir())
        except FileNotFoundError:
            return path
        except OSError as error:
            raise RestoreError(
                f'restore-abs-path {path}: {error.strerror}: give a directory'
            ) from error
        if self._unpacks and names:
            raise RestoreError(
                f'restore-abs-path {path} is not empty: --stream '
                f'{self._preset.name if self._preset else ""} restores a data '
                f'directory only into an empty one'
            )
        return path

    @property
    def _unpacks(self) -> bool:
        return self._preset is not None and bool(self._preset.unpack)

    @functools.cached_property
    def _target_command(self) -> Command:
        if self._restore_command:
            option = 'restore-command'
            return Command(option, commands.split(option, self._restore_command))
        assert self._preset is not None
        argv = self._preset.restore
        if argv[0] == 'mariadb':
            # Option files come first.
            return Command('restore', [[argv[0], *self._arguments, *argv[1:]]])
        return Command('restore', [[*argv, *self._arguments]])

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        newest = _known(state)
        preset = self._preset
        if (
            preset is not None
            and (self._unpacks or not self.restores_to_path)
            and not self._restore_command
            and newest.preset not in ('', preset.name)
        ):
            raise RestoreError(
                f'the backup was made with --stream {newest.preset}, not {preset.name}'
            )
        if not self.restores_to_path:
            if level := newest.level:
                raise restore.alone(level)
            return restore.CommandExtractor(self._target_command)
        if self._unpacks:
            assert preset is not None
            return restore.DirectoryExtractor(target, preset)
        return restore.FileExtractor(target, self._overwrite)

    def content(self, level: int, archive: Iterable[Block]) -> Iterator[Block]:
        if level:
            raise restore.alone(level)
        chain = restore.ChainReader()
        yield from chain.read(chain.open(archive))

    def is_archive_start(self, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def archive_reader(self, level: int) -> 'StreamReader':
        return StreamReader(restore.ChainReader(level))


def _words(option: str, text: str | None) -> list[str]:
    try:
        return shlex.split(text or '')
    except ValueError as error:
        raise ConfigError(f'{option}: {error}; quote it as for a shell') from error


def _known(state: bytes | None) -> LevelState:
    """The engine file of the newest level; that of a level 0 if it is lost."""
    with contextlib.suppress(EngineError):
        return LevelState.load(state or b'')
    return LevelState(0, '')


def _not_empty(source: StreamSource, stream: Iterable[bytes]) -> Iterator[bytes]:
    """:raises EngineError: it has no bytes"""
    empty = True
    for block in stream:
        empty = False
        yield block
    if empty:
        raise EngineError(
            f'{source.label} is empty, which is no backup: check the command that '
            f'makes it'
        )


class StreamReader(ArchiveReader):
    """Checks the archives of a chain."""

    no_index = 'its engine is stream: a stream has no files'

    def __init__(self, chain: restore.ChainReader) -> None:
        self._chain = chain

    def fork(self) -> Self:
        return type(self)(self._chain.copy())

    def read(
        self,
        blocks: Iterable[Block],
        temporary: Path,
        padded: Container[bytes] = (),
    ) -> 'StreamContents':
        frame: FrameReader = self._chain.open(blocks)
        for _block in self._chain.read(frame):
            pass
        return StreamContents()

    def properties(self, state: bytes | None) -> Mapping[str, Any]:
        return {}


class StreamContents:
    """A stream has no members."""

    no_index: str | None = StreamReader.no_index

    def records(
        self, base: Iterable[tuple[int, Part]], seen: Iterable[Record]
    ) -> Iterator[Record]:
        return iter(())
