"""Sizes and digests of a backup's stream as it is stored. Pure functions.

A stream is stored as one or more *volumes*; a volume is written in *parts* of one size
(the last may be shorter), and each part is cut into *pieces* of at most 32 MiB. Each
piece has a digest, so a reader holds one piece, not one part, until it is verified.

The digests of one volume are an object of their own: one lower-case hexadecimal digest
per line, in order. The manifest names it, and its SHA-256; the digest of the whole
stream is the SHA-256 of all digests objects, concatenated. So a backup can be checked
with ``dd``, ``sha256sum`` or ``b3sum``, and ``cat``, and neither writer nor reader ever
holds more than the digests of one volume.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from freezer.storage import digests as algorithms
from freezer.storage import layout
from freezer.storage.exceptions import (
    IntegrityError,
    ManifestError,
    StorageConfigError,
    StorageException,
)

VERSION = 1
MAX_PIECE = 32 * 1024 * 1024
# Key in the marker: the token of the manifest of the level's only stream.
MARKER_KEY = 'manifest'
# Key in the marker: the parts, in order; each has its name, and the token of its
# manifest under MARKER_KEY.
PARTS_KEY = 'parts'
# Key in the marker: the SHA-256 of the engine's file.
STATE_KEY = 'engine_metadata_sha256'
# Key in the marker: size and digest of the index, if there is one (``index_file.py``).
INDEX_KEY = 'index'
# Key in the marker: the SHA-256 of its other content.
CONTENT_KEY = 'content_sha256'
#: what the storage adds to the engine's content of the marker
STORAGE_KEYS = (MARKER_KEY, PARTS_KEY, STATE_KEY, INDEX_KEY, CONTENT_KEY)
# Keys of the engine's content, in format age: the SHA-256 of identity.age, and the
# encrypted fingerprints of the level.
IDENTITY_KEY = 'identity_sha256'
SEAL_KEY = 'seal'
# A manifest has about 250 bytes for each volume of 281 GiB: real ones are far smaller.
MAX_MANIFEST_BYTES = 64 * 1024 * 1024

# Small enough to stay in the processor's cache between two copies.
_BLOCK = 256 * 1024
_VIEW = 1024 * 1024

_HEX = re.compile(r'[0-9a-f]{64}\Z')
_VOLUME_NAME = re.compile(r'(data|segments/[0-9]{8})\Z')
_DIGESTS_NAME = re.compile(r'digests/[0-9]{8}\Z')


class Piece(NamedTuple):
    """Bytes ``start`` to ``end`` (exclusive) of a volume, and their digest if known."""

    start: int
    end: int
    digest: bytes | None
    algorithm: str = algorithms.SHA256


class Read(NamedTuple):
    """A piece that was read: its bytes, or the error.

    The bytes are valid until the next piece is requested: then their memory is reused.
    """

    piece: Piece
    data: bytes | bytearray | memoryview | StorageException


@dataclasses.dataclass(frozen=True)
class Volume:
    """One object or file of a stream. Sizes in bytes.

    :param etag: as the store returned it, with quotes; None if it has none
    :param digests: the digests object's name below the level's folder
    :param digest: SHA-256 of the digests object, hexadecimal
    :param algorithm: of the digests of its pieces
    """

    name: str
    size: int
    part_size: int
    etag: str | None
    digests: str
    digest: str
    algorithm: str = algorithms.SHA256

    @property
    def digests_size(self) -> int:
        """Bytes of its digests object: 65 for each line."""
        return 65 * piece_count(self.size, self.part_size)

    def part_at(self, position: int) -> int:
        """The number, from 1, of the part that holds a byte."""
        return position // self.part_size + 1

    def pieces(self, digests: bytes, where: str = '') -> Iterator[Piece]:
        """The pieces in order, each with its digest.

        :param digests: the digests object's bytes
        :param where: name of that object in errors
        :raises ManifestError: they are damaged
        """
        subject = f'the digests of {self.name}{where and f" ({where})"}'
        if hashlib.sha256(digests).hexdigest() != self.digest:
            raise ManifestError(f'{subject} are damaged')
        lines = digests.decode('ascii', 'replace').split('\n')
        # Counted before the pieces are listed: a damaged size must not fill the memory.
        if lines.pop() or len(lines) != piece_count(self.size, self.part_size):
            raise ManifestError(f'{subject} do not match its size')
        ranges = piece_ranges(self.size, self.part_size)
        for (start, end), line in zip(ranges, lines, strict=True):
            if not is_digest(line):
                raise ManifestError(f'{subject} are malformed')
            yield Piece(start, end, bytes.fromhex(line), self.algorithm)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The volumes of a backup's stream."""

    token: str
    size: int
    digest: str
    volumes: tuple[Volume, ...]

    def dump(self) -> bytes:
        """As JSON, with the names of the fields as keys; the volumes share one
        algorithm."""
        fields = dataclasses.asdict(self)
        (algorithm,) = {volume.pop('algorithm') for volume in fields['volumes']}
        document = {'version': VERSION, 'algorithm': algorithm, **fields}
        return json.dumps(document, indent=1).encode() + b'\n'


class ManifestBuilder:
    """Collects volumes when they complete; keeps no digests."""

    def __init__(self, token: str, algorithm: str = algorithms.SHA256) -> None:
        self.token = token
        self._algorithm = algorithm
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
        self._volumes.append(
            Volume(
                *(name, size, part_size, etag, digests_name, digest, self._algorithm)
            )
        )

    def finish(self) -> Manifest:
        size = sum(volume.size for volume in self._volumes)
        digest = self._stream.hexdigest()
        return Manifest(self.token, size, digest, tuple(self._volumes))


def digest_part(
    part: bytes | bytearray | memoryview, algorithm: str = algorithms.SHA256
) -> list[bytes]:
    """The digest of each piece of one part, in order."""
    view, digest = memoryview(part), algorithms.function(algorithm)
    return [
        digest(view[start : start + MAX_PIECE])
        for start in range(0, len(view), MAX_PIECE)
    ]


def dump_digests(digests: Iterable[bytes]) -> bytes:
    """The digests object: one hexadecimal line for each."""
    return b''.join(digest.hex().encode() + b'\n' for digest in digests)


def piece_count(size: int, part_size: int) -> int:
    """The number of pieces of a volume of ``size`` bytes."""
    whole_parts, last_part = divmod(size, part_size)
    return whole_parts * -(-part_size // MAX_PIECE) + -(-last_part // MAX_PIECE)


def piece_ranges(size: int, part_size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each piece of a volume of ``size`` bytes in uniform parts."""
    for part_start in range(0, size, part_size):
        part_end = min(part_start + part_size, size)
        for start in range(part_start, part_end, MAX_PIECE):
            yield start, min(start + MAX_PIECE, part_end)


def plain_pieces(size: int) -> Iterator[Piece]:
    """The pieces of an object without digests."""
    for start, end in piece_ranges(size, MAX_PIECE):
        yield Piece(start, end, None)


def unwrap(reads: Generator[Read, None, None]) -> Iterator[bytes]:
    """The bytes of pieces, up to the first that could not be read.

    They are copied, so that the caller may keep them.

    :raises StorageException: the error of that piece
    """
    for view in views(reads):
        for start in range(0, len(view), _BLOCK):
            yield bytes(view[start : start + _BLOCK])


def views(reads: Generator[Read, None, None]) -> Iterator[memoryview]:
    """As :func:`unwrap`, not copied: each is valid until the next one is requested."""
    with contextlib.closing(reads):
        for _piece, data in reads:
            if isinstance(data, StorageException):
                raise data
            view = memoryview(data)
            for start in range(0, len(view), _VIEW):
                yield view[start : start + _VIEW]


def check_piece(data: bytes | bytearray | memoryview, piece: Piece) -> bool:
    """Whether these are the piece's bytes; if it has no digest, only by their size."""
    if len(data) != piece.end - piece.start:
        return False
    if piece.digest is None:
        return True
    return algorithms.function(piece.algorithm)(data) == piece.digest


def is_digest(text: str) -> bool:
    """Whether it is 32 bytes as lower-case hexadecimal digits."""
    return _HEX.match(text) is not None


def damaged(where: str, piece: Piece) -> IntegrityError:
    """The error for a piece that is wrong each time it is read."""
    return IntegrityError(
        f'{where}: bytes {piece.start} to {piece.end - 1} are not the bytes that were '
        f'written: the backup is damaged there'
    )


def load(document: bytes, where: str) -> Manifest:
    """Parse a manifest.

    :param where: its name in errors
    :raises ManifestError: not a manifest, an unknown version, or inconsistent
    """
    try:
        raw = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f'{where}: not a manifest: {error}') from error
    try:
        found = _from_json(raw)
        algorithms.function(found.volumes[0].algorithm)
        return found
    except _Malformed as error:
        raise ManifestError(f'{where}: {error}') from error
    except StorageConfigError as error:
        raise StorageConfigError(f'{where}: {error.message}') from error


def commit_marker(
    marker: Mapping[str, Any],
    tokens: Mapping[str, str],
    state: bytes,
    index: Mapping[str, Any] | None = None,
) -> bytes:
    """The commit marker as it is stored: it names the files that belong to it.

    So a lost manifest or part, a changed engine's file or a damaged index is detected.
    Freezer 19 reads the marker's first line as JSON and ignores unknown keys.

    :param marker: the engine's content
    :param tokens: name of each stream -> token of its manifest, in order; the only
        stream of a level without parts has the empty name
    :param state: the engine's file
    :param index: what is recorded of the index, if there is one
    """
    document = {
        **marker,
        **_named(tokens),
        STATE_KEY: hashlib.sha256(state).hexdigest(),
    }
    if index is not None:
        document[INDEX_KEY] = dict(index)
    return whole(document)


def indexed_marker(
    stored: Mapping[str, Any], marker: Mapping[str, Any], index: Mapping[str, Any]
) -> bytes:
    """The commit marker of a level that gets an index later.

    :param stored: its marker so far; what the storage added is kept, as far as it is
        there: Freezer 19 adds nothing
    :param marker: the engine's content
    :param index: what is recorded of the index
    """
    keys = MARKER_KEY, PARTS_KEY, STATE_KEY
    kept = {key: stored[key] for key in keys if key in stored}
    return whole({**marker, **kept, INDEX_KEY: dict(index)})


def _named(tokens: Mapping[str, str]) -> dict[str, Any]:
    if '' in tokens:
        return {MARKER_KEY: tokens['']}
    parts = [{'name': name, MARKER_KEY: token} for name, token in tokens.items()]
    return {PARTS_KEY: parts}


def stream_tokens(marker: Mapping[str, Any], where: str) -> dict[str, str | None]:
    """Name of each stream -> token of its manifest, in order, as a marker has them.

    The only stream of a level without parts has the empty name. One of Freezer 19 has
    no manifest.

    :param where: name of the marker in errors
    :raises IntegrityError: the parts are malformed
    """
    if PARTS_KEY not in marker:
        return {'': marker.get(MARKER_KEY)}
    try:
        listed = _take(marker, PARTS_KEY, list)
        found = {
            _take(each, 'name', str): _take(each, MARKER_KEY, str) for each in listed
        }
        are_names = all(map(layout.PART_NAME.match, found))
        if MARKER_KEY in marker or not are_names or not 0 < len(found) == len(listed):
            raise _Malformed(f'{PARTS_KEY} is missing or malformed')
    except _Malformed as error:
        raise IntegrityError(f'{where} is damaged: {error}') from error
    return found


def whole(document: Mapping[str, Any]) -> bytes:
    """A marker with the digest of its content."""
    return json.dumps({**document, CONTENT_KEY: _content_digest(document)}).encode()


def is_whole(marker: Mapping[str, Any]) -> bool:
    """Whether a marker has the content that it was written with.

    One of Freezer 19, or of an earlier version, has no digest.
    """
    if CONTENT_KEY not in marker:
        # They came with the same version.
        return IDENTITY_KEY not in marker
    return bool(marker[CONTENT_KEY] == _content_digest(marker))


def _content_digest(marker: Mapping[str, Any]) -> str:
    """The same for every order of keys: a store or a tool may write it again."""
    content = {key: value for key, value in marker.items() if key != CONTENT_KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_state(state: bytes, marker: Mapping[str, Any], where: str) -> bytes:
    """The engine's file, verified with the digest in the marker.

    A marker of Freezer 19 has none.

    :raises IntegrityError: it differs from the file that was written
    """
    expected = marker.get(STATE_KEY, '')
    if expected and hashlib.sha256(state).hexdigest() != expected:
        raise IntegrityError(f'{where} differs from the file that was written')
    return state


def is_identity(identity: bytes, marker: Mapping[str, Any]) -> bool:
    """Whether it is the file with the key of the chain that a marker names.

    One of an earlier version names none.
    """
    expected = marker.get(IDENTITY_KEY)
    return expected is None or expected == hashlib.sha256(identity).hexdigest()


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
            f'unknown version {version}, this agent supports {VERSION}: restore with '
            f'the agent that wrote it, or a newer one'
        )
    algorithm = _take(raw, 'algorithm', str)
    if algorithm not in algorithms.NAMES:
        raise _Malformed('unknown digest algorithm')
    volumes = tuple(_volume(v, algorithm) for v in _take(raw, 'volumes', list))
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


def _volume(raw: Any, algorithm: str) -> Volume:
    etag = raw.get('etag') if isinstance(raw, dict) else None
    if etag is not None and not isinstance(etag, str):
        raise _Malformed('etag is malformed')
    volume = Volume(
        name=_take(raw, 'name', str),
        size=_take(raw, 'size', int),
        part_size=_take(raw, 'part_size', int),
        etag=etag,
        digests=_take(raw, 'digests', str),
        digest=_hex(_take(raw, 'digest', str)),
        algorithm=algorithm,
    )
    if volume.size < 0 or volume.part_size < 1:
        raise _Malformed('a size is negative')
    if not _VOLUME_NAME.match(volume.name) or not _DIGESTS_NAME.match(volume.digests):
        raise _Malformed('a volume has an invalid name')
    return volume


def _hex(value: str) -> str:
    if not is_digest(value):
        raise _Malformed('a digest is malformed')
    return value
