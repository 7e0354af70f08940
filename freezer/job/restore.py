"""Action restore."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from freezer.engine.engine import require_files
from freezer.engine.restore import RestoreChain
from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.job import summary
from freezer.job.job import (
    MAX_LISTED,
    Job,
    Outcome,
    damage_explained,
    describe_levels,
    iso,
)
from freezer.storage import layout
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.utils import checksum, human

LOG = logging.getLogger(__name__)


class RestoreJob(Job):
    """Restores the newest state, or that of a date: all of it, or a part."""

    takes_include = True

    def validate(self) -> None:
        super().validate()
        config = self.config
        if config.consistency_checksum:
            if config.include:
                raise ConfigError(
                    'consistency-checksum is of a whole backup and cannot be used with '
                    '--include'
                )
            checksum.compare(config.consistency_checksum, '')
            require_files(self.engine, 'consistency-checksum')
        self.engine.check_target(config.restore_abs_path, config.overwrite)

    def execute(self) -> Outcome:
        with damage_explained():
            return self._restore()

    def _restore(self) -> Outcome:
        config = self.config
        engine = self.engine
        target = engine.check_target(config.restore_abs_path, config.overwrite)
        self.progress.phase = 'Looking for the backup'
        found = self.find_state()
        chain = RestoreChain(found, engine, self.settings)
        newest = chain.newest
        what = f'level {newest.level} of {iso(newest.timestamp)}'
        if config.include:
            what = f'{" ".join(map(repr, config.include))} of {what}'
        removals = chain.removals(target) if config.overwrite else []
        if removals:
            self._list_removals(target, removals)
        if config.dry_run:
            levels = describe_levels(found.values())
            self.say(f'Would restore {what} into {target}: {levels}')
            return Outcome()
        try:
            warnings = chain.restore(target)
        except (FreezerError, StorageException) as error:
            self.say(
                f'The restore did not finish; {target} is incomplete, do not use it'
            )
            raise error
        if config.consistency_checksum:
            self.progress.phase = 'Computing the checksum'
            files = require_files(engine, 'consistency-checksum')
            digest = files.checksum(engine.source(target))
            if not checksum.compare(config.consistency_checksum, digest):
                raise RestoreError(
                    f'{target}: the checksum is {digest}, not '
                    f'{config.consistency_checksum}: this is another state, or the '
                    f'files were changed'
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

    def _list_removals(self, target: str, removals: Sequence[str]) -> None:
        removing = 'Would remove' if self.config.dry_run else 'Removing'
        count = human.number(len(removals), 'path')
        self.say(f'{removing} {count} not in the backup from {target}:')
        for path in removals[:MAX_LISTED]:
            self.say(f'  {path}')
        if len(removals) > MAX_LISTED:
            self.say(f'  … see {self.config.log_file}')
        for path in removals:
            LOG.warning('%s: %s', removing, os.path.join(target, path))
