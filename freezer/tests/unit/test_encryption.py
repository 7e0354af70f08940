"""Encryption as of ``openssl enc``."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freezer.exceptions import ConfigError, EngineError
from freezer.stream import encryption
from freezer.tests import ranged
from freezer.tests.archives import cut
from freezer.utils.ranges import Range

PASSPHRASE = 'correct hörse'.encode()
HEAD = b'looks right'


def looks_right(head: bytes) -> bool:
    return head.startswith(HEAD)


def openssl(pass_file: Path, content: bytes, *options: str) -> bytes:
    argv = ['openssl', 'enc', '-aes-256-cfb', '-pass', f'file:{pass_file}', *options]
    return subprocess.run(argv, input=content, capture_output=True, check=True).stdout


@pytest.fixture
def pass_file(tmp_path: Path) -> Path:
    path = tmp_path / 'pass'
    path.write_bytes(PASSPHRASE + b'\nsecond line\n')
    return path


def decrypted(content: bytes, size: int = 100, passphrase: bytes = PASSPHRASE) -> bytes:
    blocks = cut(content, size)
    return b''.join(encryption.decrypt(passphrase, blocks, looks_right))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=700), max_size=5), st.integers(1, 1000))
def test_round_trip(blocks: list[bytes], size: int) -> None:
    content = HEAD + b''.join(blocks)
    sealed = b''.join(encryption.encrypt(PASSPHRASE, [HEAD, *blocks]))
    assert HEAD not in sealed
    assert decrypted(sealed, size) == content


def test_openssl_reads_ours(pass_file: Path) -> None:
    content = HEAD + os.urandom(100_000)
    sealed = b''.join(
        encryption.encrypt(
            encryption.Passphrase(str(pass_file)).value, cut(content, 77)
        )
    )
    assert openssl(pass_file, sealed, '-d', '-md', 'sha256') == content


@pytest.mark.parametrize('digest', ['sha256', 'md5'])
@pytest.mark.parametrize('size', [1, 16, 100_000])
def test_we_read_openssls(pass_file: Path, digest: str, size: int) -> None:
    """MD5 is what OpenSSL 1.0.2 took."""
    content = HEAD + os.urandom(10_000)
    sealed = openssl(pass_file, content, '-md', digest)
    passphrase = encryption.Passphrase(str(pass_file)).value
    assert decrypted(sealed, size, passphrase) == content


def test_every_stream_has_its_own_salt() -> None:
    first, second = (b''.join(encryption.encrypt(PASSPHRASE, [HEAD])) for _ in '12')
    assert first != second


def test_a_wrong_passphrase_is_seen_before_any_byte(pass_file: Path) -> None:
    sealed = openssl(pass_file, HEAD + bytes(10_000), '-md', 'sha256')
    blocks = encryption.decrypt(b'guessed', cut(sealed, 100), looks_right)
    with pytest.raises(EngineError, match='passphrase') as caught:
        next(blocks)
    assert 'guessed' not in str(caught.value)


@pytest.mark.parametrize(
    'content', [b'', b'Salt', b'Salted__', b'Salted__1234567', b'\x1f\x8b' + bytes(99)]
)
def test_what_is_not_encrypted_is_seen(content: bytes) -> None:
    with pytest.raises(EngineError, match='not encrypted'):
        decrypted(content)


@pytest.mark.parametrize(
    'content, passphrase',
    [
        (b'one line', b'one line'),
        (b'first\nsecond\n', b'first'),
        (b' spaces \n', b' spaces '),
        (b'\xff\x00\n', b'\xff\x00'),
    ],
)
def test_the_passphrase_is_the_first_line(
    tmp_path: Path, content: bytes, passphrase: bytes
) -> None:
    path = tmp_path / 'pass'
    path.write_bytes(content)
    assert encryption.Passphrase(str(path)).value == passphrase


@pytest.mark.parametrize('content', [b'', b'\n', b'\nsecond\n'])
def test_an_empty_passphrase_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'pass'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match='empty'):
        _ = encryption.Passphrase(str(path)).value


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no-such-file'):
        _ = encryption.Passphrase(str(tmp_path / 'no-such-file')).value


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cryptography', None)
    with pytest.raises(ConfigError, match=r'pip install freezer\[encryption\]'):
        encryption.check_available()


def test_a_library_that_is_too_old_for_age_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = types.ModuleType('cryptography')
    monkeypatch.setitem(sys.modules, 'cryptography', old)
    old.__dict__['__version__'] = '38.0.4'
    encryption.check_available('openssl')
    with pytest.raises(ConfigError, match=r'43 or newer, and 38\.0\.4 is installed'):
        encryption.check_available('age')
    old.__dict__['__version__'] = '43.0.0'
    encryption.check_available('age')


# Ranges


CONTENT = HEAD + os.urandom(300_000)
UNIT = 16
SEALED = b''.join(encryption.encrypt(PASSPHRASE, [CONTENT]))


@settings(deadline=None)
@given(ranged.ranges_of(len(CONTENT)), st.integers(1, 100_000))
def test_ranges(wanted: list[Range], block: int) -> None:
    stream = ranged.MemoryStream(SEALED, block)
    plain = encryption.Decrypted(stream, PASSPHRASE, looks_right)
    assert plain.size == len(CONTENT)
    assert b''.join(plain.ranges(wanted)) == ranged.joined(CONTENT, wanted)
    assert stream.closed == len(stream.fetched)
    # The first bytes, then only what holds the ranges.
    assert stream.fetched[0] == [(0, 16 + 512)]
    needed = {place // UNIT for one in wanted for place in range(*one)}
    fetched = sum(end - start for call in stream.fetched[1:] for start, end in call)
    assert fetched <= len(needed) * (UNIT + 16)


@pytest.mark.parametrize('digest', ['sha256', 'md5'])
@pytest.mark.parametrize('size', [1, 4, 5, 6, 15, 16, 17, 200_000])
def test_ranges_of_openssls(pass_file: Path, digest: str, size: int) -> None:
    content = (HEAD + os.urandom(size))[: len(HEAD) + size]
    stream = ranged.MemoryStream(openssl(pass_file, content, '-md', digest))
    plain = encryption.Decrypted(stream, PASSPHRASE, looks_right)
    assert plain.read(0, plain.size) == content
    for start in range(0, plain.size, max(1, plain.size // 20)):
        assert plain.read(start, plain.size) == content[start:]
        assert plain.read(start, start + 1) == content[start : start + 1]


def test_ranges_with_a_wrong_passphrase() -> None:
    with pytest.raises(EngineError, match='wrong passphrase') as caught:
        encryption.Decrypted(ranged.MemoryStream(SEALED), b'guessed', looks_right)
    assert 'guessed' not in str(caught.value)


@pytest.mark.parametrize('content', [b'', b'Salted__', b'Salted__1234567', bytes(99)])
def test_ranges_of_what_is_not_encrypted(content: bytes) -> None:
    with pytest.raises(EngineError, match='not encrypted'):
        encryption.Decrypted(ranged.MemoryStream(content), PASSPHRASE, looks_right)


def test_ranges_beyond_the_end() -> None:
    stream = ranged.MemoryStream(SEALED)
    plain = encryption.Decrypted(stream, PASSPHRASE, looks_right)
    with pytest.raises(EngineError, match='ends at byte 300011, before byte 300012'):
        plain.read(0, plain.size + 1)
