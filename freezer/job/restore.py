"""Restore."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from freezer.common.config import AgentConfig
from freezer.engine.engine import Source
from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.job import summary
from freezer.job.job import SAID, Job, Outcome, damage_explained, iso, levels_said
from freezer.storage import layout
from freezer.storage.base import Backup
from freezer.storage.exceptions import StorageException
from freezer.utils import checksum

LOG = logging.getLogger(__name__)


class RestoreJob(Job):
    """Restore the newest state, or that of a date, into a directory; all, or a part."""

    takes_part = True

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not config.restore_abs_path:
            raise ConfigError(
                'restore-abs-path is required for action restore: give '
                '--restore-abs-path, or restore_abs_path in the job file'
            )
        if config.consistency_checksum:
            if config.include:
                raise ConfigError(
                    'consistency-checksum: is that of all of a backup, and --include '
                    'restores a part'
                )
            checksum.compare(config.consistency_checksum, '')
        _check_target(os.path.abspath(config.restore_abs_path), config.overwrite)

    def execute(self) -> Outcome:
        with damage_explained():
            return self._restore()

    def _restore(self) -> Outcome:
        config = self.config
        assert config.restore_abs_path is not None
        target = os.path.abspath(config.restore_abs_path)
        engine = self.engine()
        self.progress.phase = 'Looking for the backup'
        chain = self.find_state()
        newest = chain[max(chain)]
        what = f'level {newest.level} of {iso(newest.timestamp)}'
        if config.include:
            what = f'{" ".join(map(repr, config.include))} of {what}'
        removals = engine.removals(target, newest) if os.path.isdir(target) else []
        if removals:
            self._say_removals(target, removals)
        if config.dry_run:
            if config.include:
                # A pattern for which there is nothing is told without the data.
                engine.check(chain)
            self.say(
                f'Would restore {what} into {target}: {levels_said(chain.values())}'
            )
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
        if config.consistency_checksum:
            found = self.checksum_of(engine, Source(target, '.'))
            if not checksum.compare(config.consistency_checksum, found):
                raise RestoreError(
                    f'{target}: its checksum is {found}, not '
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

    def _document(self, backup: Backup, target: str) -> dict[str, Any]:
        config = self.config
        host, name = layout.split_identity(backup.hostname_backup_name)
        return {
            'action': config.action,
            'hostname': host,
            'backup_name': name,
            'storage': config.storage,
            'container': config.container,
            'engine_name': backup.engine.name,
            'level': backup.level,
            'time_stamp': backup.timestamp,
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
