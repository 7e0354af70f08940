"""Back up."""

import logging
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from freezer.common.config import AgentConfig
from freezer.common.version import version
from freezer.engine.backup import CLOCK_TOLERANCE, BackupWriter
from freezer.engine.engine import require_files
from freezer.exceptions import FreezerError
from freezer.job import source as sources
from freezer.job import summary
from freezer.job.job import (
    Job,
    Outcome,
    engine_settings,
    make_engine,
    one_cutoff,
    property_table,
)
from freezer.storage.backup import Backup
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
        one_cutoff(config)
        engine = make_engine(config, engine_settings(config))
        if config.consistency_check:
            require_files(engine, 'consistency-check')
        sources.validate(config)
        engine.source(config.path_to_backup)

    def execute(self) -> Outcome:
        config = self.config
        settings = engine_settings(config, self.progress)
        engine = make_engine(config, settings)
        source = engine.source(config.path_to_backup)
        writer = BackupWriter(self.repository, engine, settings)
        policy = LevelPolicy(
            config.incremental,
            config.max_level,
            config.always_level,
            config.restart_always_level,
            retention=one_cutoff(config),
        )
        for note in source.notes:
            NOTICES.warning('%s', note)
        if config.dry_run:
            return self._rehearse(writer, policy)
        if config.sync:
            os.sync()
        with sources.at_rest(
            sources.mode_of(config), sources.snapshot_of(config), config.path_to_backup
        ) as (path, taken):
            source = engine.source(path)
            digest = None
            if config.consistency_check:
                self.progress.phase = 'Computing the checksum'
                digest = require_files(engine, 'consistency-check').checksum(source)
            self.progress.phase = 'Looking for earlier backups'
            now = taken // 10**9
            plan = writer.plan(config.identities[0], policy, now)
            # Of two backups in one second the later one takes the next second, when it
            # has come: a backup must not look younger than it is.
            ahead = plan.backup.timestamp - time.time()
            if 0 < ahead <= CLOCK_TOLERANCE:
                time.sleep(ahead)
            LOG.info('backing up %s as %r', source.label, plan.backup)
            made = writer.write(source, plan, now)
            LOG.info('committed %r', made.backup)
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

    def _rehearse(self, writer: BackupWriter, policy: LevelPolicy) -> Outcome:
        """Say what would be done."""
        identity = self.config.identities[0]
        now = int(time.time())
        try:
            backup = writer.plan(identity, policy, now).backup
        except NotFound as error:
            self.say(f'Would make the container: {error.message}')
            backup = None
        level = backup.level if backup else 0
        path = self.config.path_to_backup
        self.say(f'Would back up {path} as level {level} of {identity}')
        if backup is None:
            backup = Backup(self.config.engine_name, identity, now, now, 0)
        else:
            self.remove_old(backup.level_zero_timestamp)
        return Outcome(self._document(backup, None))

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


def _without_password(url: str | None) -> str | None:
    if not url:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
