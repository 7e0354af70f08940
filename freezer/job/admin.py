"""Remove what is old."""

from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError
from freezer.job.job import Job, Outcome, one_cutoff


class AdminJob(Job):
    """Remove old chains."""

    @classmethod
    def validate(cls, config: AgentConfig) -> None:
        super().validate(config)
        if not one_cutoff(config):
            raise ConfigError(
                'action admin needs remove-older-than (more than 0 days) or '
                'remove-before-date'
            )

    def execute(self) -> Outcome:
        self.remove_old()
        return Outcome()
