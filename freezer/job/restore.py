"""Restore."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from freezer.common.config import AgentConfig
from freezer.engine.engine import require_files
from freezer.engine.restore import RestoreChain
from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.job import summary
from freezer.job.job import (
    SAID,
    Job,
    Outcome,
    damage_explained,
    engine_settings,
    iso,
    levels_said,
    make_engine,
)
from freezer.storage import layout
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.utils import checksum

LOG = logging.getLogger(__name__)


class RestoreJob(Job):
    """Restore the newest state, or that of a date, into a directory; all, or a part."""

    takes_part = True

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        engine = make_engine(config, engine_settings(config))
        if config.consistency_checksum:
            if config.include:
                raise ConfigError(
                    'consistency-checksum: is that of all of a backup, and --include '
                    'restores a part'
                )
            checksum.compare(config.consistency_checksum, '')
            require_files(engine, 'consistency-checksum')
        engine.check_target(config.restore_abs_path, config.overwrite)

    def execute(self) -> Outcome:
        with damage_explained():
            return self._restore()

    def _restore(self) -> Outcome:
        config = self.config
        settings = engine_settings(config, self.progress)
        engine = make_engine(config, settings)
        target = engine.check_target(config.restore_abs_path, config.overwrite)
        self.progress.phase = 'Looking for the backup'
        found = self.find_state()
        chain = RestoreChain(found, engine, settings)
        newest = chain.newest
        what = f'level {newest.level} of {iso(newest.timestamp)}'
        if config.include:
            what = f'{" ".join(map(repr, config.include))} of {what}'
        removals = chain.removals(target) if config.overwrite else []
        if removals:
            self._say_removals(target, removals)
        if config.dry_run:
            self.say(
                f'Would restore {what} into {target}: {levels_said(found.values())}'
            )
            return Outcome()
        try:
            warnings = chain.restore(target)
        except (FreezerError, StorageException) as error:
            self.say(f'{target} is not what was backed up: the restore did not finish')
            raise error
        if config.consistency_checksum:
            self.progress.phase = 'Computing the checksum'
            files = require_files(engine, 'consistency-checksum')
            digest = files.checksum(engine.source(target))
            if not checksum.compare(config.consistency_checksum, digest):
                raise RestoreError(
                    f'{target}: its checksum is {digest}, not '
                    f'{config.consistency_checksum}: it is another state, or something '
                    f'has changed the files'
                )
        progress = self.progress
        progress.level = newest.level
        progress.warnings += warnings.count
        head = f'Restored {what} into {target}'
        return Outcome(
            self._document(newest, target),
            lines=summary.of_restore(config, progress, head, warnings.kept),
        )

    def _document(self, newest: StoredLevel, target: str) -> dict[str, Any]:
        config = self.config
        host, name = layout.split_identity(newest.backup.hostname_backup_name)
        return {
            'action': config.action,
            'hostname': host,
            'backup_name': name,
            'storage': config.storage,
            'container': config.container,
            'engine_name': newest.backup.engine,
            'level': newest.level,
            'time_stamp': newest.timestamp,
            'restore_abs_path': target,
            **summary.figures(self.progress),
        }

    def _say_removals(self, target: str, removals: Sequence[str]) -> None:
        would = 'would remove' if self.config.dry_run else 'removes'
        self.say(
            f'This {would} what the backup does not hold from {target}: '
            f'{len(removals)} in all'
        )
        for path in removals[:SAID]:
            self.say(f'  {path}')
        if len(removals) > SAID:
            self.say(f'  … see {self.config.log_file}')
        for path in removals:
            LOG.warning('%s: %s', would, os.path.join(target, path))
