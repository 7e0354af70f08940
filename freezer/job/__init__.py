"""One class per action."""

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from freezer.job.job import Job

INCOMPLETE: Final = 3
"""Exit code: done, but something is missing, and the terminal shows what."""


def job_of(action: str, is_elsewhere: bool = False) -> 'type[Job]':
    """The class of an action; modules that only others need are not imported.

    :param is_elsewhere: for backups that another service makes and stores
    """
    if is_elsewhere and action != 'exec':
        native = importlib.import_module('freezer.job.native')
        found: type[Job] = native.job_of(action)
        return found
    module = importlib.import_module(f'freezer.job.{action}')
    job: type[Job] = getattr(module, f'{action.capitalize()}Job')
    return job
