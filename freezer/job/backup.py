"""Back up."""

import logging
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from freezer.common.config import AgentConfig
from freezer.common.version import version
from freezer.engine.engine import (
    CLOCK_TOLERANCE,
    BackupEngine,
    Made,
    Plan,
    Source,
    source_of,
)
from freezer.exceptions import ConfigError, FreezerError
from freezer.job import source as sources
from freezer.job import summary
from freezer.job.job import Job, Outcome, one_cutoff, property_table
from freezer.storage.base import Backup
from freezer.storage.exceptions import NotFound, StorageException
from freezer.storage.levels import LevelPolicy
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


class BackupJob(Job):
    """Back up files; then retention, if asked for."""

    writes = True

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not config.path_to_backup:
            raise ConfigError(
                'path-to-backup is required for action backup: give --path-to-backup, '
                'or path_to_backup in the job file'
            )
        one_cutoff(config)
        sources.validate(config)
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
            retention=one_cutoff(config),
        )
        if _is_link_only(source, config.engine_options.get('dereference_symlink')):
            NOTICES.warning(
                '%s is a symbolic link, and backed up as one: --dereference-symlink '
                'soft is for the file it leads to',
                config.path_to_backup,
            )
        if config.dry_run:
            return self._rehearse(engine, policy)
        if config.sync:
            os.sync()
        with sources.at_rest(
            sources.mode_of(config), sources.snapshot_of(config), config.path_to_backup
        ) as view:
            source = source_of(view.path)
            digest = (
                self.checksum_of(engine, source) if config.consistency_check else None
            )
            self.progress.phase = 'Looking for earlier backups'
            now = view.time_ns // 10**9
            plan = engine.plan(config.identities[0], policy, now)
            # Of two backups in one second the later one takes the next second, when it
            # has come: a backup must not look younger than it is.
            ahead = plan.backup.timestamp - time.time()
            if 0 < ahead <= CLOCK_TOLERANCE:
                time.sleep(ahead)
            made = self._make(engine, source, plan, now)
        progress = self.progress
        progress.level = made.backup.level
        progress.warnings += made.warnings.count
        outcome = Outcome(self._document(made.backup, digest))
        outcome.tables = [property_table(outcome.document)]
        outcome.lines = summary.of_backup(
            config, progress, made.backup, made.warnings.kept
        )
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
        return Outcome(self._document(backup, None))

    def _make(self, engine: BackupEngine, source: Source, plan: Plan, now: int) -> Made:
        LOG.info('backing up %s as %r', self.config.path_to_backup, plan.backup)
        made = engine.backup(source, plan, now)
        LOG.info('committed %r', made.backup)
        return made

    def _document(self, backup: Backup, digest: str | None) -> dict[str, Any]:
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
            **summary.figures(self.progress),
        }


def _is_link_only(source: Source, dereference: str | None) -> bool:
    path = os.path.join(source.folder, source.name)
    return os.path.islink(path) and dereference not in ('soft', 'all')


def _without_password(url: str | None) -> str | None:
    if not url:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
