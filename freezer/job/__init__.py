"""One class per action."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freezer.job.job import Job


def job_of(action: str) -> 'type[Job]':
    """The class of an action; modules that only others need are not imported."""
    module = importlib.import_module(f'freezer.job.{action}')
    job: type[Job] = getattr(module, f'{action.capitalize()}Job')
    return job
