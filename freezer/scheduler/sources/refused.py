"""The errors of the jobs that the scheduler refuses, for the command status.

To find them anew takes 30 ms of a processor for each action.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.scheduler import private
from freezer.scheduler.documents.document import DocumentError, Problem

LOG = logging.getLogger(__name__)

_FILE = 'refused'
_VERSION = 1


class Refused:
    """A file in the state directory while the scheduler runs."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE
        self._written: list[dict[str, Any]] | None = None

    def write(self, errors: Sequence[DocumentError]) -> None:
        """Atomically. A failure is logged: status then finds the errors itself."""
        found = [
            {'path': each.path, 'problems': [vars(one) for one in each.problems]}
            for each in errors
        ]
        if found == self._written:
            return
        try:
            private.write_json(self._path, {'version': _VERSION, 'errors': found})
            self._written = found
        except OSError as failure:
            self.remove()
            LOG.error('%s: %s', self._path, failure.strerror)

    def remove(self) -> None:
        self._written = None
        with contextlib.suppress(OSError):
            self._path.unlink()


def refused(state_dir: Path) -> list[DocumentError] | None:
    """The errors that the scheduler has written; None if there are none yet."""
    return private.read_json(state_dir / _FILE, _VERSION, _errors)


def _errors(errors: Sequence[Mapping[str, Any]]) -> list[DocumentError]:
    return [
        DocumentError(each['path'], [Problem(**one) for one in each['problems']])
        for each in errors
    ]
