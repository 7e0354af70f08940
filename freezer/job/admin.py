"""Remove what is old, and what was left over."""

from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError
from freezer.job.job import Job, Outcome, one_cutoff
from freezer.storage.housekeeping import OldVersions


class AdminJob(Job):
    """Remove old chains, and what backups that ended badly left."""

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        one_cutoff(config)

    def execute(self) -> Outcome:
        if not one_cutoff(self.config) and not self.repository.needs_cleanup:
            raise ConfigError(
                'action admin needs remove-older-than (more than 0 days) or '
                'remove-before-date; or, on s3, s3-stale-after or s3-purge-versions'
            )
        with self.repository.housekeeping():
            self.remove_old()
            self._clean_up()
        return Outcome()

    def _clean_up(self) -> None:
        dry_run = self.config.dry_run
        report = self.repository.clean_up(dry_run)
        for left in report.leftovers:
            self.say(
                f'{"Would remove" if dry_run else "Removed"} what was never committed '
                f'of {left}'
            )
        for old in report.old_versions:
            self.say(_said(old, dry_run))


def _said(old: OldVersions, dry_run: bool) -> str:
    what = f'{old.count} old versions below {old.where}, {old.size} bytes'
    if not old.purged:
        return (
            f'The bucket keeps what is deleted: {what}; --s3-purge-versions removes '
            f'them for good'
        )
    return f'{"Would purge" if dry_run else "Purged"} {what}'
