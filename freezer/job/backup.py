"""Action backup."""

import functools
import logging
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from freezer.common.version import version
from freezer.engine.backup import CLOCK_TOLERANCE, BackupWriter
from freezer.engine.engine import LeftOut, require_files
from freezer.exceptions import ConfigError, FreezerError
from freezer.job import INCOMPLETE, summary
from freezer.job.job import Job, Outcome, iso, property_table, retention_requested
from freezer.job.source import at_rest, load_mode, load_snapshot
from freezer.mode.mode import Mode
from freezer.snapshot.snapshot import Snapshot
from freezer.storage.backup import Backup
from freezer.storage.exceptions import NotFound, StorageException
from freezer.storage.levels import LevelPolicy
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


class BackupJob(Job):
    """Makes one level; then removes old chains, if the options request it."""

    writes = True

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        retention_requested(config)
        if config.consistency_check:
            require_files(self.engine, 'consistency-check')
        # Loaded before any work: each may not be installed.
        _mode, snapshot, engine = self._mode, self._snapshot, self.engine
        if not config.path_to_backup:
            if snapshot is not None:
                raise ConfigError('--snapshot needs --path-to-backup')
            # Raises the error of the engine, if it needs a path.
            engine.source(None)

    def validate(self) -> None:
        path = self.config.path_to_backup
        self._mode.validate()
        if self._snapshot is not None and path:
            self._snapshot.validate(path)
        self.engine.source(path)

    @functools.cached_property
    def _mode(self) -> Mode:
        return load_mode(self.config)

    @functools.cached_property
    def _snapshot(self) -> Snapshot | None:
        return load_snapshot(self.config)

    def execute(self) -> Outcome:
        config = self.config
        engine = self.engine
        source = engine.source(config.path_to_backup)
        writer = BackupWriter(self.repository, engine, self.settings)
        policy = LevelPolicy(
            config.incremental,
            config.max_level,
            config.always_level,
            config.restart_always_level,
            retention=retention_requested(config),
        )
        for note in source.notes:
            NOTICES.warning('%s', note)
        if config.dry_run:
            return self._rehearse(writer, policy)
        with at_rest(self._mode, self._snapshot, config.path_to_backup) as (
            path,
            taken,
        ):
            source = engine.source(path)
            digest = None
            if config.consistency_check:
                self.progress.phase = 'Computing the checksum'
                digest = require_files(engine, 'consistency-check').checksum(source)
            self.progress.phase = 'Looking for earlier backups'
            now = taken // 10**9
            owner = config.owners[0]
            plan = writer.plan(owner.identity, policy, now, owner)
            if plan.backup.timestamp - now > CLOCK_TOLERANCE:
                self.warn_of_dates_ahead()
            # The second backup of one second gets the next second as its timestamp, and
            # waits for it: a backup must not look younger than it is.
            ahead = plan.backup.timestamp - time.time()
            if 0 < ahead <= CLOCK_TOLERANCE:
                time.sleep(ahead)
            LOG.info('backing up %s as %r', source.label, plan.backup)
            made = writer.write(source, plan, taken)
            LOG.info('committed %r', made.backup)
        progress = self.progress
        progress.level = made.backup.level
        progress.warnings += made.warnings.count
        progress.incomplete = made.warnings.incomplete
        outcome = Outcome(self._document(made.backup, digest, made.left_out))
        if progress.incomplete and not config.allow_incomplete:
            outcome.exit_code = INCOMPLETE
        outcome.tables = [property_table(outcome.document)]
        outcome.summarized = True
        outcome.lines = summary.of_backup(
            config, progress, made.backup, made.warnings.kept, made.left_out
        )
        try:
            self.remove_old(made.backup.level_zero_timestamp)
        except (FreezerError, StorageException) as error:
            outcome.failure = error
        outcome.failure = self.repository.failure() or outcome.failure
        return outcome

    def _rehearse(self, writer: BackupWriter, policy: LevelPolicy) -> Outcome:
        """The dry run."""
        owner = self.config.owners[0]
        identity = owner.identity
        now = int(time.time())
        try:
            backup = writer.plan(identity, policy, now, owner).backup
            if backup.timestamp - now > CLOCK_TOLERANCE:
                self.warn_of_dates_ahead()
        except NotFound as error:
            self.say(f'Would create the container: {error.message}')
            backup = None
        level = backup.level if backup else 0
        path = self.config.path_to_backup
        self.say(f'Would back up {path} as level {level} of {identity}')
        if backup is None:
            backup = Backup(self.config.engine_name, identity, now, now, 0)
        else:
            self.remove_old(backup.level_zero_timestamp)
        return Outcome(self._document(backup, None, LeftOut()))

    def _document(
        self, backup: Backup, digest: str | None, left_out: LeftOut
    ) -> dict[str, Any]:
        """The keys of Freezer 19, in its order, then keys that only this agent has."""
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
        return {key: value or '' for key, value in document.items()} | {
            'curr_backup_level': backup.level,
            'engine_name': config.engine_name,
            'date': iso(backup.timestamp),
            **summary.figures(self.progress),
            'left_out': sum(left_out.counts.values()),
        }


def _without_password(url: str | None) -> str | None:
    if not url:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
