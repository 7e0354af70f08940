"""One class per action."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freezer.job.job import Job

_JOBS = {
    'backup': 'BackupJob',
    'restore': 'RestoreJob',
    'info': 'InfoJob',
    'list': 'ListJob',
    'admin': 'AdminJob',
    'check': 'CheckJob',
    'exec': 'ExecJob',
    'verify': 'VerifyJob',
}


def job_of(action: str) -> 'type[Job]':
    """The class of an action; modules that only others need are not imported."""
    module = importlib.import_module(f'freezer.job.{action}')
    job: type[Job] = getattr(module, _JOBS[action])
    return job
