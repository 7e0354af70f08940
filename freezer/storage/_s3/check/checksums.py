"""Probes of checksums: whether the store verifies what arrives."""

from typing import Any

from freezer.storage._s3.check.scratch import SMALL, ScratchPrefix
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import Finding, Result, note, ok


def content_md5(scratch: ScratchPrefix) -> Finding:
    return _checksum(scratch, 'ContentMD5', '1B2M2Y8AsgTpgAmY7PhCfg==')


def crc32(scratch: ScratchPrefix) -> Finding:
    finding = _checksum(scratch, 'ChecksumCRC32', 'AAAAAA==')
    scratch.crc32_checked = finding.result is Result.OK
    return finding


def _checksum(scratch: ScratchPrefix, header: str, of_nothing: str) -> Finding:
    """The checksum of no bytes: right for an empty object, wrong for any other."""
    right = scratch.probe_put(f'right {header}', b'', **{header: of_nothing})
    if isinstance(right, Refusal):
        return note(f'refused: {right}', '--s3-checksum none')
    wrong = scratch.probe_put(f'wrong {header}', SMALL, **{header: of_nothing})
    if isinstance(wrong, Refusal):
        return ok(f'checked: a wrong one is refused ({wrong.code})')
    return note('not checked: a wrong one is accepted')


def payload_digest(scratch: ScratchPrefix) -> Finding:
    """A byte changes after the request was signed, as on a bad line."""

    def change(request: Any, **_kwargs: Any) -> None:
        request.body = b'X' + SMALL[1:]

    with scratch.bucket.hook('before-send.s3.PutObject', change):
        answer = scratch.probe_put('wrong payload', SMALL)
    if isinstance(answer, Refusal):
        return ok(f'checked: a byte changed in transit is refused ({answer.code})')
    return note(
        'not checked: a byte changed in transit is stored, and found on restore',
        '--s3-checksum crc32' if scratch.crc32_checked else '',
    )
