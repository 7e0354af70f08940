"""The parts of the age file format that backups need: https://age-encryption.org/v1

A file is encrypted for a key (X25519), or with a passphrase (scrypt). Its header holds
the wrapped key of the file; its body is chunks of 64 KiB, each authenticated with its
number and whether it is the last (ChaCha20-Poly1305). So a modified file does not
decrypt, nor one with a chunk dropped, repeated or moved, or with the end cut off; and
no byte is passed on before its chunk is authenticated.

Importing this module needs the package cryptography, for the primitives. Decision 0009
explains why no library for the whole format is used.
"""

import base64
import contextlib
import hashlib
import hmac
import itertools
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from freezer.exceptions import EncryptionError, PassphraseError, TamperedError
from freezer.stream import bech32
from freezer.utils.blocks import Block, Buffer, Buffers, cut
from freezer.utils.ranges import Range, RangedStream, aligned, select

_VERSION = b'age-encryption.org/v1'
_PREFIX = 'age-secret-key-'
_LABEL = {name: _VERSION + b'/' + name for name in (b'X25519', b'scrypt')}
_CHUNK = 64 * 1024
_TAG = 16
_SEALED = _CHUNK + _TAG
_KEY = 16
_NONCE = 16
_SALT = 16
# Chunks that are yielded as one block.
_AT_ONCE = 16
# This module's have 200 bytes, those of rage up to some hundred more.
_MAX_HEADER = 16 * 1024
# 2^17: 128 MiB and 0.3 s, less memory than the transfer takes afterwards; OWASP's
# recommendation. age itself uses 18. More than 20 takes 2 GiB or more, and is rejected.
_WORK = 17
_MOST_WORK = 20

_STANZA = rb'-> ([!-~]+(?: [!-~]+)*)\n((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)'
_HEADER = re.compile(
    rb'(?P<signed>%s\n(?P<stanzas>(?:%s)+)---) (?P<mac>[A-Za-z0-9+/]{43})\n'
    % (re.escape(_VERSION), _STANZA)
)
_STANZAS = re.compile(_STANZA)


class Key:
    """A key that decrypts the files encrypted for it.

    Its public half is enough to encrypt, and no file contains it: access to the files
    alone does not allow anyone to make a new one.
    """

    def __init__(self, secret: bytes) -> None:
        """:param secret: 32 bytes"""
        self._secret = X25519PrivateKey.from_private_bytes(secret)
        self._public = self._secret.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        return cls(os.urandom(32))

    @classmethod
    def parse(cls, text: bytes, where: str) -> Self:
        """The key in a file of keys, as ``age -i`` reads it.

        :param where: name of the file in errors
        :raises TamperedError: the file has no key, or several
        """
        lines = [line.strip() for line in text.splitlines()]
        keys = [line for line in lines if line and not line.startswith(b'#')]
        try:
            (key,) = keys
            return cls(bech32.decode(_PREFIX, key.decode('ascii')))
        except ValueError as error:
            raise TamperedError(f'{where}: does not hold one X25519 key') from error

    def dump(self) -> bytes:
        """The file of keys."""
        text = bech32.encode(_PREFIX, self._secret.private_bytes_raw())
        return f'{text.upper()}\n'.encode('ascii')

    def wrap(self, file_key: bytes) -> '_Stanza':
        secret = X25519PrivateKey.generate()
        share = secret.public_key().public_bytes_raw()
        shared = secret.exchange(X25519PublicKey.from_public_bytes(self._public))
        key = self._wrap_key(share, shared)
        return _Stanza((b'X25519', _encode(share)), _wrap(key, file_key))

    def unwrap(self, stanzas: Iterable['_Stanza']) -> bytes:
        for stanza in stanzas:
            if stanza.arguments[0] != b'X25519':
                continue
            if len(stanza.arguments) != 2:
                raise _Malformed
            share = _decode(stanza.arguments[1], 32)
            try:
                shared = self._secret.exchange(X25519PublicKey.from_public_bytes(share))
            except ValueError as error:
                raise _Malformed from error
            try:
                return _unwrap(self._wrap_key(share, shared), stanza.body)
            except InvalidTag:
                # Encrypted for another key.
                continue
        raise _Malformed

    def _wrap_key(self, share: bytes, shared: bytes) -> bytes:
        return _derive(shared, share + self._public, _LABEL[b'X25519'])


class Encrypted(NamedTuple):
    """A file that is encrypted while its blocks are read.

    :param fingerprint: SHA-256 of its header and nonce, hexadecimal; without the key
        nobody can make another file with the same beginning
    """

    fingerprint: str
    blocks: Generator[Block, None, None]


def encrypt(key: Key, blocks: Iterable[Block]) -> Encrypted:
    """Encrypt a file for a key."""
    return _encrypted(key.wrap, blocks)


def decrypt(
    key: Key, blocks: Iterable[Block], where: str, fingerprint: str | None = None
) -> Generator[Block, None, None]:
    """Decrypt a file; each chunk is authenticated before it is yielded.

    :param where: name of the file in errors
    :param fingerprint: the expected one
    :raises TamperedError: it is not encrypted for this key, incomplete, or another file
    """
    return _decrypted(key.unwrap, blocks, where, fingerprint)


class Decrypted(RangedStream):
    """An encrypted file that is decrypted where it is read.

    Each chunk is authenticated before it is yielded, and that it is the last one, when
    the last one is read: then the size is right.

    :param stream: the encrypted file
    :param where: name of the file in errors
    :param fingerprint: the expected one
    :raises TamperedError: it is not encrypted for this key, incomplete, or another file
    """

    def __init__(
        self,
        stream: RangedStream,
        key: Key,
        where: str,
        fingerprint: str | None = None,
    ) -> None:
        self._stream = stream
        self._where = where
        with _tampered(where):
            # The header is authenticated by its MAC, so no digest is needed.
            head, _rest = _read_head(iter([stream.head(_MAX_HEADER)]))
            self._cipher = _file_cipher(key.unwrap, head, where, fingerprint)
            self._begin = head.size
            body = stream.size - head.size
            self._last = max(body - 1, 0) // _SEALED
            self.size = body - (self._last + 1) * _TAG
            # The last chunk is empty only if the file is.
            if self.size < self._last * _CHUNK + bool(self._last):
                raise _Malformed

    def ranges(self, ranges: Sequence[Range]) -> Generator[Block, None, None]:
        with _tampered(self._where):
            if ranges and ranges[-1][1] > self.size:
                raise _Malformed
            covered = aligned(ranges, _CHUNK, self.size)
            stored = [
                (self._stored(start), self._stored(end)) for start, end in covered
            ]
            with contextlib.closing(self._stream.ranges(stored)) as blocks:
                chunks = self._numbered(covered, blocks)
                yield from select(_open(self._cipher, chunks), covered, ranges)

    def _stored(self, position: int) -> int:
        """Where in the file a chunk begins, or the last one ends."""
        if position == self.size:
            return self._stream.size
        return self._begin + position // _CHUNK * _SEALED

    def _numbered(
        self, covered: Iterable[Range], blocks: Iterable[Block]
    ) -> Iterator['_Chunk']:
        buffers = Buffers()
        numbers = (
            number
            for start, end in covered
            for number in range(start // _CHUNK, -(-end // _CHUNK))
        )
        for number, chunk in zip(numbers, cut(blocks, _SEALED, buffers), strict=False):
            yield _Chunk(number, chunk, number == self._last)
            buffers.give_back(chunk)


def lock(passphrase: bytes, content: bytes) -> bytes:
    """Encrypt a file with a passphrase. Takes 128 MiB and half a second."""

    def wrap(file_key: bytes) -> _Stanza:
        salt = os.urandom(_SALT)
        arguments = (b'scrypt', _encode(salt), b'%d' % _WORK)
        return _Stanza(arguments, _wrap(_stretch(passphrase, salt, _WORK), file_key))

    return b''.join(_encrypted(wrap, [content]).blocks)


def unlock(passphrase: bytes, file: bytes, where: str) -> bytes:
    """Decrypt a file with a passphrase.

    :param where: name of the file in errors
    :raises PassphraseError: the passphrase is wrong
    :raises EncryptionError: it takes too much memory
    :raises TamperedError: it is not such a file, or incomplete
    """

    def unwrap(stanzas: Iterable[_Stanza]) -> bytes:
        try:
            # The format allows no other stanza: only the passphrase made this file.
            (stanza,) = stanzas
            kind, salt, work = stanza.arguments
        except ValueError as error:
            raise _Malformed from error
        if kind != b'scrypt' or not re.fullmatch(rb'[1-9][0-9]?', work):
            raise _Malformed
        if int(work) > _MOST_WORK:
            raise EncryptionError(
                f'{where}: needs {1 << int(work) - 10} MiB of memory to decrypt, more '
                f'than this agent uses; decrypt it with age -d, and encrypt it again '
                f'with age -p'
            )
        try:
            key = _stretch(passphrase, _decode(salt, _SALT), int(work))
            return _unwrap(key, stanza.body)
        except InvalidTag as error:
            raise PassphraseError(
                f'wrong passphrase (or {where} is damaged)'
            ) from error

    return b''.join(_decrypted(unwrap, [file], where, None))


class _Malformed(Exception):
    """The file violates the format."""


class _Stanza(NamedTuple):
    """The wrapped key of a file: its kind with parameters, and the encrypted key."""

    arguments: tuple[bytes, ...]
    body: bytes

    def dump(self) -> bytes:
        text = _encode(self.body)
        # The last line has less than 64 characters, and may be empty.
        lines = [text[start : start + 64] for start in range(0, len(text) + 1, 64)]
        return b'-> %s\n%s\n' % (b' '.join(self.arguments), b'\n'.join(lines))


class _Header(NamedTuple):
    """The beginning of a file, up to its chunks."""

    stanzas: list[_Stanza]
    signed: bytes
    mac: bytes
    nonce: bytes
    fingerprint: str
    size: int


class _Chunk(NamedTuple):
    """An encrypted chunk of a file; the buffer is reused for a later one."""

    number: int
    content: Buffer
    last: bool


def _encrypted(wrap: Callable[[bytes], _Stanza], blocks: Iterable[Block]) -> Encrypted:
    file_key = os.urandom(_KEY)
    signed = b'%s\n%s---' % (_VERSION, wrap(file_key).dump())
    nonce = os.urandom(_NONCE)
    head = b'%s %s\n%s' % (signed, _encode(_mac(file_key, signed)), nonce)
    cipher = _cipher(file_key, nonce)
    return Encrypted(_fingerprint(head), _seal(cipher, head, blocks))


def _seal(
    cipher: ChaCha20Poly1305, head: bytes, blocks: Iterable[Block]
) -> Generator[Block, None, None]:
    buffers = Buffers()
    sealed = [head]
    for number, (chunk, last) in enumerate(_marked(cut(blocks, _CHUNK, buffers))):
        sealed.append(cipher.encrypt(_counter(number, last), chunk, None))
        buffers.give_back(chunk)
        if len(sealed) >= _AT_ONCE:
            yield b''.join(sealed)
            sealed.clear()
    if sealed:
        yield b''.join(sealed)


def _decrypted(
    unwrap: Callable[[Iterable[_Stanza]], bytes],
    blocks: Iterable[Block],
    where: str,
    fingerprint: str | None,
) -> Generator[Block, None, None]:
    with _tampered(where):
        stream = iter(blocks)
        head, rest = _read_head(stream)
        cipher = _file_cipher(unwrap, head, where, fingerprint)
        yield from _open(cipher, _chunks(itertools.chain([rest], stream)))


@contextlib.contextmanager
def _tampered(where: str) -> Iterator[None]:
    """Report a file that violates the format, or cannot be authenticated."""
    try:
        yield
    except (_Malformed, InvalidTag, EOFError) as error:
        raise TamperedError(
            f'{where}: was modified, cut off or damaged after it was encrypted'
        ) from error


def _file_cipher(
    unwrap: Callable[[Iterable[_Stanza]], bytes],
    head: _Header,
    where: str,
    fingerprint: str | None,
) -> ChaCha20Poly1305:
    """The cipher of a file's chunks, after its header was authenticated."""
    if fingerprint is not None and head.fingerprint != fingerprint:
        raise TamperedError(f'{where}: was replaced by another file')
    file_key = unwrap(head.stanzas)
    if not hmac.compare_digest(_mac(file_key, head.signed), head.mac):
        raise _Malformed
    return _cipher(file_key, head.nonce)


def _open(
    cipher: ChaCha20Poly1305, chunks: Iterable[_Chunk]
) -> Generator[Block, None, None]:
    for number, chunk, last in chunks:
        opened = cipher.decrypt(_counter(number, last), chunk, None)
        if opened:
            yield opened
        elif number:
            # The last chunk is empty only if the file is.
            raise _Malformed


def _chunks(blocks: Iterable[Block]) -> Iterator[_Chunk]:
    """The chunks of a whole file."""
    buffers = Buffers()
    for number, (chunk, last) in enumerate(_marked(cut(blocks, _SEALED, buffers))):
        yield _Chunk(number, chunk, last)
        buffers.give_back(chunk)


def _marked(chunks: Iterator[Buffer]) -> Iterator[tuple[Buffer, bool]]:
    """Each chunk, and whether it is the last. Without chunks, an empty one."""
    chunk = next(chunks, Buffer())
    for following in chunks:
        yield chunk, False
        chunk = following
    yield chunk, True


def _read_head(blocks: Iterator[Block]) -> tuple[_Header, bytes]:
    """The header, and the bytes that were read after it."""
    content = b''
    for block in blocks:
        content += block
        found = _HEADER.match(content, 0, _MAX_HEADER)
        if found and len(content) >= found.end() + _NONCE:
            break
        if len(content) > _MAX_HEADER:
            raise _Malformed
    else:
        raise _Malformed
    stanzas = [
        _Stanza(tuple(arguments.split(b' ')), _decode(body.replace(b'\n', b'')))
        for arguments, body in _STANZAS.findall(found['stanzas'])
    ]
    head, rest = content[: found.end() + _NONCE], content[found.end() + _NONCE :]
    mac = _decode(found['mac'], 32)
    nonce = head[found.end() :]
    fingerprint = _fingerprint(head)
    header = _Header(stanzas, found['signed'], mac, nonce, fingerprint, len(head))
    return header, rest


def _encode(content: bytes) -> bytes:
    return base64.b64encode(content).rstrip(b'=')


def _decode(text: bytes, size: int | None = None) -> bytes:
    """Decode Base64; only the canonical encoding is accepted."""
    try:
        content = base64.b64decode(text + b'=' * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise _Malformed from error
    if _encode(content) != text or size not in (None, len(content)):
        raise _Malformed
    return content


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def _mac(file_key: bytes, signed: bytes) -> bytes:
    return hmac.digest(_derive(file_key, b'', b'header'), signed, 'sha256')


def _cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(_derive(file_key, nonce, b'payload'))


def _counter(number: int, last: bool) -> bytes:
    return number.to_bytes(11, 'big') + bytes([last])


def _wrap(key: bytes, file_key: bytes) -> bytes:
    # The nonce may be constant: the key is used only once.
    return ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)


def _unwrap(key: bytes, body: bytes) -> bytes:
    # Checked first: a longer one could be made to decrypt with several keys.
    if len(body) != _KEY + _TAG:
        raise _Malformed
    return ChaCha20Poly1305(key).decrypt(bytes(12), body, None)


def _stretch(passphrase: bytes, salt: bytes, work: int) -> bytes:
    salt = _LABEL[b'scrypt'] + salt
    try:
        return Scrypt(salt, 32, n=1 << work, r=8, p=1).derive(passphrase)
    except MemoryError as error:
        raise EncryptionError(
            f'the passphrase needs {1 << work - 10} MiB of memory, more than is '
            f'available: use a larger machine'
        ) from error


def _fingerprint(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()
