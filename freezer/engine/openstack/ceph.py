"""Images of Ceph RBD, read and written with librbd.

Imported when it is used: it needs ``rados`` and ``rbd``, Python modules that come with
Ceph and not from PyPI.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import rados
import rbd

from freezer.engine.blocks.source import Image
from freezer.engine.blocks.target import Target
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block
from freezer.utils.text import printable

#: kind of an attachment of Cinder
KIND: Final = 'rbd'
# Seconds until a cluster must answer: to a new client, and to a request.
_CONNECT: Final = 15
_REQUEST: Final = 300
# Bytes whose extents are requested at once; also those that are zeroed at once, so that
# a signal interrupts.
_WINDOW: Final = 1 << 30


class Connection:
    """A connection to the cluster of an attachment.

    Settings and keys come from the configuration of Ceph on this machine, if there is
    one; the monitors from Cinder.

    :param info: connection_info of the attachment
    :raises EngineError: the cluster cannot be reached, or refuses the key
    """

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._pool, _slash, self._name = str(info['name']).partition('/')
        settings = {
            'mon_host': ','.join(map(_address, info['hosts'], info['ports'])),
            'client_mount_timeout': str(_CONNECT),
            'rados_mon_op_timeout': str(_REQUEST),
            'rados_osd_op_timeout': str(_REQUEST),
            # The only client, which flushes at the end.
            'rbd_cache_writethrough_until_flush': 'false',
        }
        if not info.get('auth_enabled'):
            settings['auth_client_required'] = 'none'
        user = info.get('auth_username') or 'admin'
        with _errors(f'Ceph at {settings["mon_host"]}, as client.{user}'):
            self._cluster = _cluster(str(user), settings)
            try:
                self._cluster.connect(timeout=_CONNECT)
                self._pool_context = self._cluster.open_ioctx(self._pool)
            except BaseException:
                self._cluster.shutdown()
                raise

    def image(self) -> 'RbdImage':
        """Open the image for reading."""
        return RbdImage(self._opened(True), self.label)

    def target(self) -> 'RbdTarget':
        """Open the image for writing."""
        return RbdTarget(self._opened(False), self.label)

    @property
    def label(self) -> str:
        return printable(f'{self._pool}/{self._name}')

    def _opened(self, read_only: bool) -> Any:
        with _errors(self.label):
            return rbd.Image(self._pool_context, self._name, read_only=read_only)

    def close(self) -> None:
        self._pool_context.close()
        self._cluster.shutdown()


def _cluster(user: str, settings: Mapping[str, str]) -> Any:
    try:
        # That of CEPH_CONF, or /etc/ceph/ceph.conf.
        return rados.Rados(rados_id=user, conffile='', conf={**settings})
    except rados.ObjectNotFound:
        return rados.Rados(rados_id=user, conf={**settings})


def _address(host: str, port: object) -> str:
    bare = ':' in host and not host.startswith('[')
    return f'[{host}]:{port}' if bare else f'{host}:{port}'


class RbdImage(Image):
    """
    :param image: of rbd, open for reading
    """

    def __init__(self, image: Any, label: str) -> None:
        self._image = image
        self._label = label
        with _errors(label):
            self.size = int(image.size())

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """What is allocated, in the image and in those that it was cloned from."""
        for start in range(0, self.size, _WINDOW):
            found: list[tuple[int, int]] = []

            def add(offset: int, length: int, exists: bool) -> None:
                if exists:
                    found.append((offset, offset + length))  # noqa: B023 - called here

            length = min(_WINDOW, self.size - start)
            with _errors(self._label):
                self._image.diff_iterate(start, length, None, add)
            yield from _merged(sorted(found))

    def read(self, offset: int, buffer: memoryview) -> None:
        with _errors(f'{self._label}: byte {offset}'):
            content = self._image.read(offset, len(buffer))
        if len(content) != len(buffer):
            raise EngineError(f'{self._label}: shrank while it was read')
        buffer[:] = content

    def change(self) -> None:
        """Nothing: the image has the data of a snapshot."""

    def close(self) -> None:
        self._image.close()


class RbdTarget(Target):
    """An image of a fixed size. What is written beyond its end is dropped: a level may
    be larger than the newest one, which has room.

    :param image: of rbd, open for writing, and empty: see :meth:`wipe`
    """

    def __init__(self, image: Any, label: str) -> None:
        self._image = image
        self._label = label
        with _errors(label):
            self._size = int(image.size())

    def check_room(self, size: int) -> None:
        if size > self._size:
            raise EngineError(
                f'the volume has {self._size} bytes, and the backup {size}: restore to '
                f'a larger volume, or to a new one'
            )

    def wipe(self) -> None:
        """Make it empty, as a new one is."""
        self.write_zeros(0, self._size)

    def resize(self, before: int, size: int) -> None:
        if size < before:
            self.write_zeros(size, before - size)

    def clear(self, start: int, end: int) -> None:
        """Nothing: a new one has zeros there, and :meth:`resize` makes some."""

    def write(self, offset: int, content: Block | memoryview) -> None:
        kept = bytes(memoryview(content)[: self._room(offset)])
        if kept:
            with _errors(f'{self._label}: byte {offset}'):
                self._image.write(kept, offset)

    def write_zeros(self, offset: int, length: int) -> None:
        """Not by discard, which leaves old bytes at the borders of objects."""
        end = offset + min(length, self._room(offset))
        while offset < end:
            part = min(_WINDOW, end - offset)
            with _errors(f'{self._label}: byte {offset}'):
                self._image.write_zeroes(offset, part)
            offset += part

    def _room(self, offset: int) -> int:
        return max(self._size - offset, 0)

    def sync(self) -> None:
        with _errors(self._label):
            self._image.flush()

    def close(self) -> None:
        self._image.close()


def _merged(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted ranges, with those that touch each other as one."""
    first, last = 0, 0
    for start, end in ranges:
        if start > last:
            if first < last:
                yield first, last
            first = start
        last = max(last, end)
    if first < last:
        yield first, last


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except (rados.Error, rbd.Error) as error:
        raise EngineError(f'{what}: {printable(str(error))}') from error
