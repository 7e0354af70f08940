"""The actions of mode cindernative: Cinder makes, stores and restores the backups."""

import functools
import sys
from typing import TYPE_CHECKING, Any

from freezer.common.version import version
from freezer.exceptions import CloudError, ConfigError, RestoreError
from freezer.job.job import Job, Outcome, Table, iso, property_table, shortened
from freezer.utils import human

if TYPE_CHECKING:
    from freezer.engine.openstack.volume_backups import VolumeBackup, VolumeBackups


class _NativeJob(Job):
    """The connection to Cinder, and checks of the options."""

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        if config.snapshot:
            raise ConfigError('mode cindernative takes no --snapshot: Cinder makes it')
        if config.path_to_backup:
            raise ConfigError(
                'mode cindernative backs up volumes: leave out --path-to-backup'
            )
        for name in ('tag', 'note', 'consistency_check', 'restore_abs_path'):
            if getattr(config, name):
                raise ConfigError(
                    f'--{name.replace("_", "-")} has no effect on backups of Cinder'
                )

    @functools.cached_property
    def backups(self) -> 'VolumeBackups':
        # Optional: it needs the extra openstack.
        try:
            from freezer.engine.openstack.volume_backups import VolumeBackups
        except ImportError as error:
            raise ConfigError(
                f'mode cindernative needs openstacksdk: {error}: pip install '
                f"'freezer[openstack]'"
            ) from error
        options = self.config.mode_options
        return VolumeBackups(
            options['os_cloud'],
            float(options['openstack_retry_budget']),
            float(options['openstack_timeout']),
            self.progress,
        )

    @property
    def volume(self) -> str:
        """``--cindernative-vol-id``; empty if it is not given"""
        return self.config.mode_options['cindernative_vol_id'] or ''

    def _require_volume(self) -> None:
        if not self.volume:
            raise ConfigError(
                f'action {self.config.action} of mode cindernative needs '
                f'--cindernative-vol-id'
            )


class NativeBackupJob(_NativeJob):
    """Lets Cinder make one backup, and waits until it is complete."""

    def check_options(self) -> None:
        super().check_options()
        self._require_volume()
        config = self.config
        if config.mode_options['cindernative_backup_id']:
            raise ConfigError('--cindernative-backup-id belongs to action restore')
        if config.always_level:
            raise ConfigError(
                '--always-level has no effect on backups of Cinder: use --max-level'
            )
        if '/' in (self._container or ''):
            raise ConfigError(
                f'cindernative-backup-container {self._container!r} has a slash, which '
                f'Cinder refuses'
            )

    @property
    def _container(self) -> str | None:
        config = self.config
        given = config.mode_options['cindernative_backup_container'] or ''
        filled = given.replace('{volume_id}', self.volume).replace(
            '{backup_name}', self._name
        )
        return config.fill_in(filled) or None

    @property
    def _name(self) -> str:
        config = self.config
        return config.fill_in(config.backup_name.replace('{resource_id}', self.volume))

    def validate(self) -> None:
        self.backups.check_volume(self.volume)

    def execute(self) -> Outcome:
        from freezer.engine.openstack.volume_backups import NewBackup

        config = self.config
        level = self._level()
        new = NewBackup(
            self.volume,
            self._name,
            incremental=level > 0,
            container=self._container,
            zone=config.mode_options['cindernative_backup_az'],
            metadata={'hostname': config.hostname, 'backup_name': self._name},
        )
        kind = 'an incremental' if level else 'a full'
        if config.dry_run:
            self.say(f'Would let Cinder make {kind} backup of volume {self.volume}')
            return Outcome(self._document(level, None))
        self.progress.phase = 'Waiting for Cinder'
        made = self.backups.create(new)
        self.progress.level = level
        document = self._document(level, made)
        return Outcome(
            document,
            [property_table(document)],
            lines=[f'Cinder made {kind} backup of volume {made.volume}: {made.label}'],
            summarized=True,
        )

    def _level(self) -> int:
        """0, or the number of incremental backups since the full one."""
        config = self.config
        found = [
            each
            for each in self.backups.find(self.volume)
            if each.status in ('available', 'restoring')
        ]
        full = [n for n, each in enumerate(found) if not each.incremental]
        if not config.incremental or not full:
            return 0
        level = len(found) - full[-1]
        return 0 if config.max_level and level > config.max_level else level

    def _document(self, level: int, made: 'VolumeBackup | None') -> dict[str, Any]:
        """Keys of Freezer 19, then others."""
        config = self.config
        created = int(made.created) if made else 0
        return {
            'curr_backup_level': level,
            'client_os': sys.platform,
            'client_version': version(),
            'time_stamp': created,
            'action': config.action,
            'backup_media': config.backup_media,
            'backup_name': self._name,
            'container': config.container,
            'dry_run': config.dry_run,
            'hostname': config.hostname,
            'max_level': config.max_level or '',
            'mode': config.mode,
            'cindernative_backup_az': config.mode_options['cindernative_backup_az']
            or '',
            'cindernative_backup_container': self._container or '',
            'cindernative_vol_id': self.volume,
            **(
                {
                    'cinder_backup_id': made.id,
                    'status': made.status,
                    'size_gib': made.size,
                    'date': iso(created),
                }
                if made
                else {}
            ),
        }


class NativeRestoreJob(_NativeJob):
    """Lets Cinder restore a backup into a new volume."""

    def check_options(self) -> None:
        super().check_options()
        options = self.config.mode_options
        if not self.volume and not options['cindernative_backup_id']:
            raise ConfigError(
                'action restore of mode cindernative needs --cindernative-vol-id or '
                '--cindernative-backup-id'
            )

    def execute(self) -> Outcome:
        config = self.config
        chosen = self._chosen()
        if config.dry_run:
            self.say(f'Would restore {chosen.label} into a new volume')
            return Outcome()
        self.progress.phase = 'Waiting for Cinder'
        name = config.mode_options['cindernative_restore_name']
        made = self.backups.restore(chosen, name)
        document = {
            'action': config.action,
            'backup_media': config.backup_media,
            'cinder_backup_id': chosen.id,
            'cindernative_vol_id': chosen.volume,
            'date': iso(int(chosen.created)),
            'restored_volume_id': made,
        }
        line = f'Restored {chosen.label} of {document["date"]} into volume {made}'
        return Outcome(document, lines=[line])

    def _chosen(self) -> 'VolumeBackup':
        """The backup of the ID, or the newest one not after the date.

        :raises RestoreError: there is none
        """
        config = self.config
        backup = config.mode_options['cindernative_backup_id']
        date = self.cutoff(config.restore_from_date)
        if backup:
            found = self.backups.get(backup)
            if self.volume and found.volume != self.volume:
                raise RestoreError(
                    f'{found.label} is of volume {found.volume}, not {self.volume}'
                )
            if found.status != 'available':
                raise RestoreError(f'{found.label} has status {found.status}')
            return found
        made = self.backups.find(self.volume)
        ready = [each for each in made if each.status == 'available']
        chosen = [each for each in ready if date is None or int(each.created) <= date]
        if chosen:
            return chosen[-1]
        if ready and date is not None:
            raise RestoreError(
                f'Cinder has no backup of volume {self.volume} at or before '
                f'{iso(date)}; the oldest is {iso(int(ready[0].created))}'
            )
        raise RestoreError(
            f'Cinder has no available backup of volume {self.volume}: --action info '
            f'lists the backups'
        )


class NativeAdminJob(_NativeJob):
    """Deletes old backups of a volume."""

    def check_options(self) -> None:
        super().check_options()
        self._require_volume()

    def execute(self) -> Outcome:
        from freezer.engine.openstack.volume_backups import outdated

        options = self.config.mode_options
        found = self.backups.find(self.volume)
        if options['cindernative_freezer_only']:
            found = [each for each in found if each.own]
        deleted: list[str] = []
        failures: list[str] = []
        for each in outdated(found, options['fullbackup_rotation']):
            if self.config.dry_run:
                self.say(f'Would delete {each.label} of {iso(int(each.created))}')
                continue
            try:
                self.backups.delete(each)
            except CloudError as error:
                failures.append(f'{each.label}: {error}')
                continue
            self.say(f'Deleted {each.label} of {iso(int(each.created))}')
            deleted.append(each.id)
        failure = None
        if failures:
            failure = CloudError(
                f'{human.number(len(failures), "backup")} of Cinder could not be '
                f'deleted: {shortened(failures)}'
            )
        document = {'action': self.config.action, 'deleted_cinder_backup_ids': deleted}
        return Outcome(document, failure=failure)


class NativeInfoJob(_NativeJob):
    """Lists the backups of a volume, or of all volumes."""

    def execute(self) -> Outcome:
        found = self.backups.find(self.volume or None)
        entries = [
            {
                'id': each.id,
                'name': each.name,
                'volume_id': each.volume,
                'date': iso(int(each.created)),
                'incremental': each.incremental,
                'status': each.status,
                'size_gib': each.size,
                'made_by_freezer': each.own,
            }
            for each in found
        ]
        header = ('Backup', 'Volume', 'Date', 'Kind', 'Status')
        rows = [
            (
                *(each.id, each.volume, iso(int(each.created))),
                'incremental' if each.incremental else 'full',
                each.status,
            )
            for each in found
        ]
        return Outcome({'backups': entries}, [Table(header, rows)])


_KINDS: dict[str, type[Job]] = {
    'backup': NativeBackupJob,
    'restore': NativeRestoreJob,
    'admin': NativeAdminJob,
    'info': NativeInfoJob,
}


def job_of(action: str) -> type[Job]:
    """:raises ConfigError: the mode does not have this action"""
    if action not in _KINDS:
        raise ConfigError(
            f'mode cindernative has no action {action}: Cinder stores these backups; '
            f'it has {", ".join(_KINDS)}'
        )
    return _KINDS[action]
