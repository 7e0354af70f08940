"""Volumes in the Cinder of a test, by requests of the test's own."""

import hashlib
import random
import time
from collections.abc import Callable
from typing import Any

import keystoneauth1.exceptions

from freezer.tests.servers.cinder import Cinder

_MICROVERSION = {'OpenStack-API-Version': 'volume 3.54'}
_PATIENCE = 240
_MIB = 1 << 20
_CHUNK = 1 << 16


class Volumes:
    """The volumes of one user, who is a member of the project with the same name."""

    def __init__(self, cinder: Cinder, user: str) -> None:
        self.cinder = cinder
        self.env: dict[str, str | None] = {**cinder.cloud.environ(user)}
        self._session = cinder.cloud.session(user)

    @property
    def project(self) -> str:
        found: str = self._session.get_project_id()
        return found

    def call(self, method: str, path: str, **request: Any) -> Any:
        answer = self._session.request(
            f'{self.cinder.endpoint}/v3/{self.project}{path}',
            method,
            # keystoneauth adds to the headers.
            headers={**_MICROVERSION},
            **request,
        )
        return answer.json() if answer.content else None

    def create(self, **fields: Any) -> str:
        """The ID of a volume that is ready."""
        body = {'volume': {'size': 1, **fields}}
        made: str = self.call('POST', '/volumes', json=body)['volume']['id']
        self.wait('volume', made)
        return made

    def get(self, kind: str, item: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call('GET', f'/{kind}s/{item}')[kind]
        return found

    def listed(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call('GET', f'/{kind}s/detail')[f'{kind}s']
        return found

    def wait(self, kind: str, item: str, status: str = 'available') -> None:
        def is_so() -> bool:
            found = self.get(kind, item)
            assert found['status'] != 'error', found
            return bool(found['status'] == status)

        self.until(is_so)

    def until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not is_so():
            assert time.monotonic() < end
            time.sleep(0.1)

    def delete(self, kind: str, item: str) -> None:
        """Delete, and wait until it is gone."""
        self.call('DELETE', f'/{kind}s/{item}')

        def is_gone() -> bool:
            try:
                self.get(kind, item)
            except keystoneauth1.exceptions.NotFound:
                return True
            return False

        self.until(is_gone)

    def delete_all(self) -> None:
        """The backups, the newest first, then snapshots and volumes."""
        backups = sorted(self.listed('backup'), key=lambda each: each['created_at'])
        for each in reversed(backups):
            self.delete('backup', each['id'])
        for kind in ('snapshot', 'volume'):
            for each in self.listed(kind):
                self.delete(kind, each['id'])


def digest(cinder: Cinder, volume: str) -> tuple[int, str]:
    """Size and hash of a volume; holes are not read."""
    chunks: set[int] = set()

    def add(start: int, length: int, _here: bool) -> None:
        chunks.update(range(start // _CHUNK, -(-(start + length) // _CHUNK)))

    content = hashlib.sha256()
    with cinder.volume(volume) as image:
        size: int = image.size()
        image.diff_iterate(0, size, None, add)
        for number in sorted(chunks):
            data = image.read(number * _CHUNK, _CHUNK)
            if any(data):
                content.update(b'%d:' % number + data)
    return size, content.hexdigest()


def left_over(user: Volumes) -> list[str]:
    """The names of temporary volumes and snapshots."""
    return [
        each['name']
        for kind in ('volume', 'snapshot')
        for each in user.listed(kind)
        if each['name'].startswith('freezer-temporary')
    ]


def change(cinder: Cinder, volume: str, seed: int) -> None:
    """Scattered writes, unaligned ones too, and a discarded range."""
    chance = random.Random(seed)
    with cinder.volume(volume) as image:
        for _number in range(12):
            place = chance.randrange(0, 60 * _MIB)
            image.write(chance.randbytes(chance.randrange(1, 20000)), place)
        image.discard(chance.randrange(0, 56) * _MIB, 4 * _MIB)
        image.write(bytes(8192), chance.randrange(0, 15000) * 4096)
