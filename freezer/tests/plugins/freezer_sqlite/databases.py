"""Dumps of all SQLite databases of a directory, each a part of the level."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from freezer.engine.engine import (
    Archiving,
    Base,
    Engine,
    PartsExtractor,
    Source,
    Warnings,
)
from freezer.exceptions import ConfigError, EngineError
from freezer.storage import layout
from freezer.utils.blocks import Block, PartStart

from .engine import directory, dump, load, opened, with_digest, without_digest

_HEAD = b'-- freezer-sqlset 1\n'
_SUFFIX = '.sqlite'
# The name of the part that lists the others of the state: no file can have it.
_LIST = '0-databases'


@dataclasses.dataclass(frozen=True)
class Databases(Source):
    path: Path


class SqlSetEngine(Engine):
    """A level has a list of all databases, and those that changed since the level
    below, each as a part.

    The engine's file has the SHA-256 of each dump, as JSON.
    """

    name = 'sqlset'

    def source(self, paths: Sequence[str]) -> Databases:
        path = next(iter(paths), None)
        if path is None:
            raise ConfigError('engine sqlset needs --path-to-backup: a directory')
        _names(Path(path))
        return Databases(path, Path(path))

    def archive(self, archiving: Archiving) -> Generator[Block | PartStart, None, None]:
        source, base = archiving.source, archiving.base
        assert isinstance(source, Databases)
        before = _digests(base.state) if base else {}
        names = _names(source.path)
        yield PartStart(_LIST)
        yield from with_digest(_HEAD, [json.dumps(names).encode() + b'\n'])
        now = {}
        for name in names:
            path = source.path / f'{name}{_SUFFIX}'
            digest = hashlib.sha256()
            with opened(path) as database:
                for lines in dump(_HEAD, database):
                    digest.update(lines)
                now[name] = digest.hexdigest()
                if before.get(name) != now[name]:
                    yield PartStart(name)
                    yield from dump(_HEAD, database)
        archiving.state.write_text(json.dumps(now))
        self._progress.files = len(names)

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        try:
            _digests(base.state)
        except EngineError as error:
            return str(error)
        return None

    def check_target(self, path: str | None, overwrite: bool) -> str:
        return directory(path, overwrite)

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> PartsExtractor:
        os.makedirs(target, exist_ok=True)
        return _SetLoader(Path(target))

    def is_archive_start(self, head: bytes) -> bool:
        return head.startswith(_HEAD)


class _SetLoader(PartsExtractor):
    """Makes a directory have the databases of each level in turn."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def extract(self, parts: Iterator[tuple[str, Iterator[Block]]]) -> None:
        names: Sequence[str] | None = None
        for part, blocks in parts:
            if part == _LIST:
                *_head, line = without_digest(_HEAD, blocks)
                names = json.loads(line)
            else:
                load(_HEAD, blocks, self._target / f'{part}{_SUFFIX}')
        there = {path.stem: path for path in self._target.glob(f'*{_SUFFIX}')}
        if names is None or not there.keys() >= set(names):
            raise EngineError(f'{self._target}: parts of the backup are missing')
        for name in there.keys() - set(names):
            there[name].unlink()


def _names(path: Path) -> list[str]:
    """The databases of a directory, sorted.

    :raises EngineError: it cannot be read, or one has a name that no part can have
    """
    try:
        names = sorted(each.stem for each in path.iterdir() if each.suffix == _SUFFIX)
    except OSError as error:
        raise EngineError(f'{path}: {error.strerror}') from error
    for name in names:
        if name == _LIST or not layout.PART_NAME.match(name):
            raise EngineError(
                f'{path}/{name}{_SUFFIX}: engine sqlset needs names of up to 63 '
                f'lower-case letters, digits, _ and -'
            )
    return names


def _digests(state: Path) -> dict[str, str]:
    """The engine's file.

    :raises EngineError: it is damaged
    """
    try:
        found = json.loads(state.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EngineError('the engine file of the level below is damaged')
    return found
