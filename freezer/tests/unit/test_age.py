"""The format age: what others write is read, what was changed is not."""

import itertools
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freezer.exceptions import EncryptionError, PassphraseError, TamperedError
from freezer.stream import age
from freezer.tests import ranged
from freezer.tests.archives import cut
from freezer.utils.blocks import Block
from freezer.utils.ranges import Range

KEY = age.Key.generate()
PYRAGE = pyrage.x25519.Identity.from_str(KEY.dump().decode().strip())
WHERE = 'the place'
PASSPHRASE = 'correct hörse'.encode()
CHUNK = 64 * 1024
SEALED = CHUNK + 16
# Of a file for one key: header and nonce.
HEAD = 168 + 16
NOISE = os.urandom(4 * CHUNK)
# Where chunks, and the blocks they are handed on in, begin and end.
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, 17 * CHUNK]

age_program = pytest.mark.skipif(not shutil.which('age'), reason='no age (Debian: age)')


def encrypted(content: bytes, size: int = 100_000) -> bytes:
    return b''.join(age.encrypt(KEY, cut(content, size)).blocks)


def decrypted(
    file: bytes, size: int = 100_000, fingerprint: str | None = None
) -> bytes:
    return b''.join(age.decrypt(KEY, cut(file, size), WHERE, fingerprint))


def refuse(file: bytes) -> None:
    with pytest.raises(TamperedError, match='the place: was modified'):
        decrypted(file)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases that anybody could guess."""
    monkeypatch.setattr(age, '_WORK', 1)


# What is read is what was written


@settings(deadline=None)
@given(st.lists(st.binary(max_size=700), max_size=5), st.integers(1, 1000))
def test_round_trip(blocks: list[bytes], size: int) -> None:
    file = b''.join(age.encrypt(KEY, blocks).blocks)
    assert decrypted(file, size) == b''.join(blocks)


@pytest.mark.parametrize('size', SIZES)
def test_sizes(size: int) -> None:
    content = (NOISE * 5)[:size]
    file = encrypted(content)
    assert len(file) == HEAD + size + 16 * max(1, -(-size // CHUNK))
    assert decrypted(file) == content
    assert decrypted(file, SEALED) == content


def test_two_files_have_nothing_in_common() -> None:
    first, second = age.encrypt(KEY, [b'same']), age.encrypt(KEY, [b'same'])
    assert first.fingerprint != second.fingerprint
    assert b''.join(first.blocks)[-20:] != b''.join(second.blocks)[-20:]


def test_neither_key_nor_recipient_is_in_a_file() -> None:
    file = encrypted(b'content') + age.lock(PASSPHRASE, KEY.dump())
    public = str(PYRAGE.to_public())
    assert KEY.dump().strip() not in file
    assert public.encode() not in file
    for half in (KEY._public, KEY._secret.private_bytes_raw()):
        assert half not in file
        assert age._encode(half) not in file


def test_memory_does_not_grow() -> None:
    block = os.urandom(1 << 20)
    tracemalloc.start()
    try:
        sealed = age.encrypt(KEY, itertools.repeat(block, 64)).blocks
        size = sum(len(one) for one in age.decrypt(KEY, sealed, WHERE))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 64 << 20
    assert peak < 8 << 20


# Others


@pytest.mark.parametrize('size', SIZES)
def test_pyrage(size: int) -> None:
    content = (NOISE * 5)[:size]
    assert pyrage.decrypt(encrypted(content), [PYRAGE]) == content
    # With a stanza of no known kind beside, as rage likes to have.
    assert decrypted(pyrage.encrypt(content, [PYRAGE.to_public()])) == content


def test_a_file_for_several() -> None:
    others = [pyrage.x25519.Identity.generate().to_public() for _ in range(3)]
    file = pyrage.encrypt(b'for all', [*others, PYRAGE.to_public()])
    assert decrypted(file) == b'for all'
    with pytest.raises(TamperedError):
        decrypted(pyrage.encrypt(b'not for us', others))


def test_pyrage_and_a_passphrase() -> None:
    passphrase = PASSPHRASE.decode()
    assert pyrage.passphrase.decrypt(age.lock(PASSPHRASE, NOISE), passphrase) == NOISE


@age_program
@pytest.mark.parametrize('size', SIZES)
def test_the_program(size: int, tmp_path: Path) -> None:
    content = (NOISE * 5)[:size]
    key = tmp_path / 'key'
    key.write_bytes(KEY.dump())

    def run(*options: str, given: bytes) -> bytes:
        argv = ['age', *options]
        return subprocess.run(argv, input=given, capture_output=True, check=True).stdout

    assert run('-d', '-i', str(key), given=encrypted(content)) == content
    theirs = run('-r', str(PYRAGE.to_public()), given=content)
    assert decrypted(theirs) == content


@age_program
def test_a_key_of_age_keygen(tmp_path: Path) -> None:
    made = subprocess.run(['age-keygen'], capture_output=True, check=True).stdout
    key = age.Key.parse(made, WHERE)
    (line,) = (one for one in made.splitlines() if not one.startswith(b'#'))
    assert key.dump() == line + b'\n'


# What was changed


def changes(file: bytes) -> Iterator[bytes]:
    """The file with one bit changed, in each of its bytes."""
    for position, bit in itertools.product(range(len(file)), (0x01, 0x20, 0x80)):
        changed = bytearray(file)
        changed[position] ^= bit
        yield bytes(changed)


def test_every_byte_counts() -> None:
    file = encrypted(b'some content')
    for changed in changes(file):
        refuse(changed)


def test_every_end_but_the_right_one() -> None:
    file = encrypted(b'some content')
    for end in range(len(file)):
        refuse(file[:end])
    for more in (b'\0', b'\n', bytes(16), file):
        refuse(file + more)


HEADER, *CHUNKS = (lambda file: (file[:HEAD], *cut(file[HEAD:], SEALED)))(
    encrypted(NOISE[: 3 * CHUNK + 100])
)
A, B, C, LAST = CHUNKS


WRONG_CHUNKS = {
    'none': [],
    'cut off at a border': [A, B, C],
    'all but one': [A],
    'without the first': [B, C, LAST],
    'without one': [A, C, LAST],
    'one twice': [A, B, B, C, LAST],
    'the last twice': [A, B, C, LAST, LAST],
    'exchanged': [B, A, C, LAST],
    'the last but one': [A, B, LAST, C],
    'without the last byte': [A, B, C, LAST[:-1]],
    'without a byte': [A, B, C[:-1], LAST],
    'a byte more': [A, b'\0', B, C, LAST],
    'a byte more at the end': [A, B, C, LAST, b'\0'],
}


@pytest.mark.parametrize('chunks', WRONG_CHUNKS.values(), ids=WRONG_CHUNKS)
@pytest.mark.parametrize('size', [1000, SEALED, 1 << 20])
def test_chunks(chunks: list[bytes], size: int) -> None:
    assert decrypted(HEADER + A + B + C + LAST) == NOISE[: 3 * CHUNK + 100]
    file = HEADER + b''.join(chunks)
    handed_on: list[Block] = []
    with pytest.raises(TamperedError, match='the place'):
        handed_on.extend(age.decrypt(KEY, cut(file, size), WHERE))
    # What came before is right.
    assert NOISE.startswith(b''.join(handed_on))


def test_chunks_of_another_file() -> None:
    other = encrypted(NOISE[: 3 * CHUNK + 100])
    refuse(HEADER + other[HEAD:])
    refuse(HEADER + A + other[HEAD + SEALED : HEAD + 2 * SEALED] + C + LAST)


def test_an_empty_chunk_at_the_end() -> None:
    """Else one content had two files."""
    keys: list[bytes] = []

    def wrap(file_key: bytes) -> age._Stanza:
        keys.append(file_key)
        return KEY.wrap(file_key)

    head = b''.join(age._encrypted(wrap, []).blocks)[:HEAD]
    cipher = age._cipher(keys[0], head[-16:])
    full = cipher.encrypt(age._counter(0, False), bytes(CHUNK), None)
    refuse(head + full + cipher.encrypt(age._counter(1, True), b'', None))
    more = cipher.encrypt(age._counter(1, True), b'x', None)
    assert decrypted(head + full + more) == bytes(CHUNK) + b'x'


def test_another_key() -> None:
    with pytest.raises(TamperedError, match='the place'):
        list(age.decrypt(age.Key.generate(), [encrypted(b'content')], WHERE))


def test_another_file_for_the_same_key() -> None:
    first, second = age.encrypt(KEY, [b'first']), age.encrypt(KEY, [b'second'])
    file = b''.join(second.blocks)
    assert decrypted(file, fingerprint=second.fingerprint) == b'second'
    with pytest.raises(TamperedError, match='replaced'):
        decrypted(file, fingerprint=first.fingerprint)


@pytest.mark.parametrize(
    'old, new',
    [
        (b'/v1\n', b'/v2\n'),
        (b'/v1\n', b'/v1\r\n'),
        (b'-> X25519 ', b'-> X25519  '),
        (b'-> X25519 ', b'-> X25519 x '),
        (b'-> X25519 ', b'-> scrypt '),
        (b'\n--- ', b'\n\n--- '),
        (b'\n--- ', b'=\n--- '),
        (b'\n--- ', b'\n---'),
        (b'\n--- ', b'\n-> other\n\n--- '),
    ],
)
def test_headers_that_are_none(old: bytes, new: bytes) -> None:
    file = encrypted(b'content')
    assert old in file
    refuse(file.replace(old, new, 1))


def test_no_other_text_stands_for_the_same_bytes() -> None:
    """Of the last letter of a MAC only four bits count."""
    letters = b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
    file = bytearray(encrypted(b'content'))
    last = HEAD - 16 - 2
    assert file[last + 1 : last + 2] == b'\n'
    file[last] = letters[letters.index(file[last]) + 1]
    refuse(bytes(file))


def test_an_endless_header_is_not_read() -> None:
    read = 0

    def blocks() -> Iterator[bytes]:
        nonlocal read
        yield b'age-encryption.org/v1\n'
        while True:
            read += 1
            yield b'-> other\n' + b'A' * 40 + b'\n'

    with pytest.raises(TamperedError):
        next(age.decrypt(KEY, blocks(), WHERE))
    assert read < 1000


def test_what_the_reader_of_the_storage_raises_stays_what_it_is() -> None:
    def blocks() -> Iterator[bytes]:
        yield encrypted(NOISE)[: 2 * SEALED]
        raise OSError('the disk is on fire')

    with pytest.raises(OSError, match='on fire'):
        list(age.decrypt(KEY, blocks(), WHERE))


# Passphrases


@pytest.mark.usefixtures('quick')
@pytest.mark.parametrize(
    'content', [b'', b'content', NOISE], ids=['none', 'some', 'many chunks']
)
def test_a_passphrase(content: bytes) -> None:
    file = age.lock(PASSPHRASE, content)
    assert age.unlock(PASSPHRASE, file, WHERE) == content
    for wrong in (b'', b'wrong', PASSPHRASE + b' ', PASSPHRASE.upper()):
        with pytest.raises(PassphraseError, match=r'wrong pass.*the place') as caught:
            age.unlock(wrong, file, WHERE)
        assert PASSPHRASE.decode() not in str(caught.value)


@pytest.mark.usefixtures('quick')
def test_every_byte_of_a_locked_file_counts() -> None:
    file = age.lock(PASSPHRASE, b'content')
    for damaged in (*changes(file), *(file[:end] for end in range(len(file)))):
        with pytest.raises(EncryptionError, match='the place'):
            age.unlock(PASSPHRASE, damaged, WHERE)


def test_the_work_is_what_it_is_said_to_be() -> None:
    """128 MiB: less than a transfer takes, and what is asked for of a passphrase."""
    lines = age.lock(PASSPHRASE, b'').split(b'\n')
    (line,) = (line for line in lines if line.startswith(b'-> scrypt '))
    assert line.endswith(b' 17')


@pytest.mark.usefixtures('quick')
@pytest.mark.parametrize('work', [b'0', b'01', b'+1', b'100', b'-1', b'1 1', b'x'])
def test_work_that_is_none(work: bytes) -> None:
    file = age.lock(PASSPHRASE, b'content')
    first, rest = file.split(b' 1\n', 1)
    with pytest.raises(TamperedError):
        age.unlock(PASSPHRASE, first + b' ' + work + b'\n' + rest, WHERE)


@pytest.mark.usefixtures('quick')
@pytest.mark.parametrize('work', [b'21', b'99'])
def test_too_much_work_is_not_begun(work: bytes) -> None:
    file = age.lock(PASSPHRASE, b'content').replace(b' 1\n', b' ' + work + b'\n', 1)
    with pytest.raises(EncryptionError, match='MiB of memory'):
        age.unlock(PASSPHRASE, file, WHERE)


def test_a_passphrase_is_the_only_way_in() -> None:
    """What it opens, somebody who knows it has made: no stanza may be beside."""
    with pytest.raises(TamperedError):
        age.unlock(PASSPHRASE, encrypted(b'content'), WHERE)


@pytest.mark.usefixtures('quick')
def test_nothing_is_beside_a_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for several, of which one knows the passphrase."""
    dump = age._Stanza.dump
    other = age._Stanza((b'other',), b'')
    monkeypatch.setattr(age._Stanza, 'dump', lambda stanza: dump(stanza) + dump(other))
    file = age.lock(PASSPHRASE, b'content')
    assert b'\n-> other\n' in file
    with pytest.raises(TamperedError, match='the place'):
        age.unlock(PASSPHRASE, file, WHERE)


# Keys


def test_a_file_of_keys() -> None:
    text = b'# created: today\n\n  ' + KEY.dump().strip() + b'\r\n# the end'
    assert age.Key.parse(text, WHERE).dump() == KEY.dump()


@pytest.mark.parametrize(
    'text',
    [
        pytest.param(b'', id='nothing'),
        pytest.param(b'# nothing\n', id='a comment'),
        pytest.param(b'x', id='a word'),
        pytest.param(b'\xff\n', id='no text'),
        pytest.param(KEY.dump() * 2, id='two'),
        pytest.param(KEY.dump()[:-3], id='cut off'),
        pytest.param(KEY.dump().replace(b'KEY', b'KEY-PQ'), id='another kind'),
        pytest.param(str(PYRAGE.to_public()).encode(), id='a recipient'),
    ],
)
def test_files_that_hold_no_key(text: bytes) -> None:
    with pytest.raises(TamperedError, match='the place: does not hold') as caught:
        age.Key.parse(text, WHERE)
    assert 'SECRET-KEY-1' not in str(caught.value)


# Ranges


LONG = NOISE[: 2 * CHUNK] + NOISE[: CHUNK + 7]
LONG_FILE = encrypted(LONG)


def opened(file: bytes, fingerprint: str | None = None) -> age.Decrypted:
    return age.Decrypted(ranged.MemoryStream(file), KEY, WHERE, fingerprint)


@settings(deadline=None)
@given(ranged.ranges_of(len(LONG)), st.integers(1, 100_000))
def test_ranges(wanted: list[Range], block: int) -> None:
    stream = ranged.MemoryStream(LONG_FILE, block)
    file = age.Decrypted(stream, KEY, WHERE)
    assert file.size == len(LONG)
    assert b''.join(file.ranges(wanted)) == ranged.joined(LONG, wanted)
    assert stream.closed == len(stream.fetched)
    # The header, then only the chunks that hold the ranges, each once.
    assert all(start == 0 for start, _end in stream.fetched[0])
    needed = {place // CHUNK for one in wanted for place in range(*one)}
    chunks = sum(end - start for call in stream.fetched[1:] for start, end in call)
    assert chunks == sum(SEALED if number < 3 else 7 + 16 for number in needed)


@pytest.mark.parametrize('size', SIZES)
def test_ranges_of_all_sizes(size: int) -> None:
    content = (NOISE * 5)[:size]
    file = opened(encrypted(content))
    assert file.size == size
    assert file.read(0, size) == content
    for start in (0, max(size - 1, 0), size // 2):
        assert file.read(start, size) == content[start:]


def test_ranges_of_others() -> None:
    file = opened(pyrage.encrypt(LONG, [PYRAGE.to_public()]))
    assert file.read(CHUNK - 1, CHUNK + 1) == LONG[CHUNK - 1 : CHUNK + 1]
    assert file.read(len(LONG) - 1, len(LONG)) == LONG[-1:]


def refuse_range(file: bytes, start: int, end: int) -> None:
    with pytest.raises(TamperedError, match='the place: was modified'):
        opened(file).read(start, end)


@pytest.mark.parametrize('number', range(4))
def test_a_flipped_bit_in_a_chunk(number: int) -> None:
    begin = HEAD + number * SEALED
    end = min(begin + SEALED, len(LONG_FILE))
    for position in (begin, (begin + end) // 2, end - 1):
        damaged = bytearray(LONG_FILE)
        damaged[position] ^= 1
        for place in range(4):
            start = place * CHUNK + 1
            if place == number:
                refuse_range(bytes(damaged), start, start + 1)
            else:
                # Others are not read.
                assert opened(bytes(damaged)).read(start, start + 1) == LONG[start:][:1]


@pytest.mark.parametrize('position', range(HEAD))
def test_a_flipped_bit_in_the_header(position: int) -> None:
    damaged = bytearray(LONG_FILE)
    damaged[position] ^= 1
    with pytest.raises(TamperedError):
        opened(bytes(damaged)).read(0, 1)
    with pytest.raises(TamperedError):
        opened(bytes(damaged), age.encrypt(KEY, []).fingerprint)


@pytest.mark.parametrize('keep', [0, 1, HEAD - 1, HEAD, HEAD + 15])
def test_ranges_without_a_chunk(keep: int) -> None:
    with pytest.raises(TamperedError):
        opened(LONG_FILE[:keep])


@pytest.mark.parametrize('chunks', [1, 2, 3])
def test_a_truncated_file_has_no_last_chunk(chunks: int) -> None:
    for cut_off in (0, 1, 100):
        file = LONG_FILE[: HEAD + chunks * SEALED - cut_off]
        size = opened(file).size
        assert size <= chunks * CHUNK
        refuse_range(file, size - 1, size)
        refuse_range(file, 0, size)
    # Nor one of 16 bytes, which would be empty.
    with pytest.raises(TamperedError):
        opened(LONG_FILE[: HEAD + chunks * SEALED + 16])
    with pytest.raises(TamperedError):
        opened(LONG_FILE[: HEAD + chunks * SEALED + 3])


def test_a_longer_file() -> None:
    for more in (bytes(1), bytes(17), LONG_FILE[-23:], bytes(SEALED)):
        file = opened(LONG_FILE + more)
        with pytest.raises(TamperedError):
            file.read(file.size - 1, file.size)


def test_chunks_that_were_moved() -> None:
    head, first, second = (
        LONG_FILE[:HEAD],
        LONG_FILE[HEAD : HEAD + SEALED],
        LONG_FILE[HEAD + SEALED : HEAD + 2 * SEALED],
    )
    rest = LONG_FILE[HEAD + 2 * SEALED :]
    for start in (0, CHUNK):
        refuse_range(head + second + first + rest, start, start + 1)
    refuse_range(head + second + rest, 0, 1)
    refuse_range(head + first + rest, CHUNK, CHUNK + 1)


def test_ranges_beyond_the_end() -> None:
    refuse_range(LONG_FILE, len(LONG) - 1, len(LONG) + 1)
    refuse_range(encrypted(b''), 0, 1)


def test_ranges_of_another_file() -> None:
    sealed = age.encrypt(KEY, [LONG])
    file = b''.join(sealed.blocks)
    assert opened(file, sealed.fingerprint).read(7, 9) == LONG[7:9]
    with pytest.raises(TamperedError, match='replaced by another file'):
        opened(LONG_FILE, sealed.fingerprint)
    with pytest.raises(TamperedError, match='the place: was modified'):
        age.Decrypted(ranged.MemoryStream(file), age.Key.generate(), WHERE)


def test_ranges_are_given_up() -> None:
    stream = ranged.MemoryStream(LONG_FILE)
    blocks = age.Decrypted(stream, KEY, WHERE).ranges([(0, len(LONG))])
    next(blocks)
    assert stream.closed == 1
    blocks.close()
    assert stream.closed == 2
