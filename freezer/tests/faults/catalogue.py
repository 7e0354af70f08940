"""The sixty faults: what goes wrong, and what has to come of it.

Each has tests in this folder that are named after its number. The invariant of all:
exit 0 if and only if the backup restores byte for byte; a failed backup is never
listed; no secret in any output.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Row(NamedTuple):
    fault: str
    outcome: str


ROWS = {
    1: Row('connection reset in the middle of a part', 'sent again'),
    2: Row('connection closed before any answer', 'asked again'),
    3: Row('a part stalls', 'given up in time, sent again'),
    4: Row('503 for a while', 'waits, then succeeds'),
    5: Row('503 for ever', 'gives up in time, nothing left'),
    6: Row('429, 499, 409 OperationAborted', 'asked again'),
    7: Row('400 RequestTimeout, BadDigest', 'part sent again'),
    8: Row('a bit flipped on the way', 'refused or noticed, sent again'),
    9: Row('a part answered without ETag', 'sent again, never completed without'),
    10: Row('Complete answers 200 and an error', 'asked again'),
    11: Row('Complete answers 200 and nothing, or half', 'looks at the object itself'),
    12: Row('Complete done, its answer lost', 'success, one object'),
    13: Row('Complete refused, an older object at the key', 'failure'),
    14: Row('Complete takes long', 'waited for, not aborted'),
    15: Row('Complete refused for good', 'one Abort, failure'),
    16: Row('the Abort fails as well', 'first error told, upload journalled'),
    17: Row('a store that wants equal parts', 'it gets them'),
    18: Row('a store of 1,000 parts an object', 'the next volume'),
    19: Row('sizes around a part: none, one byte less, more', 'byte for byte'),
    20: Row('tar dies in the middle', 'aborted, failure'),
    21: Row('a file shrinks while it is read', 'restores, and a warning'),
    22: Row('the store has expired the upload', 'failure that says so'),
    23: Row('the session token expires', 'failure, upload journalled'),
    24: Row('wrong keys', 'no repetition, no key printed'),
    25: Row('no bucket, or it vanishes', 'named; made only if allowed'),
    26: Row('keys that may only read', 'failure before the source is read'),
    27: Row('certificate untrusted, expired, of another host', 'refused'),
    28: Row('no such name, refused, no answer at all', 'gives up in time'),
    29: Row('endpoint or bucket name malformed', 'error before any work'),
    30: Row('wrong region: 301, 307, 400', 'an error that names the region'),
    31: Row('clock 20 minutes off', 'corrected by the Date of the store'),
    32: Row('retention by a clock far ahead', 'no mass deletion'),
    33: Row('SIGTERM, SIGINT, SIGHUP during an upload', 'aborted, children gone'),
    34: Row('SIGKILL at any step', 'not listed; the next run cleans up'),
    35: Row('clean-up meets the upload of a living agent', 'leaves it'),
    36: Row('the list of uploads is empty', 'the journal cleans up'),
    37: Row('two agents, one name, one second', 'both whole, or one refused'),
    38: Row('a store that ignores If-None-Match', 'another claim, and a listing'),
    39: Row('our own repetition meets 412', 'taken for what it is'),
    40: Row('the marker cannot be written', 'not listed, nothing left'),
    41: Row('a marker that is damaged', 'named; the others are listed'),
    42: Row('listing answers 500, HTML, or half', 'an error, never "no backups"'),
    43: Row(
        'more than a page of keys, odd and foreign ones', 'all seen, strangers ignored'
    ),
    44: Row('a download ends early: FIN, RST, stall', 'goes on'),
    45: Row('... of no told length', 'noticed, goes on'),
    46: Row('a range answered with 200, or another range', 'refused, asked again'),
    47: Row('the object is replaced between ranges', 'noticed'),
    48: Row('a bit flipped at rest', 'restore and verify fail, and name it'),
    49: Row('data missing or cut off at rest', 'restore and verify fail'),
    50: Row('an increment in the middle is missing', 'refused before it begins'),
    51: Row('wrong passphrase, damaged ciphertext', 'noticed before success'),
    52: Row('no space, read errors, quota at restore', 'failure, said to be partial'),
    53: Row('restore into what is there', 'refused; nothing is removed'),
    54: Row('../, absolute names, devices, setuid', 'blocked, or as documented'),
    55: Row('escapes by symbolic and hard links', 'nothing outside of the target'),
    56: Row('hostile records of renames, deletions', 'nothing outside of the target'),
    57: Row('compression bombs', 'stopped at a limit'),
    58: Row('a deletion that is refused in part', 'told, failure, marker first'),
    59: Row('a deletion that is interrupted', 'not listed; the next run finishes'),
    60: Row('secrets in logs, messages, arguments, files', 'none'),
}

NOT_RUN: Mapping[int, str] = {}
"""Why a fault has no test."""


def table(
    outcomes: Mapping[int, Mapping[str, int]], where: Mapping[int, set[str]]
) -> Iterator[str]:
    """The catalogue, a line each.

    :param outcomes: number -> how many of its tests passed, failed ...
    :param where: number -> names of servers
    """
    width = max(len(row.fault) for row in ROWS.values())
    wide = max(len(row.outcome) for row in ROWS.values())
    passed = 0
    for number, row in ROWS.items():
        found = outcomes.get(number, {})
        if found and set(found) == {'passed'}:
            said = f'pass ({found["passed"]})'
            passed += 1
        else:
            said = ', '.join(f'{count} {what}' for what, count in found.items())
        said = said or NOT_RUN.get(number, 'not run')
        on = ', '.join(sorted(where.get(number, ()))) or '-'
        yield f'{number:2}  {row.fault:{width}}  {row.outcome:{wide}}  {on:24}  {said}'
    yield f'{passed} of {len(ROWS)} pass'
