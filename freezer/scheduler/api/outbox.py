"""Unsent reports to freezer-api: one file each, deleted once it has been sent.

So nothing waits for freezer-api, and a killed process loses no report.
"""

import dataclasses
import functools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.scheduler import private

BACKUP, SESSION = 'backup', 'session'
_VERSION = 1
_SUFFIX = '.json'
_REJECTED = '.refused'


@dataclasses.dataclass(frozen=True)
class OutboxItem:
    """A report.

    :param kind: BACKUP, or SESSION: a job has finished in its session
    :param token: unique; sent with a backup
    """

    kind: str
    job_id: str
    project_id: str
    trust_id: str
    body: dict[str, Any]
    session_id: str = ''
    token: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    path: Path = Path()


class Outbox:
    """The directory of the reports. Any thread may add; one thread does the rest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, item: OutboxItem) -> Path:
        """Atomic and durable.

        :raises OSError: the report is not stored
        """
        name = f'{item.kind}-{time.time_ns():020}-{item.token}'
        path = self._directory / (name + _SUFFIX)
        document = dataclasses.asdict(item) | {'version': _VERSION}
        del document['path']
        private.write_json(path, document)
        return path

    def __iter__(self) -> Iterator[OutboxItem]:
        """The oldest first, backups before sessions."""
        for path in sorted(self._directory.glob(f'*{_SUFFIX}')):
            convert = functools.partial(OutboxItem, path=path)
            item = private.read_json(path, _VERSION, convert)
            if item is not None:
                yield item

    def __len__(self) -> int:
        return sum(1 for _path in self._directory.glob(f'*{_SUFFIX}'))

    def delete(self, item: OutboxItem) -> None:
        item.path.unlink(missing_ok=True)

    def reject(self, item: OutboxItem) -> Path:
        """Set aside a report that freezer-api will never accept, for the operator."""
        path = item.path.with_suffix(_REJECTED)
        item.path.replace(path)
        return path
