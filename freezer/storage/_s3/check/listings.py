"""Probes of listings."""

import copy
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage._s3.check.objects import wait_until
from freezer.storage._s3.check.scratch import SMALL, ScratchPrefix
from freezer.storage.check import Finding, note, ok, problem
from freezer.storage.claims import LISTING_DELAYS


def written(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('small')
    sizes: dict[str, int] = {}

    def is_listed() -> bool:
        sizes.update((item.key, item.size) for item in scratch.bucket.list(key))
        return key in sizes

    waited = wait_until(is_listed)
    if waited is None:
        most = sum(LISTING_DELAYS)
        return problem(f'a written object is not listed after {most:g} s')
    scratch.listed_late = waited
    if sizes[key] != len(SMALL):
        return problem(f'the listed size is {sizes[key]}, not {len(SMALL)}')
    if waited:
        return note(f'a written object is listed after {waited:g} s')
    return ok('a written object is listed at once')


def versions(scratch: ScratchPrefix) -> Finding:
    """Of ListObjects, in pages of two: a listing that ends early hides backups."""
    names = [f'paged/{number}' for number in range(5)]
    for name in names:
        scratch.put(name, b'')
    expected = [scratch.key(name) for name in names]
    wrong = {
        version: why
        for version in (1, 2)
        if (why := _what_is_wrong(scratch, version, expected))
    }
    used = scratch.options.list_version
    other = 3 - used
    if used in wrong:
        hint = '' if other in wrong else f'--s3-list-version {other}'
        return problem(f'version {used}, which is used: {wrong[used]}', hint)
    if other in wrong:
        return note(f'version {used} works; version {other}: {wrong[other]}')
    return ok('both, page by page')


def _what_is_wrong(scratch: ScratchPrefix, version: int, expected: list[str]) -> str:
    """Empty if nothing is."""

    def shorten(params: dict[str, Any], **_event: Any) -> None:
        params['MaxKeys'] = 2

    operation = 'ListObjects' if version == 1 else 'ListObjectsV2'
    bucket = copy.copy(scratch.bucket)
    bucket.requests.list_version = version
    try:
        with bucket.hook(f'before-parameter-build.s3.{operation}', shorten):
            found = [item.key for item in bucket.list(scratch.key('paged/'))]
    except e.Unreachable:
        raise
    except e.StorageException as error:
        return error.message
    if sorted(found) != expected:
        return f'lists {len(found)} of {len(expected)} keys'
    return ''
