"""Encrypts levels in format age, and seals them against tampering.

The levels of a chain are encrypted for one key. A file with that key, encrypted with
the passphrase, is beside the data of each. The data and the engine's file are age
files, so neither can be changed. The *seal*, a third age file in the commit marker,
binds both to their level and to the level it builds on, so none can be exchanged for
another.

Without the chain key nobody can forge a level: no file contains its public half.
"""

import base64
import contextlib
import json
import threading
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from freezer.exceptions import EncryptionError, TamperedError
from freezer.storage import layout, levels, manifest
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.storage.manifest import SEAL_KEY
from freezer.stream import age
from freezer.utils.blocks import Block
from freezer.utils.ranges import RangedStream
from freezer.utils.text import NOTICES


@dataclass(frozen=True)
class ChainKey:
    """The key of a chain, and the content of its file, which is encrypted."""

    key: age.Key
    file: bytes


class Keyring:
    """Decrypts key files. Each is read once, and decrypted once even if all levels of a
    chain have the same, because that takes memory and time.

    :param replaces: whether a file that is missing or damaged is replaced by the same
        file of another level
    """

    def __init__(self, passphrase: bytes, replaces: bool = True) -> None:
        self._passphrase = passphrase
        self._replaces = replaces
        self._opened: dict[bytes, ChainKey] = {}
        self._known: dict[str, ChainKey] = {}
        self._unlocking = threading.Lock()

    def make(self) -> ChainKey:
        """Generate a key for a new chain."""
        key = age.Key.generate()
        return ChainKey(key, age.lock(self._passphrase, key.dump()))

    def key_of(self, stored: StoredLevel) -> ChainKey:
        """The key that a level is encrypted for.

        If its file is missing or damaged, the same file of another level serves, with
        a notice.

        :raises NotFound: its file is missing
        :raises EncryptionError: it does not open: wrong passphrase, or damaged
        """
        where = stored.paths.identity
        if where not in self._known:
            try:
                self._known[where] = self.own_key_of(stored)
            except (NotFound, EncryptionError) as error:
                found = self.key_elsewhere(stored) if self._replaces else None
                if found is None:
                    raise
                other, self._known[where] = found
                NOTICES.warning(
                    '%s; used %s of level %d instead',
                    error,
                    other.paths.identity,
                    other.level,
                )
        return self._known[where]

    def own_key_of(self, stored: StoredLevel) -> ChainKey:
        """The key in the file of the level itself.

        :raises NotFound: it is missing
        :raises EncryptionError: it does not open: wrong passphrase, or damaged
        """
        try:
            return self._open(stored.identity, stored.paths.identity)
        except IntegrityError as error:
            # Far larger than such a file.
            raise TamperedError(error.message) from error

    def key_elsewhere(self, stored: StoredLevel) -> tuple[StoredLevel, ChainKey] | None:
        """Another level of the chain whose file opens, and the key in it."""
        tried = set()
        with contextlib.suppress(StorageException):
            tried.add(stored.identity)
        for other, file in levels.identities_elsewhere(stored):
            # Each takes memory and time.
            if file not in tried:
                tried.add(file)
                with contextlib.suppress(EncryptionError):
                    return other, self._open(file, other.paths.identity)
        return None

    def _open(self, file: bytes, where: str) -> ChainKey:
        # Several threads may open levels of one chain.
        with self._unlocking:
            if file not in self._opened:
                content = age.unlock(self._passphrase, file, where)
                self._opened[file] = ChainKey(age.Key.parse(content, where), file)
        return self._opened[file]


@dataclass(frozen=True)
class _Seal:
    """What a seal binds together: the files of a level, and its place.

    :param level: the level's folder below ``data``
    :param base: the folder of the level it builds on; None at level 0
    :param marker: the engine's content of the marker, without the seal
    :param engine_metadata: fingerprint of the engine's file
    :param data: fingerprint of the only stream; None for a level with parts
    :param parts: fingerprint of the stream of each part, in order
    :param index: fingerprint of the index; None without one, as in earlier versions
    """

    level: str
    base: str | None
    marker: dict[str, Any]
    engine_metadata: str
    data: str | None = None
    parts: dict[str, str] | None = None
    index: str | None = None

    @property
    def streams(self) -> dict[str, str]:
        """Fingerprint of each stream; the only one has the empty name."""
        return (self.parts or {}) if self.data is None else {'': self.data}

    def dump(self) -> bytes:
        record = asdict(self)
        for name in ('data', 'parts', 'index'):
            if record[name] is None:
                # Earlier versions know neither parts nor an index.
                del record[name]
        return json.dumps(record).encode()


class Sealer:
    """Encrypts one level, then seals it.

    :param base: the level it builds on
    """

    def __init__(self, key: ChainKey, backup: Backup, base: Backup | None) -> None:
        self.file = key.file
        self._key = key.key
        self._level = backup.path
        self._base = None if base is None else base.path
        self._streams: dict[str, str] = {}
        self._engine_metadata = ''
        self._index: str | None = None

    def data(
        self, blocks: Iterable[Block], part: str = ''
    ) -> Generator[Block, None, None]:
        """A stream, encrypted; ``part`` is its name in a level with parts."""
        encrypted = age.encrypt(self._key, blocks)
        self._streams[part] = encrypted.fingerprint
        return encrypted.blocks

    def engine_metadata(self, content: bytes) -> bytes:
        encrypted = age.encrypt(self._key, [content])
        self._engine_metadata = encrypted.fingerprint
        return b''.join(encrypted.blocks)

    def index(self, blocks: Iterable[Block]) -> Generator[Block, None, None]:
        """The encrypted index."""
        encrypted = age.encrypt(self._key, blocks)
        self._index = encrypted.fingerprint
        return encrypted.blocks

    def sealed(self, marker: dict[str, Any]) -> dict[str, Any]:
        """The marker with the seal of the streams, the engine's file and the index."""
        assert self._streams
        assert self._engine_metadata
        seal = _Seal(
            self._level,
            self._base,
            marker,
            self._engine_metadata,
            self._streams.get(''),
            None if '' in self._streams else self._streams,
            self._index,
        )
        encrypted = b''.join(age.encrypt(self._key, [seal.dump()]).blocks)
        return {**marker, SEAL_KEY: base64.b64encode(encrypted).decode('ascii')}


class SealedLevel:
    """A level whose seal has been checked.

    :raises TamperedError: its marker was changed or replaced
    """

    def __init__(self, key: ChainKey, stored: StoredLevel) -> None:
        self.key = key
        self._stored = stored
        where = stored.paths.marker
        self._seal = _open_seal(key.key, stored.marker, where)
        if self._seal.level != stored.backup.path:
            raise TamperedError(
                f'{where}: was replaced by the marker of {self._seal.level}'
            )
        # The storage adds its token and digests: if one of them is changed, the
        # manifest, the engine's file or the index does not match it.
        found = {
            name: value
            for name, value in stored.marker.items()
            if name not in (SEAL_KEY, *manifest.STORAGE_KEYS)
        }
        if self._seal.marker != found:
            raise TamperedError(f'{where}: was modified or damaged')
        try:
            streams = list(stored.streams)
        except IntegrityError as error:
            raise TamperedError(error.message) from error
        if streams != list(self._seal.streams):
            raise TamperedError(
                f'{where}: names other parts than its seal: it was modified or damaged'
            )

    def check_base(self, base: StoredLevel | None) -> None:
        """
        :param base: the level it will be extracted on
        :raises TamperedError: it was made on another one
        """
        if self._seal.base != (None if base is None else base.backup.path):
            raise TamperedError(
                f'{self._stored!r}: builds on {self._seal.base}, which was deleted or '
                f'replaced'
            )

    def sealer(self) -> Sealer:
        """To encrypt another index for the level, and seal it again.

        Its marker is what :meth:`Sealer.sealed` returns for :attr:`content`.
        """
        sealer = Sealer(self.key, self._stored.backup, None)
        sealer._base = self._seal.base
        sealer._streams = self._seal.streams
        sealer._engine_metadata = self._seal.engine_metadata
        return sealer

    @property
    def content(self) -> dict[str, Any]:
        """The engine's content of the marker, without the seal."""
        return dict(self._seal.marker)

    def data(
        self, blocks: Iterable[Block], part: str = ''
    ) -> Generator[Block, None, None]:
        """A stream, decrypted; raises TamperedError where it was changed."""
        where = self._stored.paths.stream(part).folder
        return age.decrypt(self.key.key, blocks, where, self._seal.streams[part])

    def data_ranges(self, stream: RangedStream) -> RangedStream:
        """The only stream, decrypted where it is read.

        :raises TamperedError: it was changed
        """
        where = self._stored.paths.folder
        return age.Decrypted(stream, self.key.key, where, self._seal.streams[''])

    def index(self, stream: RangedStream | None) -> RangedStream | None:
        """The index, decrypted where it is read; None if the level has none.

        :param stream: the stored one; None if the marker names none
        :raises TamperedError: it was changed, or was there and is not, or the reverse
        """
        marker = self._stored.paths.marker
        if (stream is None) != (self._seal.index is None):
            what = 'does not name its' if stream is None else 'names an'
            raise TamperedError(
                f'{marker}: {what} index, unlike its seal: it was modified or damaged'
            )
        if stream is None:
            return None
        path = self._stored.paths.file(layout.INDEX)
        return age.Decrypted(stream, self.key.key, path, self._seal.index)

    def engine_metadata(self) -> bytes:
        """The engine's file, decrypted.

        :raises NotFound: it is missing
        :raises TamperedError: it was changed
        """
        path = self._stored.paths.engine_metadata
        content = self._stored.engine_metadata()
        expected = self._seal.engine_metadata
        decrypted = b''.join(age.decrypt(self.key.key, [content], path, expected))
        try:
            manifest.check_state(content, self._stored.marker, path)
        except IntegrityError as error:
            raise TamperedError(error.message) from error
        return decrypted


def _open_seal(key: age.Key, marker: Mapping[str, Any], where: str) -> _Seal:
    where = f'{where}: its seal'
    text = marker.get(SEAL_KEY)
    sealed = b''
    if isinstance(text, str):
        # Without valid Base64 the content is empty, which is not an age file.
        with contextlib.suppress(ValueError):
            sealed = base64.b64decode(text)
    record = b''.join(age.decrypt(key, [sealed], where))
    try:
        seal = _Seal(**json.loads(record))
    except (TypeError, ValueError) as error:
        # Another file that was encrypted for this key.
        raise TamperedError(f'{where}: was replaced by another file') from error
    if base64.b64encode(sealed).decode('ascii') != text:
        raise TamperedError(f'{where}: was modified or damaged')
    return seal
