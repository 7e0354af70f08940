"""Remove what is old."""

from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError
from freezer.job.job import Job, Outcome, one_cutoff


class AdminJob(Job):
    """Remove old chains, and what was never committed."""

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not one_cutoff(config):
            raise ConfigError(
                'action admin needs remove-older-than (more than 0 days) or '
                'remove-before-date'
            )

    def execute(self) -> Outcome:
        if not self.config.dry_run:
            self.storage.clean_up()
        self.remove_old()
        return Outcome()
