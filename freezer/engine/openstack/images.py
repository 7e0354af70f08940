"""The API of Glance, version 2.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
import json
import logging
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from freezer.engine.openstack.service import UPLOAD_TIMEOUT, Service, cloud_errors_but
from freezer.exceptions import CloudError
from freezer.storage.exceptions import IncompleteAnswer, MalformedAnswer, NotFound
from freezer.utils.progress import Progress

LOG = logging.getLogger(__name__)

#: an image, as the API shows it
Record = Mapping[str, Any]

# What is lost of a connection that breaks off is less than this.
_BLOCK = 1 << 18
_PAGE = 100
_RANGE = re.compile(r'bytes (\d+)-\d+/(\d+|\*)\Z')
_PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
_STREAM = {'Content-Type': 'application/octet-stream'}


class Images:
    """The images that the credentials can see."""

    def __init__(self, cloud: str | None, budget: float, progress: Progress) -> None:
        self._service = Service(cloud, 'image', 'Glance', '2', budget, progress)
        self._progress = progress

    @property
    def project(self) -> str:
        """The ID of the project that the credentials are for."""
        return self._service.project

    def get(self, image_id: str) -> Record:
        """:raises CloudError: there is no such image, or it cannot be read"""
        return _checked(self._service.document('GET', _path(image_id)))

    def find(self, **filters: str) -> list[Record]:
        """The images with these properties, hidden ones as well, in no order."""
        return [
            record
            for hidden in ('false', 'true')
            for record in self._pages({**filters, 'os_hidden': hidden})
        ]

    def _pages(self, filters: Mapping[str, str]) -> Iterator[Record]:
        query: dict[str, str] = {**filters, 'limit': str(_PAGE)}
        while True:
            page = self._service.document('GET', '/images', params=query)
            yield from map(_checked, page.get('images', ()))
            if 'next' not in page:
                return
            query = dict(parse_qsl(urlsplit(page['next']).query))

    def blocks(self, image_id: str, size: int) -> Generator[bytes, None, None]:
        """The data of an image. A download that breaks off is resumed where it ended.

        :param size: bytes of the image
        :raises CloudError: it cannot be downloaded, or has another size
        """
        position = 0
        while True:
            try:
                with (
                    cloud_errors_but(IncompleteAnswer),
                    contextlib.closing(self._opened(image_id, position, size)) as rest,
                ):
                    for block in rest:
                        position += len(block)
                        yield block
                return
            except IncompleteAnswer as error:
                LOG.warning('%s; resuming at byte %d', error.message, position)
                self._progress.retry()

    def _opened(
        self, image_id: str, position: int, size: int
    ) -> Generator[bytes, None, None]:
        """The rest of an image, from one connection.

        The first block is read as a part of the request that may be repeated: a
        connection that only opens is no progress.
        """

        def attempt() -> tuple[bytes, Generator[bytes, None, None]]:
            blocks = self._connected(image_id, position, size)
            return next(blocks, b''), blocks

        first, rest = self._service.run(attempt)
        with contextlib.closing(rest):
            if first:
                yield first
            yield from rest

    def _connected(
        self, image_id: str, position: int, size: int
    ) -> Generator[bytes, None, None]:
        """:raises StorageException: the request fails, or the answer breaks off"""
        headers = {'Accept': 'application/octet-stream', 'Accept-Encoding': 'identity'}
        if position:
            headers['Range'] = f'bytes={position}-'
        response = self._service.request(
            'GET', f'{_path(image_id)}/file', headers=headers, stream=True
        )
        with contextlib.closing(response):
            # A service that does not know ranges begins at the start again.
            skip = position if response.status_code == 200 else 0
            if response.status_code == 206:
                _check_range(response.headers.get('Content-Range', ''), position, size)
            received = position - skip
            with self._service.reading():
                for block in response.iter_content(_BLOCK):
                    received += len(block)
                    if received > size:
                        raise MalformedAnswer(
                            f'Glance sends more than the {size} bytes of image '
                            f'{image_id}'
                        )
                    rest = block[skip:]
                    skip = max(0, skip - len(block))
                    if rest:
                        yield rest
            if received < size:
                raise IncompleteAnswer(
                    f'Glance sent {received} of the {size} bytes of image {image_id}'
                )

    def create(self, fields: Record) -> Record:
        """A new image, without data.

        :raises CloudError: Glance refuses it
        """
        return _checked(self._service.document('POST', '/images', json=fields))

    def upload(self, image_id: str, body: Any) -> None:
        """Send the data of a new image.

        :param body: blocks, with the size of all as its length
        :raises StorageException: Glance does not take all of it
        """
        self._service.request_once(
            'PUT',
            f'{_path(image_id)}/file',
            data=body,
            headers=_STREAM,
            timeout=UPLOAD_TIMEOUT,
        )

    def update(self, image_id: str, changes: Sequence[Mapping[str, Any]]) -> None:
        """Apply a JSON patch.

        :raises CloudError: Glance refuses it
        """
        self._service.call(
            'PATCH', _path(image_id), data=json.dumps(changes), headers=_PATCH
        )

    def delete(self, image_id: str) -> None:
        """Delete an image, if it is there.

        :raises CloudError: it cannot be deleted
        """

        def attempt() -> None:
            with contextlib.suppress(NotFound):
                self._service.request('DELETE', _path(image_id))

        self._service.run(attempt)


def _checked(record: Record) -> Record:
    """:raises CloudError: it has not the keys of an image"""
    for key in ('id', 'name', 'status', 'size'):
        if key not in record:
            raise CloudError(f'Glance has an image without {key}: use a newer Glance')
    return record


def _path(image_id: str) -> str:
    return f'/images/{quote(image_id, safe="")}'


def _check_range(header: str, position: int, size: int) -> None:
    """:raises MalformedAnswer: a part of the image is sent that was not requested"""
    match = _RANGE.match(header)
    if match is None or int(match[1]) != position or match[2] not in ('*', str(size)):
        raise MalformedAnswer(
            f'Glance answered a request for the bytes from {position} of {size} with '
            f'{header!r}'
        )
