"""Pins a state, so that no retention removes it, or removes the pin."""

import logging

from freezer.exceptions import FreezerError
from freezer.job.job import Job, describe_levels
from freezer.job.resources import config_of_one
from freezer.utils import human

LOG = logging.getLogger(__name__)


def pin_or_unpin(job: Job) -> None:
    """Do what ``--pin`` or ``--unpin`` requests, on every storage that has the state.

    :raises NoSuchBackup: there is no such state
    :raises FreezerError: the state to unpin is not pinned
    """
    config = job.config = config_of_one(job)
    job.progress.phase = 'Looking for the backup'
    chain = job.find_state_at(config.pin or config.unpin)
    stored = chain[max(chain)]
    what = f'{describe_levels([stored])} of {stored.backup.hostname_backup_name}'
    word = 'pin' if config.pin else 'unpin'
    if config.dry_run:
        job.say(f'Would {word} {what}')
        return
    count = job.repository.pin(stored.backup, config.pin is not None)
    if not count:
        raise FreezerError(
            f'{what} is not pinned: --action info shows which backups are'
        )
    line = f'{word.capitalize()}ned {what}'
    if job.repository.has_several:
        line += f' on {human.number(count, "storage")}'
    LOG.info('%s', line)
    job.say(line)
