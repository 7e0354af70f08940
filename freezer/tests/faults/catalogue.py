"""The sixty faults: what goes wrong, and what has to come of it.

Each has tests in this folder that are named after its number. The invariant of all:
exit 0 if and only if the backup restores byte for byte; a failed backup is never
listed; no secret in any output.
"""

from collections.abc import Iterator, Mapping

#: number -> what goes wrong, what has to come of it
ROWS: dict[int, tuple[str, str]] = {
    1: ('connection reset in the middle of a part', 'sent again'),
    2: ('connection closed before any answer', 'asked again'),
    3: ('a part stalls', 'given up in time, sent again'),
    4: ('503 for a while', 'waits, then succeeds'),
    5: ('503 for ever', 'gives up in time, nothing left'),
    6: ('429, 499, 409 OperationAborted', 'asked again'),
    7: ('400 RequestTimeout, BadDigest', 'part sent again'),
    8: ('a bit flipped on the way', 'refused or noticed, sent again'),
    9: ('a part answered without ETag', 'sent again, never completed without'),
    10: ('Complete answers 200 and an error', 'asked again'),
    11: ('Complete answers 200 and nothing, or half', 'looks at the object itself'),
    12: ('Complete done, its answer lost', 'success, one object'),
    13: ('Complete refused, an older object at the key', 'failure'),
    14: ('Complete takes long', 'waited for, not aborted'),
    15: ('Complete refused for good', 'one Abort, failure'),
    16: ('the Abort fails as well', 'first error told, upload journalled'),
    17: ('a store that wants equal parts', 'it gets them'),
    18: ('a store of 1,000 parts an object', 'the next volume'),
    19: ('sizes around a part: none, one byte less, more', 'byte for byte'),
    20: ('tar dies in the middle', 'aborted, failure'),
    21: ('a file shrinks while it is read', 'incomplete, restored without its zeros'),
    22: ('the store has expired the upload', 'failure that says so'),
    23: ('the session token expires', 'failure, upload journalled'),
    24: ('wrong keys', 'no repetition, no key printed'),
    25: ('no bucket, or it vanishes', 'named; made only if allowed'),
    26: ('keys that may only read', 'failure before the source is read'),
    27: ('certificate untrusted, expired, of another host', 'refused'),
    28: ('no such name, refused, no answer at all', 'gives up in time'),
    29: ('endpoint or bucket name malformed', 'error before any work'),
    30: ('wrong region: 301, 307, 400', 'an error that names the region'),
    31: ('clock 20 minutes off', 'corrected by the Date of the store'),
    32: ('retention by a clock far ahead', 'no mass deletion'),
    33: ('SIGTERM, SIGINT, SIGHUP during an upload', 'aborted, children gone'),
    34: ('SIGKILL at any step', 'not listed; the next run cleans up'),
    35: ('clean-up meets the upload of a living agent', 'leaves it'),
    36: ('the list of uploads is empty', 'the journal cleans up'),
    37: ('two agents, one name, one second', 'both whole, or one refused'),
    38: ('a store that ignores If-None-Match', 'another claim, and a listing'),
    39: ('our own repetition meets 412', 'taken for what it is'),
    40: ('the marker cannot be written', 'not listed, nothing left'),
    41: ('a marker that is damaged', 'named; the others are listed'),
    42: ('listing answers 500, HTML, or half', 'an error, never "no backups"'),
    43: (
        'more than a page of keys, odd and foreign ones',
        'all seen, strangers ignored',
    ),
    44: ('a download ends early: FIN, RST, stall', 'goes on'),
    45: ('... of no told length', 'noticed, goes on'),
    46: ('a range answered with 200, or another range', 'refused, asked again'),
    47: ('the object is replaced between ranges', 'noticed'),
    48: ('a bit flipped at rest', 'restore and verify fail, and name it'),
    49: ('data missing or cut off at rest', 'restore and verify fail'),
    50: ('an increment in the middle is missing', 'refused before it begins'),
    51: ('wrong passphrase, damaged ciphertext', 'noticed before success'),
    52: ('no space, read errors, quota at restore', 'failure, said to be partial'),
    53: ('restore into what is there', 'refused; nothing is removed'),
    54: ('../, absolute names, devices, setuid', 'blocked, or as documented'),
    55: ('escapes by symbolic and hard links', 'nothing outside of the target'),
    56: ('hostile records of renames, deletions', 'nothing outside of the target'),
    57: ('compression bombs', 'stopped at a limit'),
    58: ('a deletion that is refused in part', 'told, failure, marker first'),
    59: ('a deletion that is interrupted', 'not listed; the next run finishes'),
    60: ('secrets in logs, messages, arguments, files', 'none'),
}


def table(outcomes: Mapping[int, Mapping[str, int]]) -> Iterator[str]:
    """The catalogue, a line each.

    :param outcomes: number -> how many of its tests passed, failed ...
    """
    width, wide = (max(map(len, column)) for column in zip(*ROWS.values(), strict=True))
    for number, (fault, outcome) in ROWS.items():
        found = outcomes.get(number, {'not run': 1})
        said = ', '.join(f'{count} {what}' for what, count in found.items())
        yield f'{number:2}  {fault:{width}}  {outcome:{wide}}  {said}'
    passed = sum(set(found) == {'passed'} for found in outcomes.values())
    yield f'{passed} of {len(ROWS)} pass'
