"""One class per action."""

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from freezer.job.job import Job

INCOMPLETE: Final = 3
"""Exit code: done, but something is missing, and the terminal shows what."""


def job_of(action: str) -> 'type[Job]':
    """The class of an action; modules that only others need are not imported."""
    module = importlib.import_module(f'freezer.job.{action}')
    job: type[Job] = getattr(module, f'{action.capitalize()}Job')
    return job
