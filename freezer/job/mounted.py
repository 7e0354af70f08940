"""The directories of a mount, down to the states of backups."""

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Union

from freezer.engine.browse import BrowsedState, Browser
from freezer.exceptions import FreezerError
from freezer.job.job import Job, describe_levels, iso
from freezer.storage import levels
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.storage.levels import NoSuchBackup, fetch_markers

LOG = logging.getLogger(__name__)

#: seconds after which backups that were made or removed meanwhile show
REFRESH_SECONDS: Final = 60
LATEST: Final = 'latest'

# States that stay open.
_OPEN: Final = 8


class MountedState:
    """A state of a backup, which is opened when it is needed.

    :param chain: its levels, from level 0 up
    :ivar date: as ``--restore-from-date`` accepts it
    """

    def __init__(self, chain: Sequence[StoredLevel]) -> None:
        self.chain = chain
        self.newest = chain[-1]
        self.date = iso(self.newest.timestamp)


class Folder(dict[str, Union['Folder', MountedState, str]]):
    """A directory above the states: folders, states, and targets of symbolic links."""

    @property
    def states(self) -> Iterator[MountedState]:
        return (each for each in self.values() if isinstance(each, MountedState))


class MountedStates:
    """The states of the backups that a run selects, and those that appear later.

    :param clock: seconds
    :raises NoSuchBackup: there is none
    :raises FreezerError: none can be mounted
    :raises StorageException: the storage cannot be read
    """

    def __init__(
        self, job: Job, browser: Browser, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job = job
        self._browser = browser
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, Backup], StoredLevel] = {}
        self._named: set[Backup] = set()
        self._open: OrderedDict[Backup, BrowsedState] = OrderedDict()
        self._opening = threading.Lock()
        self.count = 0
        self._top = self._read()
        self._read_at = clock()
        if not self.count and not self._named:
            raise NoSuchBackup(
                'no backup can be mounted: --restore-from-date or --tag selects none; '
                '--action info --long shows dates and tags'
            )
        if not self.count:
            raise FreezerError(
                'no backup can be mounted: see above, or restore with --action restore'
            )

    @property
    def top(self) -> Folder:
        """The top directory: at most a minute old, unless the storage fails."""
        with self._lock:
            if self._clock() - self._read_at >= REFRESH_SECONDS:
                self._read_at = self._clock()
                try:
                    self._top = self._read()
                except (StorageException, FreezerError) as error:
                    LOG.warning('new backups are not shown: %s', error)
            return self._top

    def newest(self) -> MountedState:
        """The newest state of all."""
        found = list(_states(self._top))
        return max(found, key=lambda state: state.newest.timestamp)

    def opened(self, state: MountedState) -> BrowsedState:
        """:raises StorageException, FreezerError: it cannot be read"""
        key = state.newest.backup
        with self._opening:
            found = self._open.get(key)
            if found is None:
                found = self._browser.open(state.chain)
                for path in sorted(found.padded):
                    LOG.warning(
                        '%r: %r could not be read to its end: reading it fails',
                        state.newest,
                        path,
                    )
                self._open[key] = found
            self._open.move_to_end(key)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return found

    def _read(self) -> Folder:
        """The folders as the storage is now."""
        top = Folder()
        count = 0
        for stored in self._chains():
            fetch_markers(stored)
            for each in sorted(stored, key=lambda level: level.timestamp):
                state = self._state(each, stored)
                if state is not None:
                    names = each.backup.hostname_backup_name.split('/')
                    folder = functools.reduce(_folder, names, top)
                    folder[state.date] = state
                    folder[LATEST] = max(one.date for one in folder.states)
                    count += 1
        self.count = count
        return top

    def _chains(self) -> list[list[StoredLevel]]:
        """The levels of each chain of the selected names."""
        job, engine = self._job, self._job.config.engine_name
        committed = job.repository.committed()
        present = sorted(
            {
                each.backup.hostname_backup_name
                for each in committed
                if each.backup.engine == engine
            }
        )
        found = []
        for identity in filter(job.may_be_selected, present):
            for chain in job.repository.chains(engine, identity).values():
                known = [self._same(each) for each in chain]
                if job.is_selected(known[-1]):
                    found.append(known)
        if not found:
            container = ', '.join(each.container for _, each in job.config.storages)
            raise NoSuchBackup(job.none_selected(container, present))
        return found

    def _same(self, stored: StoredLevel) -> StoredLevel:
        """The level as it was found first, whose marker was read, unless it had no
        index."""
        key = stored.member, stored.backup
        if key[1] in self._named:
            return stored
        return self._known.setdefault(key, stored)

    def _state(
        self, stored: StoredLevel, chain: Sequence[StoredLevel]
    ) -> MountedState | None:
        """The state at a level; None if it is not wanted, or cannot be mounted."""
        config = self._job.config
        date = self._job.cutoff(config.restore_from_date)
        if date is not None and stored.timestamp > date:
            return None
        if config.tag and not stored.has_tags(config.tag):
            return None
        below = levels.needed(stored, chain)
        whole = [*below[::-1], stored]
        try:
            missing = {*range(stored.level)} - {each.level for each in below}
            problem = (
                f'level {min(missing)} is missing'
                if missing
                else self._browser.problem(whole)
            )
        except StorageException as error:
            problem = error.message
        if problem is None:
            self._named.discard(stored.backup)
            return MountedState(whole)
        if stored.backup not in self._named:
            self._named.add(stored.backup)
            name = stored.backup.hostname_backup_name
            line = f'Not mounted: {name}, {describe_levels([stored])}: {problem}'
            LOG.warning('%s', line)
            self._job.say(line)
        return None


def _folder(folder: Folder, name: str) -> Folder:
    found: Any = folder.setdefault(name, Folder())
    assert isinstance(found, Folder)
    return found


def _states(folder: Folder) -> Iterator[MountedState]:
    yield from folder.states
    for each in folder.values():
        if isinstance(each, Folder):
            yield from _states(each)
