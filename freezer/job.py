"""One class per action. Each is checked before any work, and run once."""

import abc
import dataclasses
import datetime
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from freezer.common import plugins
from freezer.common.config import AgentConfig
from freezer.common.version import version
from freezer.engine.engine import (
    CLOCK_TOLERANCE,
    BackupEngine,
    EngineSettings,
    Made,
    Plan,
    Source,
    Warnings,
    source_of,
)
from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.mode.mode import Mode
from freezer.storage import layout
from freezer.storage.base import Backup, EngineName, NoSuchBackup, Storage
from freezer.storage.exceptions import NotFound, StorageException
from freezer.storage.levels import SECONDS_PER_DAY, LevelPolicy
from freezer.utils import checksum

LOG = logging.getLogger(__name__)

# Of a list that may be long, so many are said; the log has them all.
_SAID = 20


@dataclasses.dataclass
class Table:
    """For people: a header and rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclasses.dataclass
class Outcome:
    """What came of an action.

    :param document: for programs, JSON; None where an action has nothing to tell
    :param failure: what went wrong after the document had become true
    """

    document: Any = None
    tables: Sequence[Table] = ()
    exit_code: int = 0
    failure: FreezerError | StorageException | None = None


class Job(abc.ABC):
    """An action.

    :param storage: where it acts; None for actions that need none
    :param say: tells the person who watches, a line at a time
    """

    #: whether the storage is written to, and so prepared first
    writes: ClassVar[bool] = False

    def __init__(
        self,
        config: AgentConfig,
        storage: Storage | None,
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self._storage = storage
        self.say = say

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        """:raises ConfigError: the action cannot be done as asked"""
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
    def storage(self) -> Storage:
        assert self._storage is not None
        return self._storage

    def engine(self) -> BackupEngine:
        config = self.config
        engine = plugins.load(plugins.ENGINES, 'engine', config.engine_name)
        settings = EngineSettings(
            compression=config.compression,
            encrypt_pass_file=config.encrypt_pass_file,
            dereference_symlink=config.dereference_symlink,
            exclude=config.exclude,
        )
        made: BackupEngine = engine(self.storage, settings)
        return made

    def say_warnings(self, warnings: Warnings) -> None:
        for text in warnings.kept[:_SAID]:
            self.say(f'Warning: {text}')
        if warnings.count > _SAID:
            self.say(f'Warning: {warnings.count} in all; see {self.config.log_file}')

    def checksum_of(self, engine: BackupEngine, source: Source) -> str:
        return checksum.checksum(
            source.folder,
            engine.members(source),
            self.config.dereference_symlink in ('soft', 'all'),
            LOG.warning,
        )

    def remove_old(self, keep: int | None = None) -> None:
        """Retention, as far as the options ask for it.

        :param keep: level-0 timestamp of a chain that stays whatever its age
        """
        cutoff = _cutoff(self.config, time.time())
        if cutoff is None:
            return
        engine = EngineName(self.config.engine_name)
        dry_run = self.config.dry_run
        some = False
        for identity in self.config.identities:
            removed = self.storage.remove_older_than(
                engine, cutoff, identity, keep, dry_run
            )
            for chain in removed:
                first = chain[0]
                self.say(
                    f'{"Would remove" if dry_run else "Removed"} {identity} of '
                    f'{iso(first.level_zero_timestamp)}: {_levels(chain)}'
                )
            LOG.info('%d chains of %s are past %s', len(removed), identity, iso(cutoff))
            some = some or bool(removed)
        if not some:
            self.say(f'Nothing to remove: no chain is all from before {iso(cutoff)}')


class BackupJob(Job):
    """Back up files; then retention, if asked for."""

    writes = True

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not config.path_to_backup:
            raise ConfigError('path-to-backup is required for action backup')
        _one_cutoff(config)
        plugins.load(plugins.MODES, 'mode', config.mode)
        source_of(config.path_to_backup)

    def execute(self) -> Outcome:
        config = self.config
        assert config.path_to_backup is not None
        source = source_of(config.path_to_backup)
        engine = self.engine()
        policy = LevelPolicy(
            config.incremental,
            config.max_level,
            config.always_level,
            config.restart_always_level,
        )
        if config.dry_run:
            return self._rehearse(engine, policy)
        if config.sync:
            os.sync()
        mode: Mode = plugins.load(plugins.MODES, 'mode', config.mode)()
        try:
            mode.prepare()
            digest = (
                self.checksum_of(engine, source) if config.consistency_check else None
            )
            now = int(time.time())
            plan = engine.plan(config.identities[0], policy, now)
            # Of two backups in one second the later one takes the next second, when it
            # has come: a backup must not look younger than it is.
            ahead = plan.backup.timestamp - time.time()
            if 0 < ahead <= CLOCK_TOLERANCE:
                time.sleep(ahead)
            made = self._make(engine, source, plan, now)
        finally:
            mode.release()
        self.say_warnings(made.warnings)
        outcome = Outcome(self._document(made.backup, made.warnings, digest))
        outcome.tables = [property_table(outcome.document)]
        try:
            self.remove_old(made.backup.level_zero_timestamp)
        except (FreezerError, StorageException) as error:
            outcome.failure = error
        return outcome

    def _rehearse(self, engine: BackupEngine, policy: LevelPolicy) -> Outcome:
        """Say what would be done."""
        identity = self.config.identities[0]
        now = int(time.time())
        try:
            backup = engine.plan(identity, policy, now).backup
        except NotFound as error:
            self.say(f'Would make the container: {error.message}')
            backup = None
        level = backup.level if backup else 0
        path = self.config.path_to_backup
        self.say(f'Would back up {path} as level {level} of {identity}')
        if backup is None:
            backup = Backup(engine, identity, now, now, 0)
        else:
            self.remove_old(backup.level_zero_timestamp)
        return Outcome(self._document(backup, Warnings(), None))

    def _make(self, engine: BackupEngine, source: Source, plan: Plan, now: int) -> Made:
        LOG.info('backing up %s as %r', self.config.path_to_backup, plan.backup)
        made = engine.backup(source, plan, now)
        LOG.info('committed %r', made.backup)
        return made

    def _document(
        self, backup: Backup, warnings: Warnings, digest: str | None
    ) -> dict[str, Any]:
        """The keys of Freezer 19, in its order; then this agent's own."""
        config = self.config
        document: dict[str, Any] = {
            'curr_backup_level': backup.level,
            'fs_real_path': config.path_to_backup,
            'vol_snap_path': config.path_to_backup,
            'client_os': sys.platform,
            'client_version': version(),
            'time_stamp': backup.timestamp,
            'action': config.action,
            'always_level': config.always_level,
            'backup_media': 'fs',
            'backup_name': config.fill_in(config.backup_name),
            'container': config.container,
            'container_segments': '',
            'dry_run': config.dry_run,
            'hostname': config.hostname,
            'path_to_backup': config.path_to_backup,
            'max_level': config.max_level,
            'log_file': config.log_file,
            'storage': config.storage,
            'mode': config.mode,
            'proxy': _without_password(config.proxy),
            'compression': config.compression,
            'ssh_key': '',
            'ssh_username': '',
            'ssh_host': '',
            'ssh_port': '',
            'consistency_checksum': digest,
            'cindernative_backup_az': '',
            'cindernative_backup_container': '',
        }
        told = {key: value or '' for key, value in document.items()}
        return told | {
            'curr_backup_level': backup.level,
            'engine_name': config.engine_name,
            'warnings': warnings.count,
        }


class RestoreJob(Job):
    """Restore the newest state, or that of a date, into a directory."""

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not config.restore_abs_path:
            raise ConfigError('restore-abs-path is required for action restore')
        if config.consistency_checksum:
            checksum.compare(config.consistency_checksum, '')
        _check_target(os.path.abspath(config.restore_abs_path), config.overwrite)

    def execute(self) -> Outcome:
        config = self.config
        assert config.restore_abs_path is not None
        target = os.path.abspath(config.restore_abs_path)
        engine = self.engine()
        chain = self._find()
        newest = chain[max(chain)]
        what = f'level {newest.level} of {iso(newest.timestamp)}'
        removals = engine.removals(target, newest) if os.path.isdir(target) else []
        if removals:
            self._say_removals(target, removals)
        if config.dry_run:
            self.say(f'Would restore {what} into {target}: {_levels(chain.values())}')
            return Outcome()
        metadata = engine.check(chain)
        try:
            os.makedirs(target, exist_ok=True)
        except OSError as error:
            raise RestoreError(f'{target}: {error.strerror}') from error
        try:
            warnings = engine.restore(target, chain, metadata)
        except (FreezerError, StorageException) as error:
            self.say(f'{target} is not what was backed up: the restore did not finish')
            raise error
        self.say_warnings(warnings)
        if config.consistency_checksum:
            found = self.checksum_of(engine, Source(target, '.'))
            if not checksum.compare(config.consistency_checksum, found):
                raise RestoreError(
                    f'{target}: its checksum is {found}, not '
                    f'{config.consistency_checksum}: not what was backed up'
                )
        self.say(f'Restored {what} into {target}')
        return Outcome()

    def _find(self) -> dict[int, Backup]:
        date = self.config.restore_from_date
        engine = EngineName(self.config.engine_name)
        missing: NoSuchBackup | None = None
        for identity in self.config.identities:
            try:
                return self.storage.get_latest_level_zero_increments(
                    engine, identity, int(date.timestamp()) if date else None
                )
            except NoSuchBackup as error:
                missing = missing or error
        assert missing is not None
        raise missing

    def _say_removals(self, target: str, removals: Sequence[str]) -> None:
        would = 'would remove' if self.config.dry_run else 'removes'
        self.say(
            f'This {would} what the backup does not hold from {target}: '
            f'{len(removals)} in all'
        )
        for path in removals[:_SAID]:
            self.say(f'  {path}')
        if len(removals) > _SAID:
            self.say(f'  … see {self.config.log_file}')
        for path in removals:
            LOG.warning('%s: %s', would, os.path.join(target, path))


class InfoJob(Job):
    """What the container holds."""

    def execute(self) -> Outcome:
        report = self.storage.report()
        backups: list[dict[str, Any]] = []
        several = self.config.storage == 'multiple'
        for chain in report.chains:
            host, name = layout.split_identity(chain.identity)
            backups.append(
                ({'storage': chain.storage} if several else {})
                | {
                    'hostname': host,
                    'backup_name': name,
                    'engine': chain.engine,
                    'level_zero': iso(chain.level_zero_timestamp),
                    'level_zero_timestamp': chain.level_zero_timestamp,
                    'levels': [
                        {'level': level, 'time_stamp': stamp, 'date': iso(stamp)}
                        for level, stamp in chain.levels
                    ],
                    'size': chain.size,
                }
            )
        document = {
            'container': report.container,
            'size': report.size,
            'objects_count': report.objects,
            'backups': backups,
        }
        total = Table(
            ('Container', 'Size', 'Object Count'),
            [(report.container, report.size, report.objects)],
        )
        listing = Table(
            (
                *(('Storage',) if several else ()),
                *('Host', 'Name', 'Engine', 'Level 0', 'Increments', 'Newest', 'Size'),
            ),
            [
                (
                    *((backup['storage'],) if several else ()),
                    backup['hostname'],
                    backup['backup_name'],
                    backup['engine'],
                    backup['level_zero'],
                    len(backup['levels']) - 1,
                    max(level['date'] for level in backup['levels']),
                    backup['size'],
                )
                for backup in backups
            ],
        )
        return Outcome(document, [total, listing] if backups else [total])


class AdminJob(Job):
    """Remove old chains."""

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not _one_cutoff(config):
            raise ConfigError(
                'action admin needs remove-older-than (more than 0 days) or '
                'remove-before-date'
            )

    def execute(self) -> Outcome:
        self.remove_old()
        return Outcome()


class ExecJob(Job):
    """Run a command, without a shell, and pass its exit status on."""

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        _split_command(config.command)

    def execute(self) -> Outcome:
        commands = _split_command(self.config.command)
        if self.config.dry_run:
            self.say(f'Would run {self.config.command}')
            return Outcome()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for number, argv in enumerate(commands):
                last = number == len(commands) - 1
                processes.append(
                    subprocess.Popen(
                        argv,
                        stdin=processes[-1].stdout if processes else None,
                        # Standard output is for the result of the agent.
                        stdout=sys.stderr if last else subprocess.PIPE,
                    )
                )
                if len(processes) > 1:
                    _close(processes[-2])
        except OSError as error:
            _close(processes[-1] if processes else None)
            raise ConfigError(f'command {argv[0]}: {error.strerror}') from error
        finally:
            codes = [process.wait() for process in processes]
        # As a shell's pipefail: the last one that failed.
        failed = [code for code in codes if code != 0]
        code = failed[-1] if failed else 0
        LOG.info('%s ended with %d', commands[-1][0], code)
        return Outcome(exit_code=code if code >= 0 else 128 - code)


JOBS: dict[str, type[Job]] = {
    'backup': BackupJob,
    'restore': RestoreJob,
    'info': InfoJob,
    'admin': AdminJob,
    'exec': ExecJob,
}


def property_table(document: dict[str, Any]) -> Table:
    """A document as rows of property and value."""
    rows = [(key.replace('_', ' '), value) for key, value in document.items()]
    return Table(('Property', 'Value'), rows)


def iso(timestamp: int) -> str:
    """Epoch seconds as a date in UTC, of the form the date options take."""
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    return moment.strftime('%Y-%m-%dT%H:%M:%SZ')


def _one_cutoff(config: AgentConfig) -> bool:
    """Whether retention is asked for; 0 days, once "everything", does not ask."""
    if config.remove_older_than and config.remove_before_date:
        raise ConfigError('remove-older-than and remove-before-date: give one of them')
    return bool(config.remove_older_than or config.remove_before_date)


def _cutoff(config: AgentConfig, now: float) -> int | None:
    """Epoch seconds: what is at or before them is old."""
    if config.remove_before_date:
        return int(config.remove_before_date.timestamp())
    if config.remove_older_than:
        return int(now - config.remove_older_than * SECONDS_PER_DAY)
    return None


def _check_target(target: str, overwrite: bool) -> None:
    """:raises RestoreError: not a directory to restore into"""
    try:
        present = os.listdir(target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RestoreError(f'restore-abs-path {target}: {error.strerror}') from error
    if present and not overwrite:
        raise RestoreError(
            f'restore-abs-path {target} is not empty: choose another, or give '
            f'--overwrite, which also removes what the backup does not hold'
        )


def _split_command(command: str | None) -> list[list[str]]:
    """``a "b c" | d`` -> ``[['a', 'b c'], ['d']]``."""
    if not command:
        raise ConfigError('command is required for action exec')
    lexer = shlex.shlex(command, posix=True, punctuation_chars='|')
    lexer.whitespace_split = True
    lexer.commenters = ''
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word == '|':
                commands.append([])
            else:
                commands[-1].append(word)
    except ValueError as error:
        raise ConfigError(f'command: {error}') from error
    if not all(commands):
        raise ConfigError('command: a pipe begins or ends with nothing')
    return commands


def _close(process: 'subprocess.Popen[bytes] | None') -> None:
    """Only the next process in the pipe may hold its output open."""
    if process is not None and process.stdout is not None:
        process.stdout.close()


def _levels(chain: Any) -> str:
    return ', '.join(f'level {b.level} of {iso(b.timestamp)}' for b in chain)


def _without_password(url: str | None) -> str | None:
    if not url:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
