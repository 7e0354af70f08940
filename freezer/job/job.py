"""The contract of an action, and what its result looks like."""

import abc
import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from freezer.common import plugins
from freezer.common.config import AgentConfig
from freezer.engine.settings import EngineSettings
from freezer.exceptions import (
    ConfigError,
    FreezerError,
    RestoreError,
    TamperedError,
)
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import IntegrityError, StorageException
from freezer.storage.levels import SECONDS_PER_DAY, NoSuchBackup
from freezer.storage.repository import Repository
from freezer.utils.progress import Progress

if TYPE_CHECKING:
    # Not every action makes archives.
    from freezer.engine.engine import Engine
    from freezer.engine.settings import EngineSettings

LOG = logging.getLogger(__name__)

# A clock that is further ahead is not one to count days by.
_TOLERATED_SECONDS = 3600

# Of a list that may be long, so many are said; the log has them all.
SAID = 20


@dataclasses.dataclass
class Table:
    """For people: a header and rows.

    :param width: cells are wrapped to so many characters; None for one line each
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    width: int | None = None


@dataclasses.dataclass
class Outcome:
    """What came of an action.

    :param document: for programs, JSON; None where an action has nothing to tell
    :param records: for programs in place of a document, one JSON document a line
    :param text: for people, lines below the tables
    :param failure: what went wrong after the document had become true
    :param lines: for the person who watches, after all that
    """

    document: Any = None
    tables: Sequence[Table] = ()
    text: Iterable[str] = ()
    records: Iterable[Any] | None = None
    exit_code: int = 0
    failure: FreezerError | StorageException | None = None
    lines: Sequence[str] = ()


class Job(abc.ABC):
    """An action.

    :param repository: where it acts; None for actions that need none
    :param say: tells the person who watches, a line at a time
    :param progress: is told how far it is
    """

    #: whether the storage is written to, and so prepared first
    writes: ClassVar[bool] = False
    #: whether it can be done to a part of a backup
    takes_part: ClassVar[bool] = False

    def __init__(
        self,
        config: AgentConfig,
        repository: Repository | None,
        say: Callable[[str], None],
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self._repository = repository
        self.say = say
        self.progress = progress or Progress()

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        """:raises ConfigError: the action cannot be done as asked"""
        if config.include and not cls.takes_part:
            raise ConfigError(
                f'include: chooses what to restore or to list, and the action is '
                f'{config.action}; what a backup leaves out is said with --exclude'
            )
        if config.incremental:
            return
        for name in ('max_level', 'always_level'):
            if getattr(config, name):
                raise ConfigError(f'{name.replace("_", "-")} needs --incremental')

    @abc.abstractmethod
    def execute(self) -> Outcome:
        """Do it.

        :raises FreezerError, StorageException: it was not done
        """

    @property
    def repository(self) -> Repository:
        assert self._repository is not None
        return self._repository

    def is_asked_for(self, identity: str) -> bool:
        """Whether a backup is of the name, or the host, that was given; any, if none
        was."""
        config = self.config
        if 'backup_name' in config.given:
            return identity in config.identities
        if 'hostname' in config.given:
            return identity.startswith(f'{config.hostname}_')
        return True

    def nothing(self, container: str) -> str:
        """A line: no backup is asked for that is there."""
        config = self.config
        if 'backup_name' in config.given:
            return (
                f'No matching backup name: {config.identities[0]!r} is not in '
                f'{container}; --hostname stands for the machine it was made on'
            )
        if 'hostname' in config.given:
            return (
                f'there is no backup of host {config.hostname!r} in {container}; '
                f'--action info shows what there is'
            )
        return f'there is no backup in {container}: check --container'

    def no_such_backup(self, member: str, container: str) -> NoSuchBackup:
        """The same as an error; ``member`` is what to call a storage among several."""
        return NoSuchBackup(f'{member}{self.nothing(container)}')

    def find_state(self) -> dict[int, StoredLevel]:
        """The newest state, or that of ``restore_from_date``: level -> stored level.

        :raises NoSuchBackup: there is none
        """
        date = self.config.restore_from_date
        missing: NoSuchBackup | None = None
        for identity in self.config.identities:
            try:
                return self.repository.find_state(
                    self.config.engine_name,
                    identity,
                    int(date.timestamp()) if date else None,
                )
            except NoSuchBackup as error:
                missing = missing or error
        assert missing is not None
        raise missing

    def remove_old(self, keep: int | None = None) -> None:
        """Retention, as far as the options ask for it.

        :param keep: level-0 timestamp of a chain that stays whatever its age
        """
        cutoff = _cutoff(self.config, time.time())
        if cutoff is None:
            return
        if self.config.remove_older_than:
            self._check_clock()
        self.progress.phase = 'Removing old backups'
        dry_run = self.config.dry_run
        some = False
        for identity in self.config.identities:
            removed = self.repository.remove_older_than(
                self.config.engine_name, identity, cutoff, keep, dry_run
            )
            for chain in removed:
                first = chain[0]
                self.say(
                    f'{"Would remove" if dry_run else "Removed"} {identity} of '
                    f'{iso(first.level_zero_timestamp)}: {levels_said(chain)}'
                )
            LOG.info('%d chains of %s are past %s', len(removed), identity, iso(cutoff))
            some = some or bool(removed)
        if not some:
            self.say(f'Nothing to remove: no chain is all from before {iso(cutoff)}')

    def _check_clock(self) -> None:
        """By a clock that is far ahead, everything is old.

        :raises FreezerError: this machine's is, by the storage's own
        """
        theirs = self.repository.time()
        ahead = 0 if theirs is None else time.time() - theirs
        if ahead > _TOLERATED_SECONDS:
            raise FreezerError(
                f"this machine's clock is {ahead:.0f} s ahead of the storage's, and "
                f'remove-older-than goes by it: nothing was removed. Set the clock, or '
                f'say a date with --remove-before-date'
            )


def engine_settings(
    config: AgentConfig, progress: Progress | None = None
) -> 'EngineSettings':
    # Not every action makes archives.
    from freezer.engine.settings import EngineSettings

    return EngineSettings(
        compression=config.compression,
        encrypt_pass_file=config.encrypt_pass_file,
        encryption=config.encryption,
        include=config.include,
        max_restore_size=config.max_restore_size,
        untrusted=config.untrusted,
        options=config.engine_options,
        progress=progress or Progress(),
    )


def make_engine(config: AgentConfig, settings: 'EngineSettings') -> 'Engine':
    """:raises ConfigError: there is none of that name, or it cannot be used here"""
    engine = plugins.load(plugins.ENGINES, 'engine', config.engine_name)
    made: Engine = engine.from_settings(settings)
    return made


@contextlib.contextmanager
def damage_explained() -> Iterator[None]:
    """A block that reads a backup; of one that is damaged, it says what can be done.

    :raises RestoreError: it is
    """
    try:
        yield
    except (IntegrityError, TamperedError) as error:
        raise RestoreError(
            f'{error}; --action verify tells what else is damaged, --restore-from-date '
            f'with an earlier date restores an earlier state'
        ) from error


def property_table(document: dict[str, Any]) -> Table:
    """A document as rows of property and value."""
    rows = [(key.replace('_', ' '), value) for key, value in document.items()]
    return Table(('Property', 'Value'), rows)


def iso(timestamp: int) -> str:
    """Epoch seconds as a date in UTC, of the form the date options take."""
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    return moment.strftime('%Y-%m-%dT%H:%M:%SZ')


def one_cutoff(config: AgentConfig) -> bool:
    """Whether retention is asked for; 0 days, once "everything", does not ask."""
    if config.remove_older_than and config.remove_before_date:
        raise ConfigError('remove-older-than and remove-before-date: give one of them')
    return bool(config.remove_older_than or config.remove_before_date)


def _cutoff(config: AgentConfig, now: float) -> int | None:
    """Epoch seconds: what is at or before them is old. Nothing is older than 0."""
    if config.remove_before_date:
        return max(0, int(config.remove_before_date.timestamp()))
    if config.remove_older_than:
        return int(max(0.0, now - config.remove_older_than * SECONDS_PER_DAY))
    return None


def levels_said(chain: Any) -> str:
    return ', '.join(f'level {b.level} of {iso(b.timestamp)}' for b in chain)
