"""Searches the indexes of all levels of a backup name for versions of files."""

import functools
import heapq
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from freezer.engine.engine import FileEngine, no_match
from freezer.engine.index.chain import at_once, open_index
from freezer.engine.index.file import Part, RecordBlock
from freezer.engine.index.record import REMOVED, Row
from freezer.engine.opened import LevelOpener
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EncryptionError, EngineError, FreezerError
from freezer.storage import layout, levels
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException


class Version(NamedTuple):
    """A path that a level stores, or does not have any more.

    :ivar row: of kind ``removed`` if the level is the first one without the path
    """

    stored: StoredLevel
    row: Row


class Unsearched(NamedTuple):
    """A level that is not searched.

    :ivar why: in words, without the level's name
    :ivar damage: None if nothing is wrong with the level
    """

    stored: StoredLevel
    why: str
    damage: FreezerError | StorageException | None = None


class _Searched(NamedTuple):
    """A level that is searched.

    :ivar parts: of its index, that may have what is searched for; read once
    :ivar base: number of the level that it builds on; -1 at level 0
    """

    stored: StoredLevel
    parts: Iterator[Part]
    base: int


# A record in an index, which is decoded when it is needed: its key, the number of the
# level, the block and the place in it.
_Place = tuple[bytes, int, RecordBlock, int]
_KEY = operator.itemgetter(0)


class Search:
    """All levels of a name, with their indexes opened.

    :param chains: level-0 timestamp -> the levels of the chain, by level and time
    :ivar unsearched: levels without index, or with a damaged one, and those above
    :raises RestoreError: they cannot be opened with these settings
    :raises StorageException: the storage cannot be read
    """

    def __init__(
        self,
        chains: Mapping[int, Sequence[StoredLevel]],
        engine: FileEngine,
        settings: EngineSettings,
    ) -> None:
        self._engine = engine
        self._opener = LevelOpener(settings, engine)
        self.unsearched: list[Unsearched] = []
        #: in an order in which each comes after its base
        self._levels: list[_Searched] = []
        stored = [level for _zero, chain in sorted(chains.items()) for level in chain]
        opened = at_once([functools.partial(self._open, level) for level in stored])
        found_of = dict(zip(stored, opened, strict=True))
        numbers: dict[StoredLevel, int] = {}
        for level in stored:
            found = found_of[level]
            if found is None:
                continue
            below = levels.needed(level, chains[level.level_zero_timestamp])
            if level.level and not isinstance(found, Unsearched):
                found = self._check_base(level, below, numbers) or found
            if isinstance(found, Unsearched):
                self.unsearched.append(found)
                continue
            numbers[level] = len(self._levels)
            base = numbers[below[0]] if level.level else -1
            self._levels.append(_Searched(level, found, base))

    def _open(self, stored: StoredLevel) -> Iterator[Part] | Unsearched | None:
        """The index of a level; None if the level was removed meanwhile."""
        # Literal patterns need a few blocks only.
        roots = self._engine.roots()
        try:
            level = self._opener.open(stored)
            index = open_index(level, stored.paths.index, copy=not roots)()
            if index is None:
                return Unsearched(stored, 'has no index')
            parts = index.parts(roots)
            # Here, because this is fetched for several levels at once.
            first = next(parts, None)
        except NotFound:
            return None
        except (IntegrityError, EngineError, EncryptionError) as error:
            return Unsearched(stored, str(error), error)
        return itertools.chain(() if first is None else (first,), parts)

    def _check_base(
        self,
        stored: StoredLevel,
        below: Sequence[StoredLevel],
        numbers: Mapping[StoredLevel, int],
    ) -> Unsearched | None:
        """Why a level that has an index cannot be searched; None if it can."""
        if not below or below[0].level != stored.level - 1:
            return Unsearched(stored, f'level {stored.level - 1} is missing')
        if below[0] not in numbers:
            return Unsearched(stored, f'level {below[0].level} is not searched')
        level = self._opener.open(stored)
        if level.format == layout.AGE:
            try:
                level.check_base(below[0])
            except EncryptionError as error:
                return Unsearched(stored, str(error), error)
        return None

    @property
    def count(self) -> int:
        """Levels that are searched."""
        return len(self._levels)

    def versions(self) -> Iterator[Version]:
        """What ``include`` chooses, sorted by path, the newest version first.

        :raises RestoreError: after the last, if a pattern chooses nothing
        """
        chooser = self._engine.chooser()
        order = sorted(
            range(len(self._levels)),
            key=lambda number: self._levels[number].stored.timestamp,
        )
        # Level n has a record, at these paths and above, that is not a directory's: bit
        # n is set. What older levels have below it does not count there.
        ended: list[tuple[bytes, int]] = []
        streams = (self._places(number) for number in range(len(self._levels)))
        for key, places in itertools.groupby(heapq.merge(*streams), _KEY):
            while ended and not key.startswith(ended[-1][0]):
                ended.pop()
            above = ended[-1][1] if ended else 0
            records = {}
            ends = above
            for _key, number, block, at in places:
                records[number] = block, at
                if block.kinds[at] != 'directory':
                    ends |= 1 << number
            if ends != above:
                ended.append((key + b'\0', ends))
            path = block.paths[at]
            if chooser.chooses(path):
                yield from self._versions(path, records, above, order)
        if chooser.unmatched:
            raise no_match(chooser.unmatched)

    def _places(self, number: int) -> Iterator[_Place]:
        """What a level has to say; of a level 0, which ends nothing, only what is
        chosen."""
        level = self._levels[number]
        chooser = self._engine.chooser()
        for block, start, end in level.parts:
            at: Iterable[int] = range(start, end)
            if level.base < 0:
                paths = block.paths
                at = [each for each in at if chooser.chooses(paths[each])]
            keys = block.keys
            yield from ((keys[each], number, block, each) for each in at)

    def _versions(
        self,
        path: bytes,
        records: Mapping[int, tuple[RecordBlock, int]],
        above: int,
        order: Iterable[int],
    ) -> list[Version]:
        """The versions of one path, the newest first.

        :param records: those that the levels have, by number of the level
        :param above: the levels that have a file above the path, or removed what is
            there, as bits
        :param order: the levels by time
        """
        # Of each level, whether its state has the path.
        states: list[bool] = []
        for number, level in enumerate(self._levels):
            if number in records:
                block, at = records[number]
                states.append(block.kinds[at] != REMOVED)
            elif above >> number & 1 or level.base < 0:
                states.append(False)
            else:
                states.append(states[level.base])
        found = []
        is_there = False
        for number in order:
            stored = self._levels[number].stored
            if states[number] and number in records:
                found.append(_version(stored, *records[number]))
            elif is_there and not states[number]:
                found.append(Version(stored, Row(stored.level, path, REMOVED)))
            is_there = states[number]
        return found[::-1]


def _version(stored: StoredLevel, block: RecordBlock, at: int) -> Version:
    # Without decoding the other columns of the block.
    row = Row(
        stored.level,
        block.paths[at],
        block.kinds[at],
        block.modes[at],
        block.owners[at],
        block.sizes[at],
        block.mtimes[at],
        block.targets[at],
    )
    return Version(stored, row)
