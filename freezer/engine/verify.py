"""Checks that the archives of stored levels would restore, and that the indexes match
them. Extracts nothing."""

import contextlib
import heapq
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

from freezer.engine.engine import ArchiveContents, ArchiveReader, Engine
from freezer.engine.index.file import IndexFile
from freezer.engine.index.local import UsesIndexes
from freezer.engine.index.record import REMOVED, Record, sort_key
from freezer.engine.index.state import merged, merged_parts
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.settings import EngineSettings
from freezer.exceptions import (
    ConfigError,
    EncryptionError,
    EngineError,
    RestoreError,
)
from freezer.storage import layout, manifest
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import NotFound, StorageException
from freezer.storage.verify import Problem
from freezer.stream import compression, encryption
from freezer.stream.points import Points
from freezer.utils.blocks import Block


class ChainVerifier(UsesIndexes):
    """Reads the archives of one chain, the lower levels first. A context manager: it
    has temporary files.

    :raises ConfigError: the passphrase cannot be read
    """

    def __init__(self, engine: Engine, settings: EngineSettings) -> None:
        super().__init__()
        self._engine = engine
        self._opener = LevelOpener(settings, engine)
        self._has_reader = engine.archive_reader(0) is not None
        # By the level that was read last.
        self._readers: dict[str, ArchiveReader] = {}

    def unreadable(self, stored: StoredLevel) -> str | None:
        """Why the archive of a level cannot be read here; None if it can.

        :raises StorageException: its marker cannot be read
        """
        level = OpenedLevel(stored, self._opener)
        if level.format and self._opener.passphrase is None:
            return 'encrypted, and no --encrypt-pass-file is given'
        try:
            compression.check_available(level.compression)
            if level.format:
                encryption.check_available(level.format)
        except ConfigError as error:
            return str(error)
        return None

    def read(
        self,
        stored: StoredLevel,
        below: Sequence[StoredLevel],
        part: str,
        blocks: Iterable[Block],
    ) -> Iterator[Problem]:
        """Read the archive of a level to its end, and find what is wrong with it.

        :param below: the levels that it builds on, from level 0 up
        :param part: the name of the stream; empty for the only one
        :param blocks: the stored stream
        :raises StorageException: another file of the level cannot be read
        """
        if part or not self._has_reader:
            yield from self._decode(stored, part, blocks)
            return
        folder = stored.storage.location(stored.paths.folder)
        points = Points(spacing=1)
        reader = self._reader(stored, below)
        try:
            level = self._opener.open(stored)
            yield from self._check_key(level)
            self._check_seal(level, below)
            with contextlib.closing(level.decode(blocks, points)) as archive:
                contents = reader.read(archive, self._folder, level.padded)
        except (EngineError, EncryptionError, RestoreError) as error:
            yield Problem(f'{folder}: {error}')
            return
        self._readers[stored.backup.path] = reader
        where = stored.storage.location(stored.paths.index)
        try:
            for what in self._compare(level, below, contents, points):
                yield Problem(f'{where}: {what}', fatal=False)
        except (EngineError, EncryptionError) as error:
            yield Problem(str(error), fatal=False)

    def _decode(
        self, stored: StoredLevel, part: str, blocks: Iterable[Block]
    ) -> Iterator[Problem]:
        """Decrypt and decompress a stream of which only the engine knows more."""
        try:
            level = self._opener.open(stored)
            with contextlib.closing(level.decode(blocks, part=part)) as archive:
                for _block in archive:
                    pass
        except (EngineError, EncryptionError, RestoreError) as error:
            folder = stored.storage.location(stored.paths.stream(part).folder)
            yield Problem(f'{folder}: {error}')

    def check_seal(
        self, stored: StoredLevel, below: Sequence[StoredLevel]
    ) -> Iterator[Problem]:
        """Open the key and the seal of a level in format age; reads no data.

        :param below: the levels that it builds on, from level 0 up
        """
        try:
            level = OpenedLevel(stored, self._opener)
            if level.format != layout.AGE:
                return
            yield from self._check_key(level)
            # A gap in the chain is a problem of its own.
            if len(below) == level.level:
                level.check_base(below[-1] if below else None)
            else:
                _ = level.sealed
        except (EncryptionError, StorageException) as error:
            folder = stored.storage.location(stored.paths.folder)
            yield Problem(f'{folder}: {error}')

    def opens_key(self, stored: StoredLevel) -> bool:
        """Whether the passphrase opens the file with the key of a level."""
        try:
            if self.unreadable(stored) or stored.marker.get(layout.FORMAT_KEY) != (
                layout.AGE
            ):
                return False
            self._opener.keyring.own_key_of(stored)
        except (EncryptionError, StorageException):
            return False
        return True

    def _check_key(self, level: OpenedLevel) -> Iterator[Problem]:
        """Report a level's own key file if only that of another level opens; the
        storage does, if the marker has its digest."""
        marker = level.stored.marker
        if level.format != layout.AGE or manifest.IDENTITY_KEY in marker:
            return
        keyring = self._opener.keyring
        try:
            keyring.own_key_of(level.stored)
        except NotFound:
            # The storage's own examination reports it.
            return
        except EncryptionError as error:
            if other := keyring.key_elsewhere(level.stored):
                where = other[0].paths.identity
                what = f'{error}; a restore uses {where}, which opens'
                yield Problem(what, fatal=False)

    def has_read(self, stored: StoredLevel) -> bool:
        """Whether the archive of a level was read to its end."""
        return stored.backup.path in self._readers

    def _reader(
        self, stored: StoredLevel, below: Sequence[StoredLevel]
    ) -> ArchiveReader:
        """One that has read the levels below; a new one if they could not be read."""
        if below and (found := self._readers.get(below[-1].backup.path)):
            return found.fork()
        new = self._engine.archive_reader(stored.level)
        assert new is not None
        return new

    def _check_seal(self, level: OpenedLevel, below: Sequence[StoredLevel]) -> None:
        """:raises EncryptionError: the level was exchanged or changed"""
        levels = [level, *(OpenedLevel(each, self._opener) for each in below)]
        if not any(each.format == layout.AGE for each in levels):
            return
        # A gap in the chain is a problem of its own.
        if len(below) == level.level:
            level.check_seal(below[-1] if below else None)

    def _compare(
        self,
        level: OpenedLevel,
        below: Sequence[StoredLevel],
        contents: ArchiveContents,
        points: Points,
    ) -> Iterator[str]:
        """The differences between the index and the archive."""
        try:
            index = self._indexes.fetch(level)
        except StorageException:
            # The storage's own examination of the index reports it.
            return
        if index is None:
            return
        where = level.stored.paths.index
        if not Points.load(index.properties.get('stream'), where).among(points):
            yield (
                'the index does not match the data: decompression cannot begin where '
                'it says'
            )
        lower = self._indexes.all_of(below) if len(below) == level.level else None
        for what in differences(contents, index, lower):
            yield f'the index does not match the data: {what}'


def differences(
    contents: ArchiveContents, index: IndexFile, below: Sequence[IndexFile] | None
) -> Iterator[str]:
    """What an index says otherwise than the archive of its level.

    :param below: the indexes of the levels below, from level 0 up; None if one is not
        known: then removals, and directories that did not change, are not compared
    :raises EngineError: an index is damaged
    """
    lower = [each.parts for each in below or ()]
    # An archive has no identities: those of the index are taken for right.
    state = merged([parts() for parts in (*lower, index.parts)])
    base = merged_parts([parts() for parts in lower]) if lower else ()
    expected = contents.records(base, (record for _level, record in state))
    for path, wanted, found in _pairs(expected, index.records()):
        name = repr(os.fsdecode(path))
        if len(wanted) > 1 or len(found) > 1:
            yield f'{name} has more than one record'
        elif not found:
            if below is not None or wanted[0].kind != 'directory':
                what = 'removed' if wanted[0].kind == REMOVED else 'in the archive'
                yield f'{name} is {what}, and has no record'
        elif not wanted:
            if below is not None or found[0].kind != REMOVED:
                what = 'is removed' if found[0].kind == REMOVED else 'is there'
                yield f'its record says that {name} {what}, and the archive does not'
        elif wanted != found:
            fields = zip(Record._fields, wanted[0], found[0], strict=True)
            names = ', '.join(field for field, one, other in fields if one != other)
            yield f'the record of {name} differs in {names}'


def _pairs(
    expected: Iterable[Record], found: Iterable[Record]
) -> Iterator[tuple[bytes, list[Record], list[Record]]]:
    """For each path, in order, the expected and the found records."""
    both = heapq.merge(_keyed(expected, 0), _keyed(found, 1))
    for _key, group in itertools.groupby(both, lambda each: each[0]):
        sides: tuple[list[Record], list[Record]] = ([], [])
        for _key, side, record in group:
            sides[side].append(record)
        yield (sides[0] or sides[1])[0].path, *sides


def _keyed(records: Iterable[Record], side: int) -> Iterator[tuple[bytes, int, Record]]:
    for record in records:
        yield sort_key(record.path), side, record
