"""Have the agent check the options of jobs: one that can never run is refused at once.

It does so in a process of its own, with the environment that agents get, and for all
documents together: starting a process takes longer than the checks.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from freezer.common.parsing import one_line
from freezer.exceptions import ConfigError
from freezer.scheduler.documents.document import Document, DocumentError, Problem
from freezer.scheduler.documents.positions import format_path

#: runs a module of this installation; -P: never one in the current directory
PYTHON = (sys.executable, '-P', '-m')
# A file on a server that does not respond must not stop the scheduler.
_SECONDS = 60


def check(
    documents: Sequence[Document], environ: Mapping[str, str], same_environ: bool
) -> list[Document | DocumentError]:
    """Check each document.

    :param environ: for the agent
    :param same_environ: whether jobs run in this environment; if not, options that it
        can set may be missing
    :returns: in the same order, a document, or its error if it can never run
    :raises ConfigError: the agent could not check them
    """
    texts = [[action.ini() for action in each.actions] for each in documents]
    # It takes a while for each; many jobs may have the same actions.
    unique = list(dict.fromkeys(itertools.chain.from_iterable(texts)))
    if not unique:
        return [*documents]
    try:
        ended = subprocess.run(
            [*PYTHON, 'freezer.check_jobs'],
            input=json.dumps(unique).encode(),
            capture_output=True,
            timeout=_SECONDS,
            env=environ,
            # A terminal signals the scheduler only.
            start_new_session=True,
            check=True,
        )
        found = dict(zip(unique, json.loads(ended.stdout), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f'the options of the jobs could not be checked: {one_line(error)}'
        ) from error
    return [
        _checked(document, [found[text] for text in actions], same_environ)
        for document, actions in zip(documents, texts, strict=True)
    ]


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
