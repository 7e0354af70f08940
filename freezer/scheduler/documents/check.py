"""Have the agent check the options of jobs: one that can never run is refused at once.

It does so in a process of its own, with the environment that agents get, and for all
documents together: starting a process takes longer than the checks.
"""

import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from freezer.common.parsing import one_line
from freezer.exceptions import ConfigError
from freezer.scheduler.documents.document import Document, DocumentError, Problem
from freezer.scheduler.documents.positions import format_path

LOG = logging.getLogger(__name__)

#: runs a module of this installation; -P: never one in the current directory
PYTHON = (sys.executable, '-P', '-m')
#: No job starts meanwhile, and a file on a server that does not respond must not stop
#: the scheduler.
SECONDS = 60.0


def check(
    documents: Sequence[Document],
    environ: Mapping[str, str],
    same_environ: bool,
    seconds: float | None = SECONDS,
) -> list[Document | DocumentError]:
    """Check each document.

    A document with an action that was not checked in time is returned as it is, and a
    warning is logged.

    :param environ: for the agent
    :param same_environ: whether jobs run in this environment; if not, options that it
        can set may be missing
    :param seconds: for all of them; None: as long as it takes
    :returns: in the same order, a document, or its error if it can never run
    :raises ConfigError: the agent could not check them
    """
    texts = [[action.ini() for action in each.actions] for each in documents]
    # It takes a while for each; many jobs may have the same actions.
    unique = list(dict.fromkeys(itertools.chain.from_iterable(texts)))
    if not unique:
        return [*documents]
    found = dict(zip(unique, _found(unique, environ, seconds), strict=False))
    late = 0
    checked: list[Document | DocumentError] = []
    for document, actions in zip(documents, texts, strict=True):
        if all(text in found for text in actions):
            results = [found[text] for text in actions]
            checked.append(_checked(document, results, same_environ))
        else:
            late += 1
            checked.append(document)
    if late:
        LOG.warning(
            'the options of %d jobs of %d could not be checked within %g seconds; '
            'their agents check them before each run',
            *(late, len(documents), seconds),
        )
    return checked


def _found(
    texts: Sequence[str], environ: Mapping[str, str], seconds: float | None
) -> list[dict[str, Any]]:
    """The result for each of the first texts, as many as were checked in time."""
    try:
        try:
            ended = subprocess.run(
                [*PYTHON, 'freezer.check_jobs'],
                input=json.dumps(texts).encode(),
                capture_output=True,
                timeout=seconds,
                env=environ,
                # A terminal signals the scheduler only.
                start_new_session=True,
                check=True,
            )
            written = ended.stdout
        except subprocess.TimeoutExpired as expired:
            # Without the line that it was about to write.
            written = (expired.output or b'').rpartition(b'\n')[0]
            if not written:
                raise
        return [json.loads(line) for line in written.splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f'the options of the jobs could not be checked: {one_line(error)}'
        ) from error


def _checked(
    document: Document, found: Sequence[Mapping[str, Any]], same_environ: bool
) -> Document | DocumentError:
    problems = []
    for number, (action, each) in enumerate(zip(document.actions, found, strict=True)):
        if each['error'] and (same_environ or not each['is_missing']):
            text = action.without_secrets(each['error'])
            where = format_path(('job_actions', number, 'freezer_action'))
            problems.append(Problem(action.line, where, text))
    return DocumentError(document.path, problems) if problems else document
