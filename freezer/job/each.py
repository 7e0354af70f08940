"""Several backups in one run."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from freezer.common.config import AgentConfig
from freezer.exceptions import FreezerError
from freezer.job.job import Outcome
from freezer.storage.exceptions import StorageException
from freezer.utils import human
from freezer.utils.progress import Progress

LOG = logging.getLogger(__name__)


class OneBackup(Protocol):
    """The backup of one resource."""

    @property
    def config(self) -> AgentConfig: ...

    def back_up(self) -> Outcome: ...


def all_backed_up(
    jobs: Sequence[OneBackup], progress: Progress, say: Callable[[str], None]
) -> Outcome:
    """Make one backup after the other; one that fails does not stop the others.

    :param say: shows the result of each at once
    :param progress: counts each of them anew, and has their sums at the end
    """
    documents: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    sums = _Sums()
    code = 0
    for job in jobs:
        resource = job.config.resource
        progress.start_over()
        try:
            outcome = job.back_up()
        except (FreezerError, StorageException) as error:
            failures[resource] = str(error)
            LOG.error('%s: %s', resource, error)
            LOG.debug('where it was raised', exc_info=True)
            say(f'Failed: {resource}: {error}')
            continue
        finally:
            sums.add(progress)
        if outcome.failure is not None:
            failures[resource] = str(outcome.failure)
        code = code or outcome.exit_code
        documents.append(outcome.document)
        for line in outcome.lines:
            say(line)
    sums.give(progress)
    failure = None
    count = human.number(len(jobs), 'backup')
    if failures:
        failure = FreezerError(
            f'{len(failures)} of {count} failed: '
            + '; '.join(f'{name}: {reason}' for name, reason in failures.items())
        )
    return Outcome(
        {'backups': documents, 'failed': failures},
        exit_code=code,
        failure=failure,
        lines=[f'Made {len(documents)} of {count}'],
        summarized=True,
    )


class _Sums:
    """The counters of several backups."""

    _NAMES = ('archive_bytes', 'stored_bytes', 'retries', 'warnings', 'incomplete')

    def __init__(self) -> None:
        self._sums = dict.fromkeys(self._NAMES, 0)

    def add(self, progress: Progress) -> None:
        for name in self._NAMES:
            self._sums[name] += getattr(progress, name)

    def give(self, progress: Progress) -> None:
        for name, value in self._sums.items():
            setattr(progress, name, value)
