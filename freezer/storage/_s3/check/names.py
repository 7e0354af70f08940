"""Probes of unusual characters in keys."""

import secrets

from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import Finding, note, ok


def odd_names(scratch: ScratchPrefix) -> Finding:
    odd = {'space': 'a b', '+': 'a+b', '%': 'a%20b', 'ü': 'für', '&': 'a&<b>'}
    lost = [shown for shown, name in odd.items() if _change_of(scratch, name)]
    if lost:
        return note(f'not kept: {" ".join(lost)}', 'a --backup-name without them')
    return ok(f'kept: {" ".join(odd)}')


def backslash(scratch: ScratchPrefix) -> Finding:
    change = _change_of(scratch, 'back\\slash')
    return note(change, 'a --backup-name without it') if change else ok('kept')


def double_slash(scratch: ScratchPrefix) -> Finding:
    change = _change_of(scratch, 'double//slash')
    return note(f'{change}; the agent makes none') if change else ok('kept')


def _change_of(scratch: ScratchPrefix, name: str) -> str:
    """What the store makes of a key with that name; empty if it keeps it."""
    # The folder's name is plain, so that its listing finds whatever the rest becomes.
    folder = f'odd/{secrets.token_hex(4)}/'
    content = name.encode()
    answer = scratch.probe_put(folder + name, content)
    if isinstance(answer, Refusal):
        return f'refused: {answer}'
    prefix = scratch.key(folder)
    listed = [key.removeprefix(prefix) for key in scratch.listed(folder)]
    if listed != [name]:
        return f'becomes {" and ".join(listed)}' if listed else 'is not listed'
    if scratch.get(folder + name) != content:
        return 'other bytes came back'
    return ''
