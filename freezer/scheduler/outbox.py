"""What freezer-api has to be told, and has not been yet: a file each, until it has.

So nothing waits for freezer-api, and nothing is lost with a process.
"""

import dataclasses
import json
import logging
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.scheduler import private

LOG = logging.getLogger(__name__)

BACKUP, SESSION = 'backup', 'session'
_VERSION = 1
_SUFFIX = '.json'
_REFUSED = '.refused'


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to be told.

    :param kind: BACKUP, or SESSION: that a job has ended in its session
    :param token: nobody else's; it is in the body of a backup
    """

    kind: str
    job_id: str
    project_id: str
    trust_id: str
    token: str
    body: dict[str, Any]
    session_id: str = ''
    path: Path = Path()


class Outbox:
    """The directory of them. Putting is for any thread, the rest for one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, item: Item) -> Path:
        """In one step, and on disk.

        :raises OSError: it is not kept
        """
        name = f'{item.kind}-{time.time_ns():020}-{item.token}'
        path = self._directory / (name + _SUFFIX)
        document = dataclasses.asdict(item) | {'version': _VERSION}
        del document['path']
        private.write_json(path, document)
        return path

    def __iter__(self) -> Iterator[Item]:
        """The oldest first, backups before ends of sessions."""
        for path in sorted(self._directory.glob(f'*{_SUFFIX}')):
            item = self._read(path)
            if item is not None:
                yield item

    def __len__(self) -> int:
        return sum(1 for _path in self._directory.glob(f'*{_SUFFIX}'))

    def done(self, item: Item) -> None:
        item.path.unlink(missing_ok=True)

    def refused(self, item: Item) -> Path:
        """It will never be taken: it stays to be looked at, and is not tried again."""
        path = item.path.with_suffix(_REFUSED)
        item.path.replace(path)
        return path

    def _read(self, path: Path) -> Item | None:
        try:
            given = json.loads(path.read_text(encoding='utf-8'))
            if given.pop('version') != _VERSION:
                raise ValueError('of another version')
            return Item(**given, path=path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            LOG.warning('%s: cannot be read, and stays: %s', path, error)
            return None


def token() -> str:
    return uuid.uuid4().hex
