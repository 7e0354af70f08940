"""Bech32 (BIP 173) of 32 bytes: the text form of age keys."""

_ALPHABET = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l'
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BYTES = 32
# Groups of five bits; the last has one bit of the bytes, and four zeros.
_GROUPS = 52
_PADDING = 5 * _GROUPS - 8 * _BYTES
_CHECKSUM = 6


def encode(prefix: str, content: bytes) -> str:
    """The text, in lower case.

    :param prefix: the part before the ``1``, in lower case
    :param content: 32 bytes
    """
    groups = _groups(int.from_bytes(content, 'big') << _PADDING, _GROUPS)
    check = _remainder([*_expanded(prefix), *groups, *[0] * _CHECKSUM]) ^ 1
    groups += _groups(check, _CHECKSUM)
    return f'{prefix}1{"".join(_ALPHABET[group] for group in groups)}'


def decode(prefix: str, text: str) -> bytes:
    """The 32 bytes.

    :param text: all in lower or all in upper case
    :raises ValueError: malformed; the message does not contain the text
    """
    lower = text.lower()
    if text not in (lower, text.upper()) or not lower.startswith(f'{prefix}1'):
        raise ValueError(f'not a Bech32 text that begins with {prefix}1')
    groups = [_ALPHABET.find(letter) for letter in lower[len(prefix) + 1 :]]
    if len(groups) != _GROUPS + _CHECKSUM or -1 in groups:
        raise ValueError('not a Bech32 text of 32 bytes')
    if _remainder([*_expanded(prefix), *groups]) != 1:
        raise ValueError('the checksum of the Bech32 text is wrong')
    number = 0
    for group in groups[:_GROUPS]:
        number = number << 5 | group
    if number & ((1 << _PADDING) - 1):
        raise ValueError('not a Bech32 text of whole bytes')
    return (number >> _PADDING).to_bytes(_BYTES, 'big')


def _groups(number: int, count: int) -> list[int]:
    """The lowest ``count`` groups of five bits, the highest first."""
    return [number >> 5 * place & 31 for place in reversed(range(count))]


def _expanded(prefix: str) -> list[int]:
    codes = prefix.encode('ascii')
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _remainder(groups: list[int]) -> int:
    check = 1
    for group in groups:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ group
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                check ^= generator
    return check
