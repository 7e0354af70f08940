"""Metadata files: what agents report about the backups they made (--metadata-out).

It is a file and not a pipe, because an agent may outlive its scheduler, and its backup
has to be reported all the same.
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
_MAX_BYTES = 1 << 20


class MetadataFiles:
    """The directory of the metadata files, one for each run of an agent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def new_path(self, job_id: str) -> Path:
        """Where an agent is to write; the file does not exist."""
        name = f'{quote(job_id, safe="")}@{uuid.uuid4().hex}{_SUFFIX}'
        return self._directory / name

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        """(job id, file), for agents that are running and for those whose scheduler was
        killed."""
        for path in sorted(self._directory.glob(f'*@*{_SUFFIX}')):
            yield unquote(path.name.rpartition('@')[0]), path


def read(path: Path) -> dict[str, Any]:
    """The metadata; empty if the agent wrote none, or was interrupted writing it."""
    try:
        with path.open('rb') as stream:
            found = json.loads(stream.read(_MAX_BYTES))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or 'curr_backup_level' not in found:
        return {}
    return found


def delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        LOG.warning('%s: %s', path, error.strerror)
