"""Levels in format age: encrypted, and sealed against what somebody else does to them.

The levels of a chain are encrypted for one key. A file with that key, which the
passphrase opens, is beside the data of each. The data and the engine's file are a file
of format age each, so neither can be changed; the *seal*, one more, in the commit
marker, says which two belong to which level, and on what it builds, so none can be put
in the place of another.

What has no key makes nothing that opens: the key's public half is in no file.
"""

import base64
import contextlib
import json
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from freezer.exceptions import TamperedError
from freezer.storage import manifest
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.exceptions import IntegrityError
from freezer.stream import age
from freezer.utils.blocks import Block

SEAL_KEY = 'seal'


@dataclass(frozen=True)
class ChainKey:
    """The key of a chain, and the file it is in."""

    key: age.Key
    file: bytes


class Keyring:
    """Opens files of keys: each is read once, and what is the same in all levels of a
    chain opened once, as that takes memory and time."""

    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase
        self._opened: dict[bytes, ChainKey] = {}
        self._known: dict[str, ChainKey] = {}

    def make(self) -> ChainKey:
        """For a new chain."""
        key = age.Key.generate()
        return ChainKey(key, age.lock(self._passphrase, key.dump()))

    def key_of(self, stored: StoredLevel) -> ChainKey:
        """
        :raises NotFound: the file is not there
        :raises PassphraseError: it does not open
        """
        where = stored.paths.identity
        if where not in self._known:
            file = stored.identity
            if file not in self._opened:
                content = age.unlock(self._passphrase, file, where)
                self._opened[file] = ChainKey(age.Key.parse(content, where), file)
            self._known[where] = self._opened[file]
        return self._known[where]


@dataclass(frozen=True)
class _Seal:
    """What belongs together.

    :param level: the level's folder below ``data``
    :param base: that of the level it builds on; None at level 0
    :param marker: all the engine wrote into the marker beside the seal
    :param data: fingerprint of the stream
    :param engine_metadata: fingerprint of the engine's file
    """

    level: str
    base: str | None
    marker: dict[str, Any]
    data: str
    engine_metadata: str


class Sealer:
    """Encrypts one level, then seals it.

    :param base: what it builds on
    """

    def __init__(self, key: ChainKey, backup: Backup, base: Backup | None) -> None:
        self.file = key.file
        self._key = key.key
        self._level = backup.path
        self._base = None if base is None else base.path
        self._data = self._engine_metadata = ''

    def data(self, blocks: Iterable[Block]) -> Generator[Block, None, None]:
        encrypted = age.encrypt(self._key, blocks)
        self._data = encrypted.fingerprint
        return encrypted.blocks

    def engine_metadata(self, content: bytes) -> bytes:
        encrypted = age.encrypt(self._key, [content])
        self._engine_metadata = encrypted.fingerprint
        return b''.join(encrypted.blocks)

    def sealed(self, marker: dict[str, Any]) -> dict[str, Any]:
        """The marker, with the seal of what was encrypted."""
        assert self._data
        assert self._engine_metadata
        seal = _Seal(self._level, self._base, marker, self._data, self._engine_metadata)
        record = json.dumps(asdict(seal)).encode()
        encrypted = b''.join(age.encrypt(self._key, [record]).blocks)
        return {**marker, SEAL_KEY: base64.b64encode(encrypted).decode('ascii')}


class SealedLevel:
    """One level as it was sealed.

    :raises TamperedError: its marker is not the one it was written with
    """

    def __init__(self, key: ChainKey, stored: StoredLevel) -> None:
        self.key = key
        self._stored = stored
        where = stored.paths.marker
        self._seal = _open_seal(key.key, stored.marker, where)
        if self._seal.level != stored.backup.path:
            raise TamperedError(
                f'{where}: is the marker of {self._seal.level}: somebody has moved it'
            )
        # The storage adds its token and a digest; a change of these finds no manifest,
        # or not the file.
        seen = {
            name: value
            for name, value in stored.marker.items()
            if name not in (SEAL_KEY, manifest.MARKER_KEY, manifest.STATE_KEY)
        }
        if self._seal.marker != seen:
            raise TamperedError(f'{where}: somebody has changed it, or it is damaged')

    def check_base(self, base: StoredLevel | None) -> None:
        """
        :param base: the level it will be extracted on
        :raises TamperedError: it was made on another one
        """
        if self._seal.base != (None if base is None else base.backup.path):
            raise TamperedError(
                f'{self._stored!r}: was made on {self._seal.base}, which is not there '
                f'any more: somebody has removed it, or put another in its place'
            )

    def data(self, blocks: Iterable[Block]) -> Generator[Block, None, None]:
        """The decrypted stream; raises TamperedError where it was changed."""
        where = self._stored.paths.folder
        return age.decrypt(self.key.key, blocks, where, self._seal.data)

    def engine_metadata(self) -> bytes:
        """
        :raises NotFound: it is missing
        :raises TamperedError: it was changed or exchanged
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
        # What is no base64 is no file of format age either.
        with contextlib.suppress(ValueError):
            sealed = base64.b64decode(text)
    record = b''.join(age.decrypt(key, [sealed], where))
    try:
        seal = _Seal(**json.loads(record))
    except (TypeError, ValueError) as error:
        # One more file for this key, and no seal.
        raise TamperedError(f'{where}: somebody has exchanged it') from error
    if base64.b64encode(sealed).decode('ascii') != text:
        raise TamperedError(f'{where}: somebody has changed it, or it is damaged')
    return seal
