"""What agents say of the backups that they have made: a file a run of an agent.

A file, and not a pipe: an agent may outlive its scheduler, and what it has made then is
to be known all the same.
"""

import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

LOG = logging.getLogger(__name__)

_SUFFIX = '.json'
_MOST_BYTES = 1 << 20


class Results:
    """The directory of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, job_id: str) -> Path:
        """Where an agent is to write; nothing is there."""
        name = f'{quote(job_id, safe="")}@{uuid.uuid4().hex}{_SUFFIX}'
        return self._directory / name

    def left(self) -> Iterator[tuple[str, Path]]:
        """(job id, file) of what is there: of agents that run, and of those whose
        scheduler was killed."""
        for path in sorted(self._directory.glob(f'*@*{_SUFFIX}')):
            yield unquote(path.name.rpartition('@')[0]), path


def read(path: Path) -> dict[str, Any]:
    """What was said; empty if nothing was, or not all of it."""
    try:
        with path.open('rb') as stream:
            found = json.loads(stream.read(_MOST_BYTES))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or 'curr_backup_level' not in found:
        return {}
    return found


def forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        LOG.warning('%s: %s', path, error.strerror)
