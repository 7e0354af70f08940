"""Action admin: delete old backups, and the leftovers of failed ones."""

from freezer.exceptions import ConfigError
from freezer.job.indexes import rebuild_indexes
from freezer.job.job import Job, Outcome, retention_requested
from freezer.storage.levels import NoSuchBackup
from freezer.utils import human


class AdminJob(Job):
    """Removes old chains, and what failed backups left; with ``--rebuild-index`` makes
    indexes that are missing."""

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        if not (
            retention_requested(config)
            or config.rebuild_index
            or self.repository.needs_cleanup
        ):
            raise ConfigError(
                'action admin needs remove-older-than (more than 0 days), '
                'remove-before-date or rebuild-index; or, on s3, s3-stale-after or '
                's3-purge-versions'
            )

    def execute(self) -> Outcome:
        failure = None
        with self.repository.housekeeping():
            if retention_requested(self.config):
                try:
                    self._check_name()
                    self.remove_old()
                except NoSuchBackup as error:
                    # Leftovers are removed all the same.
                    failure = error
            self._clean_up()
        if failure is None and self.config.rebuild_index:
            return rebuild_indexes(self)
        return Outcome(failure=failure)

    def _check_name(self) -> None:
        """:raises NoSuchBackup: a storage has no backup of the name"""
        config = self.config
        for member in self.repository.members_without(
            config.engine_name, config.owners
        ):
            where = f'[storage:{member}]: ' if member else ''
            raise NoSuchBackup(f'{where}{self.no_state(None)}')
        self.warn_of_dates_ahead()

    def _clean_up(self) -> None:
        would = 'Would ' if self.config.dry_run else ''
        report = self.repository.clean_up(self.config.dry_run)
        for left in report.leftovers:
            self.say(
                f'{"Would remove" if would else "Removed"} the leftovers of a failed '
                f'backup: {left}'
            )
        for old in report.old_versions:
            versions = human.number(old.count, 'old version')
            what = f'{versions} below {old.where}, {old.size} bytes'
            if old.purged:
                self.say(f'{"Would purge" if would else "Purged"} {what}')
            else:
                self.say(
                    f'The bucket keeps deleted objects: {what}; --s3-purge-versions '
                    f'removes them for good'
                )
