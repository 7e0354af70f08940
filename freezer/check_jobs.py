"""Check the options of jobs, as the agent does before any work, without running them.

For the scheduler, which starts this module as a process: standard input is JSON, a list
of jobs as the agent's job files; standard output is a line of JSON for each, a
:data:`Found`, as soon as it is checked. No storage is contacted, and nothing is
written. Files of this machine do not matter: an earlier action may make them.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from freezer.agent import make_progress, make_repository
from freezer.common import config, jobfile
from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError
from freezer.job import job_of
from freezer.metrics import MetricsFile
from freezer.storage.exceptions import OptionsMissing, StorageConfigError
from freezer.storage.repository import Repository
from freezer.utils import surroundings
from freezer.utils.progress import Progress

# As a job file has it that disappears with its process; removed from messages.
_PATH = '/dev/fd/job'
# The scheduler adds it, with a path of its own, to jobs that do not set it.
_METADATA_OUT = ('--metadata-out', os.devnull)


class Found(NamedTuple):
    """The problem of a job.

    :ivar error: one line; empty if its options are right
    :ivar is_missing: the error is that options are missing which the environment can
        set
    """

    error: str = ''
    is_missing: bool = False


def check(text: str, environ: Mapping[str, str]) -> Found:
    """:param text: the job file"""
    with surroundings.unchecked():
        return _check(text, environ)


def _check(text: str, environ: Mapping[str, str]) -> Found:
    try:
        job = jobfile.parse(_PATH, text.splitlines(keepends=True))
        given = any('metadata_out' in section.values for section in job.main)
        settings = config.load_job(job, () if given else _METADATA_OUT, environ)
        progress = make_progress(settings)
        if settings.metrics_file:
            MetricsFile(settings.metrics_file, settings)
        found, repository = _build(settings, progress)
        action = job_of(settings.action, settings.is_elsewhere)
        action(settings, repository, lambda _text: None, progress).check_options()
    except (ConfigError, StorageConfigError) as error:
        return Found(_without_path(str(error)))
    return found


def _build(
    settings: AgentConfig, progress: Progress
) -> tuple[Found, Repository | None]:
    try:
        return Found(), make_repository(settings, progress)
    except OptionsMissing as error:
        return Found(error.message, is_missing=True), Repository({'': error.storage})


def _without_path(text: str) -> str:
    for part in (f'config {_PATH}, [action], ', f'config {_PATH}, ', f' of {_PATH}'):
        text = text.replace(part, '')
    return text


def main() -> None:
    # Warnings of libraries would be written to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    jobs = json.load(sys.stdin)
    for text in jobs:
        print(json.dumps(check(text, os.environ)._asdict()), flush=True)


if __name__ == '__main__':
    main()
