"""Sizes and digests of what a backup's stream became on storage. Pure.

A stream is stored as one or more *volumes*; a volume is written in *parts* of one size
(the last may be shorter), and each part is cut into *pieces* of at most 32 MiB. A piece
is what one digest covers, so a reader holds one piece, not one part, before it knows
that the bytes are right.

The digests of one volume are an object of their own: one lower-case hexadecimal SHA-256
per line, in order. The manifest names it, and its SHA-256; the digest of the whole
stream is the SHA-256 of all digests objects, one after the other. So a stranger checks
a backup with ``dd``, ``sha256sum`` and ``cat``, and neither writer nor reader ever
holds more than the digests of one volume.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from freezer.storage.exceptions import (
    IntegrityError,
    ManifestError,
    StorageException,
)

VERSION = 1
ALGORITHM = 'sha256'
MAX_PIECE = 32 * 1024 * 1024
MARKER_KEY = 'manifest'
# The SHA-256 of the engine's file, in the marker as well.
STATE_KEY = 'engine_metadata_sha256'
# A manifest has about 250 bytes for each volume of 281 GiB: no honest one comes near.
MAX_MANIFEST_BYTES = 64 * 1024 * 1024

# Small enough to stay in the processor's cache from one copy to the next.
_BLOCK = 256 * 1024

_HEX = re.compile(r'[0-9a-f]{64}\Z')
_VOLUME_NAME = re.compile(r'(data|segments/[0-9]{8})\Z')
_DIGESTS_NAME = re.compile(r'digests/[0-9]{8}\Z')


class Piece(NamedTuple):
    """Bytes ``start`` to ``end`` (exclusive) of a volume, and their digest if known."""

    start: int
    end: int
    digest: bytes | None


class Read(NamedTuple):
    """A piece as it was read: its bytes, or why they are not to be had.

    The bytes are there until the next piece is asked for: then their memory is used
    for another one.
    """

    piece: Piece
    data: bytes | bytearray | memoryview | StorageException


@dataclass(frozen=True)
class Volume:
    """One object or file of a stream. Sizes in bytes.

    :param digests: the digests object's name below the level's folder
    :param digest: SHA-256 of the digests object, hexadecimal
    :param etag: as the store gave it, quotes included; None where there is none
    """

    name: str
    size: int
    part_size: int
    digests: str
    digest: str
    etag: str | None = None

    @property
    def digests_size(self) -> int:
        """Bytes of its digests object: a line is 65."""
        return 65 * piece_count(self.size, self.part_size)

    def part_at(self, position: int) -> int:
        """The number, from 1, of the part that holds a byte."""
        return position // self.part_size + 1

    def pieces(self, digests: bytes, where: str = '') -> Iterator[Piece]:
        """The pieces in order, each with its digest.

        :param digests: the digests object's bytes
        :param where: what to call that object in an error
        :raises ManifestError: they are not this volume's
        """
        said = f'the digests of {self.name}{where and f" ({where})"}'
        if hashlib.sha256(digests).hexdigest() != self.digest:
            raise ManifestError(f'{said} are damaged')
        lines = digests.decode('ascii', 'replace').split('\n')
        # Counted before it is enumerated: a damaged size must not fill the memory.
        if lines.pop() or len(lines) != piece_count(self.size, self.part_size):
            raise ManifestError(f'{said} do not match its size')
        ranges = piece_ranges(self.size, self.part_size)
        for (start, end), line in zip(ranges, lines, strict=True):
            if not _HEX.match(line):
                raise ManifestError(f'{said} are malformed')
            yield Piece(start, end, bytes.fromhex(line))


@dataclass(frozen=True)
class Manifest:
    """What one backup's stream became on storage."""

    token: str
    size: int
    digest: str
    volumes: tuple[Volume, ...]

    def dump(self) -> bytes:
        volumes = [
            {
                'name': v.name,
                'size': v.size,
                'part_size': v.part_size,
                'etag': v.etag,
                'digests': v.digests,
                'digest': v.digest,
            }
            for v in self.volumes
        ]
        document = {
            'version': VERSION,
            'algorithm': ALGORITHM,
            'token': self.token,
            'size': self.size,
            'digest': self.digest,
            'volumes': volumes,
        }
        return json.dumps(document, indent=1).encode() + b'\n'


class ManifestBuilder:
    """Collects volumes as they complete; holds no digests."""

    def __init__(self, token: str) -> None:
        self.token = token
        self._volumes: list[Volume] = []
        self._stream = hashlib.sha256()

    def add(
        self,
        name: str,
        size: int,
        part_size: int,
        digests_name: str,
        digests: bytes,
        etag: str | None = None,
    ) -> None:
        """:param digests: the bytes of the volume's digests object"""
        self._stream.update(digests)
        digest = hashlib.sha256(digests).hexdigest()
        self._volumes.append(Volume(name, size, part_size, digests_name, digest, etag))

    def finish(self) -> Manifest:
        size = sum(volume.size for volume in self._volumes)
        digest = self._stream.hexdigest()
        return Manifest(self.token, size, digest, tuple(self._volumes))


def digest_part(part: bytes | bytearray | memoryview) -> list[bytes]:
    """The digest of each piece of one part, in order."""
    view = memoryview(part)
    return [
        hashlib.sha256(view[start : start + MAX_PIECE]).digest()
        for start in range(0, len(view), MAX_PIECE)
    ]


def dump_digests(digests: Iterable[bytes]) -> bytes:
    """The digests object: one hexadecimal line each."""
    return b''.join(digest.hex().encode() + b'\n' for digest in digests)


def piece_count(size: int, part_size: int) -> int:
    """How many pieces a volume of ``size`` bytes has."""
    whole_parts, last_part = divmod(size, part_size)
    return whole_parts * -(-part_size // MAX_PIECE) + -(-last_part // MAX_PIECE)


def piece_ranges(size: int, part_size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each piece of a volume of ``size`` bytes in uniform parts."""
    for part_start in range(0, size, part_size):
        part_end = min(part_start + part_size, size)
        for start in range(part_start, part_end, MAX_PIECE):
            yield start, min(start + MAX_PIECE, part_end)


def plain_pieces(size: int) -> Iterator[Piece]:
    """The pieces of an object that nobody wrote digests for."""
    for start, end in piece_ranges(size, MAX_PIECE):
        yield Piece(start, end, None)


def unwrap(reads: Generator[Read, None, None]) -> Iterator[bytes]:
    """The bytes of pieces that were read, up to the first that could not be; copied,
    so that who gets them may keep them.

    :raises StorageException: why it could not
    """
    with contextlib.closing(reads):
        for _piece, data in reads:
            if isinstance(data, StorageException):
                raise data
            view = memoryview(data)
            for start in range(0, len(view), _BLOCK):
                yield bytes(view[start : start + _BLOCK])


def check_piece(data: bytes | bytearray | memoryview, piece: Piece) -> bool:
    """Whether these are the piece's bytes; by number only where no digest is known."""
    if len(data) != piece.end - piece.start:
        return False
    return piece.digest is None or hashlib.sha256(data).digest() == piece.digest


def damaged(where: str, piece: Piece) -> IntegrityError:
    """The error for a piece whose bytes stay wrong however often they are read."""
    return IntegrityError(
        f'{where}: bytes {piece.start} to {piece.end - 1} are not the bytes that were '
        f'written: the backup is damaged there'
    )


def load(document: bytes, where: str) -> Manifest:
    """Parse a manifest.

    :param where: what to call it in an error
    :raises ManifestError: not a manifest, an unknown version, or contradictory
    """
    try:
        raw = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f'{where}: not a manifest: {error}') from error
    try:
        return _from_json(raw)
    except _Malformed as error:
        raise ManifestError(f'{where}: {error}') from error


def add_token(marker: Mapping[str, Any], token: str, state: bytes) -> dict[str, Any]:
    """The commit marker, naming the manifest and the engine's file, so that a lost or
    exchanged one is detected.

    Freezer 19 reads the marker's first line as JSON and ignores keys it does not know.

    :param state: the engine's file
    """
    return {
        **marker,
        MARKER_KEY: token,
        STATE_KEY: hashlib.sha256(state).hexdigest(),
    }


def check_state(state: bytes, marker: Mapping[str, Any], where: str) -> bytes:
    """The engine's file, if it is the one that the marker was written with.

    One of Freezer 19 says nothing of it.

    :raises IntegrityError: it is another
    """
    expected = marker.get(STATE_KEY, '')
    if expected and hashlib.sha256(state).hexdigest() != expected:
        raise IntegrityError(f'{where} is not what was written: it is damaged')
    return state


class _Malformed(Exception):
    pass


def _take(raw: Any, key: str, kind: type) -> Any:
    value = raw.get(key) if isinstance(raw, dict) else None
    if type(value) is not kind:
        raise _Malformed(f'{key} is missing or malformed')
    return value


def _from_json(raw: Any) -> Manifest:
    version = _take(raw, 'version', int)
    if version != VERSION:
        raise _Malformed(
            f'version {version} is not known to this agent (it knows {VERSION}): '
            f'restore with the agent that wrote it, or a newer one'
        )
    if _take(raw, 'algorithm', str) != ALGORITHM:
        raise _Malformed('the digest algorithm is not known to this agent')
    volumes = tuple(_volume(v) for v in _take(raw, 'volumes', list))
    manifest = Manifest(
        token=_take(raw, 'token', str),
        size=_take(raw, 'size', int),
        digest=_hex(_take(raw, 'digest', str)),
        volumes=volumes,
    )
    if not volumes or sum(v.size for v in volumes) != manifest.size:
        raise _Malformed('the sizes of the volumes do not add up')
    if len({v.name for v in volumes}) != len(volumes):
        raise _Malformed('a volume is listed twice')
    return manifest


def _volume(raw: Any) -> Volume:
    etag = raw.get('etag') if isinstance(raw, dict) else None
    if etag is not None and not isinstance(etag, str):
        raise _Malformed('etag is malformed')
    volume = Volume(
        name=_take(raw, 'name', str),
        size=_take(raw, 'size', int),
        part_size=_take(raw, 'part_size', int),
        digests=_take(raw, 'digests', str),
        digest=_hex(_take(raw, 'digest', str)),
        etag=etag,
    )
    if volume.size < 0 or volume.part_size < 1:
        raise _Malformed('a size is negative')
    if not _VOLUME_NAME.match(volume.name) or not _DIGESTS_NAME.match(volume.digests):
        raise _Malformed('a volume has a name that no volume has')
    return volume


def _hex(value: str) -> str:
    if not _HEX.match(value):
        raise _Malformed('a digest is malformed')
    return value
