"""Action backup."""

import copy
import dataclasses
import functools
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from freezer.common.version import version
from freezer.engine import path_list
from freezer.engine.backup import CLOCK_TOLERANCE, BackupWriter
from freezer.engine.engine import LeftOut, Source, require_files
from freezer.engine.path_list import ListedPath
from freezer.exceptions import ConfigError, EngineError, FreezerError
from freezer.job import INCOMPLETE, summary
from freezer.job.each import all_backed_up
from freezer.job.job import Job, Outcome, iso, property_table
from freezer.job.retention import remove_old, retention_requested
from freezer.job.source import at_rest, choose_snapshot, load_mode, load_snapshots
from freezer.mode.mode import Mode
from freezer.snapshot.snapshot import Snapshot, SnapshotView
from freezer.storage import layout
from freezer.storage.backup import Backup
from freezer.storage.exceptions import NotFound, StorageException
from freezer.storage.levels import LevelPolicy
from freezer.utils.paths import absolute
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


class BackupJob(Job):
    """Makes one level; then removes old backups, if the options request it."""

    takes_tag = True
    writes = True

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        retention_requested(config)
        if config.consistency_check:
            require_files(self.engine, 'consistency-check')
        # Loaded before any work: each may not be installed.
        _mode, snapshots, engine = self._mode, self._snapshots, self.engine
        paths = config.path_to_backup
        if len(paths) > 1:
            require_files(engine, 'several --path-to-backup')
        if config.incremental:
            engine.check_incremental()
        if config.lists_paths:
            require_files(engine, 'files-from')
        else:
            engine.check_source(paths)
        if snapshots and not paths:
            raise ConfigError('--snapshot needs --path-to-backup')

    def validate(self) -> None:
        self._mode.validate()
        if self._snapshot is not None:
            for path in self.config.path_to_backup:
                self._check_same_file_system(path)
            self._snapshot.validate(self._parent)
        if self.config.selects_one:
            self._jobs[0].check_readable()

    def check_readable(self) -> None:
        """:raises EngineError: the source cannot be read"""
        self._source()

    @functools.cached_property
    def _jobs(self) -> 'Sequence[BackupJob]':
        """This job; or one job for each of the resources that the options select.

        They share the engine and its connections.
        """
        resources = self.engine.resources()
        return [self._of_resource(each) for each in resources] if resources else [self]

    def _of_resource(self, resource: str) -> 'BackupJob':
        job = copy.copy(self)
        job.config = self.config.of_resource(resource)
        return job

    def _check_same_file_system(self, path: str) -> None:
        """:raises FreezerError: a snapshot of the common parent would not have it"""
        try:
            devices = {os.lstat(each).st_dev for each in (_real(path), self._parent)}
        except OSError as error:
            raise EngineError(f'path-to-backup {path}: {error.strerror}') from error
        if len(devices) > 1 and len(self.config.path_to_backup) > 1:
            raise ConfigError(
                f'--snapshot: {path} and {self._parent} are on different file systems: '
                f'make a backup for each file system'
            )

    @functools.cached_property
    def _parent(self) -> str:
        """The path that a snapshot is made of: the only one, or their common parent."""
        config = self.config
        if config.one_path:
            return config.one_path
        return os.path.commonpath(map(_real, config.path_to_backup))

    def _snapshot_source(self, view: SnapshotView, live: Source) -> Source:
        """What is backed up, as the snapshot has it.

        :param live: as it was before; files may be gone meanwhile
        :raises EngineError: it is not there, or cannot be read
        """
        parent = self._parent
        paths = [view.path]
        if not self.config.one_path:
            given = self.config.path_to_backup
            inside = [os.path.relpath(_real(p), parent) for p in given]
            paths = [os.path.normpath(os.path.join(view.path, each)) for each in inside]
        missing = frozenset(map(os.fsencode, view.missing))
        found = self._source(paths)
        return dataclasses.replace(
            found, label=live.label, top=live.top, missing=missing
        )

    def _source(self, paths: Sequence[str] | None = None) -> Source:
        """What is backed up.

        :param paths: in the snapshot; None if there is none
        :raises ConfigError, EngineError: see :meth:`Engine.source`
        """
        if self.config.resource:
            return self.engine.source([self.config.resource])
        paths = self.config.path_to_backup if paths is None else paths
        if not self.config.lists_paths:
            return self.engine.source(paths)
        engine = require_files(self.engine, 'files-from')
        return engine.source(paths, self._listed)

    @functools.cached_property
    def _listed(self) -> Sequence[ListedPath]:
        # Standard input can be read once.
        config = self.config
        return [
            line
            for by_null, files in (
                (False, config.files_from),
                (True, config.files_from0),
            )
            for file in files
            for line in path_list.read(file, by_null=by_null)
        ]

    @functools.cached_property
    def _mode(self) -> Mode:
        return load_mode(self.config)

    @functools.cached_property
    def _snapshots(self) -> Sequence[Snapshot]:
        return load_snapshots(self.config)

    @functools.cached_property
    def _snapshot(self) -> Snapshot | None:
        """:raises FreezerError: none fits the path"""
        if not self._snapshots:
            return None
        return choose_snapshot(self._snapshots, self._parent)

    def execute(self) -> Outcome:
        if self.config.selects_one:
            return self._jobs[0].back_up()
        return all_backed_up(self._jobs, self.progress, self.say)

    def back_up(self) -> Outcome:
        """Make one backup."""
        config = self.config
        engine = self.engine
        source = self._source()
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
            return self._rehearse(writer, policy, source)
        snapshot = self._snapshot
        parent = self._parent if snapshot else None
        with at_rest(self._mode, snapshot, parent) as rest:
            view = rest.view
            source = self._snapshot_source(view, source) if view else self._source()
            digest = None
            if config.consistency_check:
                self.progress.phase = 'Computing the checksum'
                digest = require_files(engine, 'consistency-check').checksum(source)
            self.progress.phase = 'Looking for earlier backups'
            now = rest.taken // 10**9
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
            facts = self._mode.facts()
            labels = {**source.marker, **self._labels(facts)}
            plan = dataclasses.replace(plan, labels=labels)
            made = writer.write(source, plan, rest.taken, rest.was_read)
            LOG.info('committed %r', made.backup)
        progress = self.progress
        progress.level = made.backup.level
        progress.warnings += made.warnings.count
        progress.incomplete = made.warnings.incomplete
        outcome = Outcome(self._document(made.backup, digest, made.left_out, facts))
        if progress.incomplete and not config.allow_incomplete:
            outcome.exit_code = INCOMPLETE
        outcome.tables = [property_table(_flat(outcome.document))]
        outcome.failure = made.failure
        outcome.summarized = True
        outcome.lines = summary.of_backup(
            config,
            source,
            progress,
            made.backup,
            made.warnings.kept,
            made.left_out,
            engine.restores_to_path,
        )
        try:
            remove_old(self, made.backup.level_zero_timestamp)
        except (FreezerError, StorageException) as error:
            outcome.failure = error
        outcome.failure = self.repository.failure() or outcome.failure
        return outcome

    def _labels(self, facts: Mapping[str, str | int]) -> dict[str, Any]:
        """What the marker says of the application, tags and note."""
        labels = {
            layout.APPLICATION_KEY: {**facts},
            layout.TAGS_KEY: [*self.config.tag],
            layout.NOTE_KEY: self.config.note,
        }
        return {key: value for key, value in labels.items() if value}

    def _rehearse(
        self, writer: BackupWriter, policy: LevelPolicy, source: Source
    ) -> Outcome:
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
        self.say(f'Would back up {source.label} as level {level} of {identity}')
        if backup is None:
            backup = Backup(self.config.engine_name, identity, now, now, 0)
        else:
            remove_old(self, backup.level_zero_timestamp, backup)
        return Outcome(self._document(backup, None, LeftOut()))

    def _document(
        self,
        backup: Backup,
        digest: str | None,
        left_out: LeftOut,
        facts: Mapping[str, str | int] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The keys of Freezer 19, in its order, then keys that only this agent has."""
        config = self.config
        # As a job file has them.
        path = '\n'.join(config.path_to_backup)
        document: dict[str, Any] = {
            'curr_backup_level': backup.level,
            'fs_real_path': path,
            'vol_snap_path': path,
            'client_os': sys.platform,
            'client_version': version(),
            'time_stamp': backup.timestamp,
            'action': config.action,
            'always_level': config.always_level,
            'backup_media': config.backup_media,
            'backup_name': config.fill_in(config.backup_name),
            'container': config.container,
            'container_segments': '',
            'dry_run': config.dry_run,
            'hostname': config.hostname,
            'path_to_backup': path,
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
            **({config.selectors[0]: config.resource} if config.resource else {}),
            'date': iso(backup.timestamp),
            **summary.figures(self.progress),
            'left_out': sum(left_out.counts.values()),
            **({'application': {**facts}} if facts else {}),
        }


def _real(path: str) -> str:
    """Without symbolic links in the directories that lead to it."""
    folder, name = os.path.split(absolute(path))
    return os.path.join(os.path.realpath(folder), name)


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """With a row for each fact of the application."""
    facts = document.get('application', {})
    rows = {f'application_{key}': value for key, value in facts.items()}
    return {k: v for k, v in document.items() if k != 'application'} | rows


def _without_password(url: str | None) -> str | None:
    if not url:
        return url
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
