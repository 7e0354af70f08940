"""Action restore."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import freezer
from freezer.engine.engine import Restored, TargetPlan, Warnings, require_files
from freezer.engine.restore import RestoreChain
from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.job import INCOMPLETE, summary
from freezer.job.job import (
    MAX_LISTED,
    Job,
    Outcome,
    damage_explained,
    describe_levels,
    iso,
)
from freezer.job.resources import config_of_one
from freezer.job.source import check_target
from freezer.storage import layout
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.utils import checksum, human, signals
from freezer.utils.text import NOTICES
from freezer.utils.tree import is_within

LOG = logging.getLogger(__name__)


class RestoreJob(Job):
    """Restores the newest state, or that of a date: all of it, or a part."""

    takes_tag = True
    takes_include = True

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        if config.consistency_checksum:
            if config.include:
                raise ConfigError(
                    'consistency-checksum is of a whole backup and cannot be used with '
                    '--include'
                )
            checksum.compare(config.consistency_checksum, '')
            require_files(self.engine, 'consistency-checksum')
        if config.keep_extra:
            require_files(self.engine, 'keep-extra')
        if not config.restore_abs_path:
            # Raises the error of the engine, if it needs a target.
            self.engine.check_target(None, config.overwrite)

    def validate(self) -> None:
        target = self._check_target()
        if self.engine.restores_to_path:
            check_target(self.config, target)

    def _check_target(self) -> str:
        """The target of the restore.

        :raises ConfigError, RestoreError: nothing can be restored there
        """
        config = self.config
        target = self.engine.check_target(
            config.restore_abs_path, config.overwrite or config.keep_extra
        )
        if not self.engine.restores_to_path:
            return target
        for driver, settings in config.storages:
            for folder in driver.local_paths(settings):
                if is_within(folder, target) or is_within(target, folder):
                    raise RestoreError(
                        f'restore-abs-path {target} and the container {folder} '
                        f'overlap: the restore would change the backups that it '
                        f'reads; restore into a directory outside of the container'
                    )
        return target

    def execute(self) -> Outcome:
        with damage_explained():
            return self._restore()

    def _restore(self) -> Outcome:
        config = self.config
        engine = self.engine
        target = self._check_target()
        self.progress.phase = 'Looking for the backup'
        self.config = config_of_one(self)
        found = self.find_state()
        chain = RestoreChain(found, engine, self.settings)
        newest = chain.newest
        what = f'level {newest.level} of {iso(newest.timestamp)}'
        if config.include:
            what = f'{" ".join(map(repr, config.include))} of {what}'
        plan = chain.plan(target, config.keep_extra)
        if plan is not None:
            self._check_own_files(target, plan.removed)
            self._announce(target, plan)
        if config.dry_run:
            levels = describe_levels(found.values())
            self.say(f'Would restore {what} into {target}: {levels}')
            return Outcome()
        try:
            warnings = chain.restore(target, plan)
        except (FreezerError, StorageException, signals.Interrupted) as error:
            if engine.restores_to_path:
                self.say(
                    f'The restore did not finish; {target} is incomplete, do not use it'
                )
            raise error
        made = chain.restored or Restored(target, {})
        if config.consistency_checksum:
            self.progress.phase = 'Computing the checksum'
            files = require_files(engine, 'consistency-checksum')
            digest = files.checksum(engine.source([target]))
            if not checksum.compare(config.consistency_checksum, digest):
                raise RestoreError(
                    f'{target}: the checksum is {digest}, not '
                    f'{config.consistency_checksum}: this is another state, or the '
                    f'files were changed'
                )
        progress = self.progress
        progress.level = newest.level
        progress.warnings += warnings.count
        progress.incomplete = warnings.incomplete + warnings.damaged
        # Each level tries again to read what the level below it could not.
        if errors := newest.marker.get(layout.INCOMPLETE_KEY):
            NOTICES.warning(
                'The backup is incomplete: %s when it was made; an earlier date may '
                'have the files that are missing',
                human.number(errors, 'read error'),
            )
        head = f'Restored {what} into {made.label}'
        lines = summary.of_restore(config, progress, head, warnings.kept)
        failed = progress.incomplete and not config.allow_incomplete
        if failed:
            for message in _failures(made.label, warnings, engine.restores_to_path):
                LOG.error('%s', message)
                lines.append(f'Error: {message}')
        return Outcome(
            self._document(newest, target) | {**made.keys},
            exit_code=INCOMPLETE if failed else 0,
            lines=lines,
        )

    def _document(self, newest: StoredLevel, target: str) -> dict[str, Any]:
        config = self.config
        host, name = self.owner_of(newest)
        return {
            'action': config.action,
            'hostname': host,
            'backup_name': name,
            'storage': config.storage,
            'container': config.container,
            'engine_name': newest.backup.engine,
            'level': newest.level,
            'time_stamp': newest.timestamp,
            'date': iso(newest.timestamp),
            'restore_abs_path': target if self.engine.restores_to_path else '',
            **summary.figures(self.progress),
        }

    def _check_own_files(self, target: str, removed: Sequence[bytes]) -> None:
        """:raises RestoreError: the restore would remove a file that this run uses"""
        if not removed:
            return
        top = os.path.realpath(target)
        for file in (*self.config.own_files, *_program()):
            path = os.path.relpath(os.path.realpath(file), top)
            parts = os.fsencode(path).split(b'/')
            above = {b'/'.join(parts[:depth]) for depth in range(1, len(parts) + 1)}
            if not above.isdisjoint(removed):
                raise RestoreError(
                    f'the restore would remove {file}, which it uses itself, from '
                    f'{target}: move that file, or use --keep-extra'
                )

    def _announce(self, target: str, plan: TargetPlan) -> None:
        """Report what the restore removes, and where it removes nothing."""
        removing = 'Would remove' if self.config.dry_run else 'Removing'
        if plan.removed:
            count = human.number(len(plan.removed), 'path')
            self._list(
                f'{removing} {count} not in the backup from {target}:', plan.removed
            )
        if plan.mounts:
            count = human.number(len(plan.mounts), 'mounted file system')
            self._list(f'Removing nothing from {count} in {target}:', plan.mounts)
        for path in plan.removed:
            LOG.warning('%s: %s', removing, os.path.join(target, os.fsdecode(path)))

    def _list(self, title: str, paths: Sequence[bytes]) -> None:
        self.say(title)
        for path in paths[:MAX_LISTED]:
            self.say(f'  {os.fsdecode(path)}')
        if len(paths) > MAX_LISTED:
            self.say(f'  … see {self.config.log_file}')


def _program() -> Iterator[str]:
    """The files of this program. More of them are read as they are needed."""
    yield sys.executable
    yield os.path.dirname(freezer.__file__)
    for module in tuple(sys.modules.values()):
        if file := getattr(module, '__file__', None):
            yield file


def _failures(target: str, warnings: Warnings, is_path: bool) -> Iterator[str]:
    if warnings.damaged:
        items = human.number(warnings.damaged, 'item')
        yield (
            f'{target}: restored, except for {items} of which the backup does not '
            f'have what was backed up: see the warnings, the log names all; restore '
            f'another date, or accept it with --allow-incomplete'
        )
    if warnings.incomplete:
        yield _incomplete(target, warnings.incomplete, is_path)


def _incomplete(target: str, count: int, is_path: bool) -> str:
    """An error: the target holds the contents of the backup, but not all of it."""
    items = human.number(count, 'item')
    if not is_path:
        return (
            f'{target}: restored, except for {items} that these credentials may not '
            f'set: see the warnings'
        )
    return (
        f'{target}: restored, except for {items} that its file '
        f'system or this user cannot have; the log names all: restore as root, into '
        f'another file system, or without attributes and ACLs by --no-attributes'
    )
