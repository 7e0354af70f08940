"""The contract of an action, and the form of its result."""

import abc
import contextlib
import dataclasses
import datetime
import functools
import logging
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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
from freezer.storage import layout
from freezer.storage.backup import Owner, StoredLevel
from freezer.storage.exceptions import IntegrityError, StorageException
from freezer.storage.levels import NoSuchBackup, is_owned, known_owner
from freezer.storage.repository import Repository
from freezer.storage.retention import TOLERATED_SECONDS
from freezer.utils import human
from freezer.utils.blocks import Block
from freezer.utils.paths import absolute
from freezer.utils.progress import Progress
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    # Not every action has an engine.
    from freezer.engine.engine import Engine

LOG = logging.getLogger(__name__)

# Of levels, hosts and names in one line.
_FEW = 10

#: lines of a long list that are shown; the log has all of them
MAX_LISTED = 20


@dataclasses.dataclass
class Table:
    """A table to print.

    :param width: cells are wrapped at this many characters; None: never
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    width: int | None = None


@dataclasses.dataclass
class Outcome:
    """The result of an action.

    :param document: JSON for programs; None if the action has no result
    :param records: instead of a document, one JSON document per line
    :param content: instead of all that, bytes for standard output, which are made as
        they are written
    :param text: lines to print below the tables; as ``records``, read only once
    :param failure: an error after which the document is still true
    :param lines: a summary for the terminal, shown and made last
    :param summarized: whether the lines have all of the tables that a person reads
    """

    document: Any = None
    tables: Sequence[Table] = ()
    text: Iterable[str] = ()
    records: Iterable[Any] | None = None
    content: Generator[Block, None, None] | None = None
    exit_code: int = 0
    failure: FreezerError | StorageException | None = None
    lines: Iterable[str] = ()
    summarized: bool = False


class Job(abc.ABC):
    """An action. The agent calls :meth:`check_options`, :meth:`validate`, then
    :meth:`execute`. The scheduler has the options of its jobs checked as well.

    :param repository: None for action exec, which needs no storage
    :param say: shows a line on the terminal
    """

    #: whether it writes to the storage, which is then prepared first
    writes: ClassVar[bool] = False
    #: whether ``--include`` can limit it to a part of a backup
    takes_include: ClassVar[bool] = False
    #: whether ``--tag`` has an effect
    takes_tag: ClassVar[bool] = False

    def __init__(
        self,
        config: AgentConfig,
        repository: Repository | None,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.config = config
        self._repository = repository
        self.say = say
        self.progress = progress
        self._has_warned = False

    def check_options(self) -> None:
        """Check the options alone: neither the source, the target nor the storage.

        :raises ConfigError: no run with these options can succeed
        """
        config = self.config
        if config.include and not self.takes_include:
            raise ConfigError(
                f'--include selects files of a backup and cannot be used with action '
                f'{config.action}; to leave files out of a backup use --exclude'
            )
        if config.tag and not self.takes_tag:
            raise ConfigError(f'--tag has no effect with action {config.action}')
        if config.note and config.action != 'backup':
            raise ConfigError(f'--note belongs to action backup, not {config.action}')
        if config.last and config.action not in ('info', 'copy'):
            raise ConfigError(
                f'--last belongs to action info or copy, not {config.action}'
            )
        if config.action not in ('backup', 'restore'):
            for key in config.selectors[1:]:
                if config.engine_options[key]:
                    raise ConfigError(
                        f'--{key.replace("_", "-")} belongs to action backup or '
                        f'restore: pass --{config.selectors[0].replace("_", "-")}'
                    )
        if (config.mount_point or config.allow_other) and config.action != 'mount':
            raise ConfigError('--mount-point and --allow-other belong to action mount')
        if config.action not in ('backup', 'restore') and (
            config.pre_command or config.post_command
        ):
            raise ConfigError(
                '--pre-command and --post-command belong to action backup or restore'
            )
        if (config.pin or config.unpin) and config.action != 'admin':
            raise ConfigError('--pin and --unpin belong to action admin')
        if (config.from_date or config.to_date) and config.action != 'diff':
            raise ConfigError(
                f'--from-date and --to-date belong to action diff; the date of action '
                f'{config.action} is --restore-from-date'
            )
        if self.takes_include:
            # Loaded before any work: it may not be installed.
            _engine = self.engine
        if config.incremental:
            return
        for name in ('max_level', 'always_level'):
            if getattr(config, name):
                raise ConfigError(f'{name.replace("_", "-")} needs --incremental')

    def validate(self) -> None:
        """Check what else can be checked before any work.

        :raises FreezerError: the action would fail
        """

    @abc.abstractmethod
    def execute(self) -> Outcome:
        """Do it.

        :raises FreezerError, StorageException: it failed
        """

    @property
    def repository(self) -> Repository:
        assert self._repository is not None
        return self._repository

    @functools.cached_property
    def settings(self) -> EngineSettings:
        config = self.config
        return EngineSettings(
            compression=config.compression,
            passphrase=config.passphrase,
            encryption=config.encryption,
            include=config.include,
            max_restore_size=config.max_restore_size,
            untrusted=config.untrusted,
            # A snapshot does not change any more.
            sync=config.sync and config.snapshot is None,
            origin=absolute(config.one_path) if config.one_path else '',
            own_paths=tuple(
                path
                for driver, settings in config.storages
                for path in driver.local_paths(settings)
            ),
            options=config.engine_options,
            progress=self.progress,
        )

    @functools.cached_property
    def engine(self) -> 'Engine':
        """:raises ConfigError: it is not installed, or cannot be used here"""
        return self.engine_named(self.config.engine_name)

    def engine_named(self, name: str) -> 'Engine':
        """An engine; another one than that of ``--engine`` has its default options.

        :raises ConfigError: it is not installed, or cannot be used here
        """
        engine = plugins.load(plugins.ENGINES, 'engine', name)
        settings = self.settings
        if name != self.config.engine_name:
            defaults = plugins.options(plugins.ENGINES)[name].defaults()
            settings = dataclasses.replace(settings, options=defaults)
        made: Engine = engine.from_settings(settings)
        return made

    def is_selected(self, stored: StoredLevel) -> bool:
        """Whether a level has the given name, or else the given host name. Reads its
        marker if the folder's name could be that.

        :raises StorageException: the storage is gone
        """
        config = self.config
        if not self.may_be_selected(stored.backup.hostname_backup_name):
            return False
        owner = known_owner([stored])
        if owner is None:
            return True
        if 'backup_name' in config.given:
            return config.names(owner)
        return 'hostname' not in config.given or owner.hostname == config.hostname

    def may_be_selected(self, identity: str) -> bool:
        """The same by the name of the folder, which can be that of several owners."""
        config = self.config
        if 'backup_name' in config.given:
            return config.names_identity(identity)
        if 'hostname' in config.given:
            return identity.startswith(f'{config.hostname}_')
        return True

    def none_selected(self, container: str, present: Iterable[str]) -> str:
        """A message: no backup in the container is selected.

        :param present: the identities of the backups that are there
        """
        config = self.config
        if 'backup_name' in config.given:
            return self._no_such_name(container, present)
        if 'hostname' in config.given:
            hosts = {layout.split_identity(identity)[0] for identity in present}
            return f'No backup of host {config.hostname!r} in {container}' + (
                f'; hosts with backups: {_listed(sorted(hosts))}' if hosts else ''
            )
        return f'No backup in {container}: check --container'

    def _no_such_name(
        self, container: str, present: Iterable[str], engine: str = ''
    ) -> str:
        """:param engine: only backups of this engine were looked for"""
        config = self.config
        host, present = config.hostname, sorted(set(present))
        text = f'No backup {config.name_on(host)!r} of host {host!r} in {container}'
        if engine and not set(config.identities).isdisjoint(present):
            return f'{text} is of engine {engine}; --action info shows the engines'
        others = config.other_hosts(present)
        if len(others) == 1:
            option = f'--hostname {shlex.quote(others[0])}'
            return f'{text}. Host {others[0]!r} has one of that name: add {option}'
        if others:
            return (
                f'{text}. These hosts have one of that name: {_listed(others)}; add '
                f'--hostname with the one that you want'
            )
        split = map(layout.split_identity, present)
        if names := [name for each, name in split if each == host]:
            return f'{text}; backups of this host: {_listed(names)}'
        return f'{text}; --action info lists the backups'

    def owner_of(self, stored: StoredLevel) -> Owner:
        """Host and backup name of a level that :meth:`find_state` found."""
        identity = stored.backup.hostname_backup_name
        return next(each for each in self.config.owners if each.identity == identity)

    def find_state(self) -> dict[int, StoredLevel]:
        """The newest state, or that of ``restore_from_date``: level -> stored level.

        :raises NoSuchBackup: there is none
        """
        return self.find_state_at(self.config.restore_from_date)

    def find_state_at(self, date: datetime.datetime | None) -> dict[int, StoredLevel]:
        """The newest state not after a date: level -> stored level.

        :raises NoSuchBackup: there is none
        """
        config = self.config
        cutoff = self.cutoff(date)
        if cutoff is not None:
            with contextlib.suppress(StorageException):
                self.warn_of_dates_ahead()
        for owner in config.owners:
            with contextlib.suppress(NoSuchBackup):
                return self.repository.find_state(
                    config.engine_name, owner.identity, cutoff, owner, config.tag
                )
        raise NoSuchBackup(self.no_state(cutoff))

    @staticmethod
    def cutoff(date: datetime.datetime | None) -> int | None:
        """The last second of backups that are not after a date."""
        return None if date is None else int(date.timestamp())

    def warn_of_dates_ahead(self, found: Iterable[StoredLevel] | None = None) -> None:
        """Warn of levels of the name that are dated later than now, if there are any.

        :param found: all levels of the name; None to list them
        :raises StorageException: the storage cannot be read
        """
        config = self.config
        now = time.time()
        if found is None:
            chains = (
                self.repository.chains(config.engine_name, identity)
                for identity in config.identities
            )
            found = (level for each in chains for c in each.values() for level in c)
        ahead = [each for each in found if each.timestamp > now + TOLERATED_SECONDS]
        if self._has_warned or not ahead:
            return
        self._has_warned = True
        NOTICES.warning(
            'the clock of this machine shows %s, and %s of %r dated later: %s. '
            '--restore-from-date finds them only with such a date, and '
            '--remove-older-than keeps them; new backups of this name get later dates '
            'still. If the clock is right now, back up with another --backup-name '
            'from now on; --action admin --remove-before-date %s removes all that this '
            'name has now',
            iso(int(now)),
            '1 backup is' if len(ahead) == 1 else f'{len(ahead)} backups are',
            config.name_on(config.hostname),
            shortened(describe_levels([each]) for each in ahead),
            iso(max(stored.timestamp for stored in ahead)),
        )

    def no_state(self, cutoff: int | None) -> str:
        """A message: there is no backup of the name, or none at or before a time.

        :param cutoff: epoch seconds
        """
        config = self.config
        present: list[StoredLevel] = []
        # Keys that may list only the backups of this name get the shorter message.
        with contextlib.suppress(StorageException):
            present = self.repository.committed()
        same = [
            stored
            for stored in present
            if stored.backup.hostname_backup_name in config.identities
            and stored.backup.engine == config.engine_name
        ]
        container = ', '.join(options.container for _, options in config.storages)
        mine = [each for each in same if is_owned([each], self.owner_of(each))]
        if same and not mine:
            other = same[-1].owner
            assert other is not None
            return (
                f'No backup {config.fill_in(config.backup_name)!r} of host '
                f'{config.hostname!r} in {container}; {other.identity} there is '
                f'backup {other.backup_name!r} of host {other.hostname!r}: add '
                f'--hostname {other.hostname} --backup-name {other.backup_name}'
            )
        same = mine
        if same and config.tag:
            until = '' if cutoff is None else f' at or before {iso(cutoff)}'
            return (
                f'No backup of {config.fill_in(config.backup_name)!r} (host '
                f'{config.hostname}){until} has {human.number(len(config.tag), "tag")} '
                f'{", ".join(config.tag)}; --action info --long shows the tags'
            )
        if same and cutoff is not None:
            return (
                f'No backup of {config.fill_in(config.backup_name)!r} (host '
                f'{config.hostname}) at or before {iso(cutoff)}; the oldest is '
                f'{iso(min(stored.timestamp for stored in same))}'
            )
        return self._no_such_name(
            container,
            (stored.backup.hostname_backup_name for stored in present),
            config.engine_name,
        )


@contextlib.contextmanager
def damage_explained() -> Iterator[None]:
    """A block that reads a backup; if it is damaged, the error says what to do.

    :raises RestoreError: the backup is damaged
    """
    try:
        yield
    except (IntegrityError, TamperedError) as error:
        raise RestoreError(
            f'{error}; --action verify lists all damage, and --restore-from-date with '
            f'an earlier date restores an earlier state'
        ) from error


def property_table(document: dict[str, Any]) -> Table:
    """A document as rows of property and value."""
    rows = [(key.replace('_', ' '), value) for key, value in document.items()]
    return Table(('Property', 'Value'), rows)


def iso(timestamp: int) -> str:
    """Epoch seconds as a date in UTC, in the form that the date options accept."""
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    return moment.strftime('%Y-%m-%dT%H:%M:%SZ')


def _listed(names: Iterable[str]) -> str:
    return shortened(map(repr, names))


def shortened(words: Iterable[str]) -> str:
    """The first ones, separated by commas."""
    shown = list(words)
    more = f' and {len(shown) - _FEW} more' if len(shown) > _FEW else ''
    return ', '.join(shown[:_FEW]) + more


def describe_levels(levels: Iterable[StoredLevel]) -> str:
    return ', '.join(f'level {each.level} of {iso(each.timestamp)}' for each in levels)
