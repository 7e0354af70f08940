"""One class per action. Each is checked before any work, and run once."""

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
    """Its class; what the other actions need is not imported."""
    module = importlib.import_module(f'freezer.job.{action}')
    job: type[Job] = getattr(module, _JOBS[action])
    return job
