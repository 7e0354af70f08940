"""Freezer's encryption of a stream: ``openssl enc -aes-256-cfb -pass file:F``.

``Salted__``, 8 bytes of salt, AES-256-CFB128; key and IV from one round of
EVP_BytesToKey over the first line of the passphrase file, with SHA-256 (OpenSSL 1.1 and
later; 1.0.2 used MD5, which can be read here but is not written).

The format is not authenticated: anyone who can write to the storage can change the
decrypted data. The manifest's digests catch accidents, not attackers.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from freezer.exceptions import ConfigError, EngineError
from freezer.storage import layout
from freezer.utils import commands
from freezer.utils.blocks import Block
from freezer.utils.ranges import Portions, Range, RangedStream, aligned, select

OPENSSL = 'openssl'
# freezer.stream.age implements the second.
NAMES = (OPENSSL, layout.AGE)

# The minimum of the extra. Debian 12 has 38, which is enough for openssl.
_AGE_NEEDS = 43

_AGE_MAGIC = b'age-encryption.org/'
_MAGIC = b'Salted__'
_SALT_BYTES = 8
_KEY_BYTES = 32
_IV_BYTES = 16
# Digest, and what follows the passphrase: the end of its line in Freezer's rsync
# engines.
_DERIVATIONS = (('sha256', b''), ('md5', b''), ('md5', b'\n'))
# Enough to recognise the magic of a compressor, or a tar header by its checksum.
_LOOK_BYTES = 512
_HEAD_BYTES = len(_MAGIC) + _SALT_BYTES
_LONG_HEAD_BYTES = _HEAD_BYTES + _LOOK_BYTES


@dataclasses.dataclass(frozen=True)
class Passphrase:
    """Where the passphrase comes from: exactly one is set. It is the first line.

    :param file: path
    :param command: its output; see :func:`freezer.utils.commands.run`
    :param descriptor: a file descriptor that the agent was started with
    """

    file: str | None = None
    command: str | None = None
    descriptor: int | None = None

    @functools.cached_property
    def value(self) -> bytes:
        """Without the newline. Read once: a pipe has it only once, and a command may
        ask somebody.

        :raises ConfigError: it cannot be read, or the line is empty
        """
        check_available()
        if self.command is not None:
            where = 'encrypt-pass-command'
            passphrase = commands.run(where, self.command)
        else:
            where = f'encrypt-pass-file {self.file}'
            if self.descriptor is not None:
                where = f'encrypt-pass-fd {self.descriptor}'
            try:
                passphrase = self._read()
            except OSError as error:
                raise ConfigError(f'{where}: {error.strerror or error}') from error
        if not passphrase:
            raise ConfigError(f'{where}: its first line is empty')
        return passphrase

    def _read(self) -> bytes:
        source = self.descriptor if self.file is None else self.file
        assert source is not None
        with open(source, 'rb', closefd=source != 0) as stream:
            return stream.readline().removesuffix(b'\n')


def check_descriptor(descriptor: int) -> None:
    """:raises ConfigError: the agent was not started with this file descriptor"""
    try:
        # Files that the agent itself has opened are not inheritable.
        is_open = os.get_inheritable(descriptor)
    except OSError:
        is_open = False
    if not is_open:
        raise ConfigError(
            f'encrypt-pass-fd {descriptor}: the agent was started without this file '
            f'descriptor: open it, as in freezer-agent … {descriptor}<FILE'
        )


def is_age(path: Path) -> bool:
    """Whether a file is in format age."""
    with path.open('rb') as stream:
        return stream.read(len(_AGE_MAGIC)) == _AGE_MAGIC


def encrypt(passphrase: bytes, blocks: Iterable[Block]) -> Iterator[Block]:
    salt = os.urandom(_SALT_BYTES)
    yield _MAGIC + salt
    encryptor = _cipher(*_derive(passphrase, salt, _DERIVATIONS[0][0])).encryptor()
    for block in blocks:
        yield encryptor.update(block)
    if rest := encryptor.finalize():
        yield rest


def decrypt(
    passphrase: bytes, blocks: Iterable[Block], looks_right: Callable[[bytes], bool]
) -> Iterator[Block]:
    """Decrypt a stream.

    :param looks_right: whether the first bytes (512, or all if there are fewer) are the
        beginning of the plain stream; this selects the digest that OpenSSL used
    :raises EngineError: it is not such a stream, or the passphrase is wrong
    """
    remaining = iter(blocks)
    head = bytearray()
    for block in remaining:
        head += block
        if len(head) >= _LONG_HEAD_BYTES:
            break
    decryptor = _cipher(*_secrets(passphrase, head, looks_right)).decryptor()
    yield decryptor.update(bytes(head[_HEAD_BYTES:]))
    for block in remaining:
        yield decryptor.update(block)
    if rest := decryptor.finalize():
        yield rest


class Decrypted(RangedStream):
    """An encrypted stream that is decrypted where it is read.

    CFB decrypts a block of 16 bytes with the encrypted block before it, so it can begin
    at any of them.

    :param looks_right: as for :func:`decrypt`
    :raises EngineError: it is not such a stream, or the passphrase is wrong
    """

    def __init__(
        self,
        stream: RangedStream,
        passphrase: bytes,
        looks_right: Callable[[bytes], bool],
    ) -> None:
        # The key is right if the plain stream looks right, so no digest is needed.
        head = stream.head(_LONG_HEAD_BYTES)
        self._key, self._iv = _secrets(passphrase, head, looks_right)
        self._stream = stream
        self.size = stream.size - _HEAD_BYTES

    def ranges(self, ranges: Sequence[Range]) -> Generator[Block, None, None]:
        if ranges and ranges[-1][1] > self.size:
            raise EngineError(
                f'the encrypted stream ends at byte {self.size}, before byte '
                f'{ranges[-1][1]}: the index is damaged, or of another backup'
            )
        covered = aligned(ranges, _IV_BYTES, self.size)
        stored = [
            (_HEAD_BYTES + max(start - _IV_BYTES, 0), _HEAD_BYTES + end)
            for start, end in covered
        ]
        with contextlib.closing(self._stream.ranges(stored)) as blocks:
            yield from select(self._decrypt(covered, blocks), covered, ranges)

    def _decrypt(
        self, covered: Iterable[Range], blocks: Iterable[Block]
    ) -> Iterator[Block]:
        portions = Portions(blocks)
        for start, end in covered:
            before = b''.join(portions.take(_IV_BYTES)) if start else self._iv
            decryptor = _cipher(self._key, before).decryptor()
            for block in portions.take(end - start):
                yield decryptor.update(block)


def check_available(name: str = OPENSSL) -> None:
    """:raises ConfigError: the library is not installed, or too old for the format"""
    try:
        # Optional: the extra freezer[encryption].
        import cryptography
    except ImportError as error:
        raise ConfigError(
            'encryption needs the package cryptography: pip install freezer[encryption]'
        ) from error
    version = cryptography.__version__
    if name == layout.AGE and int(version.partition('.')[0]) < _AGE_NEEDS:
        raise ConfigError(
            f'encryption age needs cryptography {_AGE_NEEDS} or newer, and {version} '
            'is installed: pip install freezer[encryption]'
        )


def _secrets(
    passphrase: bytes, head: Block, looks_right: Callable[[bytes], bool]
) -> tuple[bytes, bytes]:
    """Key and IV of a stream, from its first bytes; see :func:`decrypt`."""
    if not head.startswith(_MAGIC) or len(head) < _HEAD_BYTES:
        raise EngineError(
            'the backup is damaged: it is not encrypted, but its metadata says so'
        )
    salt = bytes(head[len(_MAGIC) : _HEAD_BYTES])
    for digest, end in _DERIVATIONS:
        key, iv = _derive(passphrase + end, salt, digest)
        first = _cipher(key, iv).decryptor().update(head[_HEAD_BYTES:_LONG_HEAD_BYTES])
        if looks_right(first):
            return key, iv
    raise EngineError('wrong passphrase (or the backup is damaged)')


def _derive(passphrase: bytes, salt: bytes, digest: str) -> tuple[bytes, bytes]:
    """Key and IV, as OpenSSL derives them."""
    material = b''
    last = b''
    while len(material) < _KEY_BYTES + _IV_BYTES:
        last = hashlib.new(
            digest, last + passphrase + salt, usedforsecurity=False
        ).digest()
        material += last
    return material[:_KEY_BYTES], material[_KEY_BYTES : _KEY_BYTES + _IV_BYTES]


def _cipher(key: bytes, iv: bytes) -> Any:
    # Optional, and slow to import.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES

    try:
        from cryptography.hazmat.decrepit.ciphers.modes import CFB
    except ImportError:  # before 47
        from cryptography.hazmat.primitives.ciphers.modes import CFB

    return Cipher(AES(key), CFB(iv))
