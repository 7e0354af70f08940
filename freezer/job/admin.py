"""Action admin: delete old backups, and the leftovers of failed ones."""

from collections.abc import Sequence

from freezer.exceptions import ConfigError
from freezer.job.indexes import rebuild_indexes
from freezer.job.job import Job, Outcome
from freezer.job.pin import pin_or_unpin
from freezer.job.resources import owners
from freezer.job.retention import remove_old, retention_requested
from freezer.storage.levels import NoSuchBackup
from freezer.storage.retention import Plan
from freezer.utils import human


class AdminJob(Job):
    """Removes old backups, and what failed backups left; with ``--rebuild-index`` makes
    indexes that are missing."""

    takes_tag = True

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        if not (self._cleans or config.pin or config.unpin):
            raise ConfigError(
                'action admin needs remove-older-than (more than 0 days), '
                'remove-before-date, a keep option, pin, unpin or rebuild-index; or, '
                'on s3, s3-stale-after or s3-purge-versions'
            )

    @property
    def _cleans(self) -> bool:
        """Whether anything but a pin is requested."""
        return (
            retention_requested(self.config)
            or self.config.rebuild_index
            or self.repository.needs_cleanup
        )

    def execute(self) -> Outcome:
        failure = None
        if self.config.pin or self.config.unpin:
            pin_or_unpin(self)
            if not self._cleans:
                return Outcome()
        with self.repository.housekeeping():
            if retention_requested(self.config):
                try:
                    remove_old(self, check=self._check_name)
                except NoSuchBackup as error:
                    # Leftovers are removed all the same.
                    failure = error
            self._clean_up()
        if failure is None and self.config.rebuild_index:
            return rebuild_indexes(self)
        return Outcome(failure=failure)

    def _check_name(self, plans: Sequence[Plan]) -> None:
        """:raises NoSuchBackup: a storage has no backup of the name"""
        config = self.config
        known = {plan.member for plan in plans if plan.decisions}
        if known != {plan.member for plan in plans}:
            # Somewhere is nothing that could be removed, or nothing at all.
            for member in self.repository.members_without(
                config.engine_name, owners(self)
            ):
                where = f'[storage:{member}]: ' if member else ''
                raise NoSuchBackup(f'{where}{self.no_state(None)}')
        self.warn_of_dates_ahead(each for plan in plans for each in plan.levels)

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
