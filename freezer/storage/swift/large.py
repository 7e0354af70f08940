"""Large objects: how the bytes of an object are spread over segments.

The objects of this agent say it in their metadata, so that reading them needs no
listing, which Swift may show late. Those of Freezer 19 are found by listing, as Swift
itself does.
"""

import bisect
import hashlib
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from freezer.storage import layout
from freezer.storage.exceptions import IntegrityError
from freezer.storage.objects import ListedObject

MANIFEST = 'x-object-manifest'
STATIC = 'x-static-large-object'
META = 'x-object-meta-freezer-'
TOKEN = f'{META}token'
_SIZE, _SEGMENT, _ETAG = f'{META}size', f'{META}segment-size', f'{META}etag'


class Span(NamedTuple):
    """Bytes ``start`` to ``end`` (exclusive) of one stored object.

    :ivar path: with its container
    :ivar md5: of all of that object, if the span is all of it and nothing else can
        show whether its bytes are right
    """

    path: str
    start: int
    end: int
    md5: str | None = None

    @property
    def size(self) -> int:
        return self.end - self.start


class StoredObject(NamedTuple):
    """An object, by its metadata.

    :ivar path: with its container
    :ivar token: of this agent
    :ivar segments: paths of the segments, in order, that ``starts`` has the first bytes
        of; empty for an object that is read as it is
    :ivar prefix: of the segments
    :ivar segment_size: of all segments but the last; 0 if they were listed
    :ivar md5s: of listed segments
    """

    path: str
    size: int
    etag: str
    token: str | None = None
    prefix: str = ''
    segment_size: int = 0
    names: Sequence[str] = ()
    starts: Sequence[int] = ()
    md5s: Sequence[str] = ()

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """Where bytes ``start`` to ``end`` are stored, in order."""
        if not self.prefix:
            yield Span(self.path, start, end)
            return
        while start < end:
            number, begin, size = self._segment_at(start)
            stop = min(end, begin + size)
            whole = (start, stop) == (begin, begin + size)
            yield Span(
                self.names[number] if self.names else segment(self.prefix, number),
                start - begin,
                stop - begin,
                self.md5s[number] if whole and self.md5s else None,
            )
            start = stop

    def _segment_at(self, position: int) -> tuple[int, int, int]:
        """(number, first byte, size) of the segment with a byte."""
        if self.segment_size:
            number = position // self.segment_size
            begin = number * self.segment_size
            return number, begin, min(self.segment_size, self.size - begin)
        number = bisect.bisect_right(self.starts, position) - 1
        begin = self.starts[number]
        following = (*self.starts[number + 1 : number + 2], self.size)
        return number, begin, following[0] - begin


def segments_of(key: str, token: str) -> str:
    """The prefix of an object's segments: for the stream, Freezer 19's."""
    folder, _, name = key.rpartition('/')
    if name == layout.DATA:
        return f'{folder}/{layout.SEGMENTS}'
    return f'{key}.{layout.SEGMENTS}/{token}'


def segment(prefix: str, number: int) -> str:
    """:param number: from 0"""
    return f'{prefix}/{number:08d}'


def etag_of(md5s: Sequence[str]) -> str:
    """The ETag that Swift gives an object of segments."""
    return hashlib.md5(''.join(md5s).encode(), usedforsecurity=False).hexdigest()


def headers_of(
    path: str, size: int, segment_size: int, etag: str, token: str
) -> dict[str, str]:
    """Headers of the object that stands for segments.

    :param path: their prefix, with its container
    """
    return {
        MANIFEST: urllib.parse.quote(path),
        TOKEN: token,
        _SIZE: str(size),
        _SEGMENT: str(segment_size),
        _ETAG: etag,
        'content-type': 'application/octet-stream',
    }


def from_headers(path: str, headers: Mapping[str, str]) -> StoredObject:
    """An object by the headers of ``HEAD ?multipart-manifest=get``.

    :returns: with ``prefix`` and no ``segment_size``, its segments have to be listed
    """
    size = number(headers.get('content-length'))
    etag, token = headers.get('etag', '').strip('"'), headers.get(TOKEN)
    prefix = urllib.parse.unquote(headers.get(MANIFEST, ''))
    segment_size = number(headers.get(_SEGMENT))
    if not prefix or not segment_size:
        return StoredObject(path, size, etag, token, prefix)
    return StoredObject(
        path,
        number(headers.get(_SIZE)),
        headers.get(_ETAG, ''),
        token,
        prefix,
        segment_size,
    )


def number(text: str | None) -> int:
    """Of a header; 0 for none."""
    return int(text) if text and text.isdecimal() else 0


def with_segments(
    found: StoredObject, container: str, listed: Sequence[tuple[ListedObject, str]]
) -> StoredObject:
    """An object whose segments were listed.

    :param listed: each with its MD5
    :raises IntegrityError: one in the middle, or the first one, is missing
    """
    starts, position = [], 0
    numbers = [item.key.rpartition('/')[2] for item, _md5 in listed]
    if all(len(number) == 8 and number.isdecimal() for number in numbers):
        for number, name in enumerate(numbers):
            if int(name) != number:
                raise IntegrityError(
                    f'swift://{found.prefix}/{number:08d} is missing: the backup is '
                    f'damaged'
                )
    for item, _md5 in listed:
        starts.append(position)
        position += item.size
    md5s = [md5 for _item, md5 in listed]
    return found._replace(
        size=position,
        etag=etag_of(md5s),
        names=[f'{container}/{item.key}' for item, _md5 in listed],
        starts=starts,
        md5s=md5s,
    )
