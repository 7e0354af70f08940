"""Say what is there."""

import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from freezer.exceptions import VerifyError
from freezer.job.job import Job, Outcome, Table, iso
from freezer.storage import layout
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.reports import ChainReport, Details
from freezer.utils import human

LOG = logging.getLogger(__name__)

_COLUMNS = 80


class InfoJob(Job):
    """What the container holds: all of it, or that of a name or a host.

    A listing has nearly all; what takes requests for each backup comes with ``long``.
    """

    def execute(self) -> Outcome:
        report = self.repository.report()
        chains = [c for c in report.chains if self.is_asked_for(c.identity)]
        looked = self._look(chains) if self.config.long else None
        backups = [self._entry(chain, looked) for chain in chains]
        document = {
            'container': report.container,
            'size': report.size,
            'objects_count': report.objects,
            'backups': backups,
        }
        total = Table(
            ('Container', 'Size', 'Object Count'),
            [(report.container, report.size, report.objects)],
        )
        outcome = Outcome(document, [total], text=[*_tree(backups)])
        if not backups:
            outcome.lines = [self.nothing(report.container)]
        problems = looked.problems if looked else []
        if problems:
            outcome.lines = [f'Problem: {problem}' for problem in problems]
            outcome.failure = VerifyError(
                f'{len(problems)} of {sum(len(b["levels"]) for b in backups)} backups '
                f'are not whole: --action verify says what is left of them'
            )
        return outcome

    def _look(self, chains: Sequence[ChainReport]) -> '_Looked':
        looked = _Looked({}, [])
        wanted = {_key(chain) for chain in chains}
        for stored in self.repository.committed():
            backup = stored.backup
            where = (
                stored.member,
                backup.engine,
                backup.hostname_backup_name,
                backup.level_zero_timestamp,
            )
            if where not in wanted:
                continue
            details: Details | None
            try:
                details = self.repository.details(stored)
            except NotFound:
                # Somebody removes it.
                continue
            except IntegrityError as error:
                LOG.error('%r: %s', backup, error.message)
                looked.problems.append(error.message)
                details = None
            looked.details[(*where, backup.level, backup.timestamp)] = details
        return looked

    def _entry(self, chain: ChainReport, looked: '_Looked | None') -> dict[str, Any]:
        several = self.config.storage == 'multiple'
        host, name = layout.split_identity(chain.identity)
        levels: list[dict[str, Any]] = []
        for level in chain.levels:
            where = (*_key(chain), level.level, level.timestamp)
            if looked is not None and where not in looked.details:
                # Somebody has removed it meanwhile.
                continue
            levels.append(
                {
                    'level': level.level,
                    'time_stamp': level.timestamp,
                    'date': iso(level.timestamp),
                    'size': level.size,
                }
            )
            if looked is not None:
                levels[-1] |= _details(looked.details[where])
        return ({'storage': chain.storage} if several else {}) | {
            'hostname': host,
            'backup_name': name,
            'engine': chain.engine,
            'level_zero': iso(chain.level_zero_timestamp),
            'level_zero_timestamp': chain.level_zero_timestamp,
            'levels': levels,
            'size': chain.size,
        }


class _Looked(NamedTuple):
    """What was found of backups, by chain, level and timestamp, None for a damaged one;
    and what is wrong."""

    details: dict[tuple[str, str, str, int, int, int], Details | None]
    problems: list[str]


def _key(chain: ChainReport) -> tuple[str, str, str, int]:
    return chain.storage, chain.engine, chain.identity, chain.level_zero_timestamp


# For programs


def _details(found: Details | None) -> dict[str, Any]:
    """What ``long`` adds to a level; nulls where it could not be read."""
    marker: Mapping[str, Any] = found.marker if found else {}
    stat = found.stat if found else None
    until = stat.locked_until if stat else None
    return {
        'whole': found is not None,
        'compression': marker.get('compression'),
        'encryption': _encryption(marker) if found else None,
        'volumes_count': found.volumes if found else None,
        'data_size': found.size if found else None,
        'digests': found.digests if found else None,
        'storage_class': stat.storage_class if stat else None,
        'lock_mode': stat.lock_mode if stat else None,
        'locked_until': None if until is None else iso(until),
        'legal_hold': stat.legal_hold if stat else None,
    }


def _encryption(marker: Mapping[str, Any]) -> str | None:
    """The format's name; None for none."""
    if marker.get(layout.FORMAT_KEY):
        return str(marker[layout.FORMAT_KEY])
    return 'openssl' if marker.get('encryption') else None


# For people


class _Lines(NamedTuple):
    """What a tree is drawn with: before an entry, and before what is below it."""

    entry: str
    last: str
    below: str
    below_last: str


_DRAWN = _Lines('├─ ', '└─ ', '│  ', '   ')
_TYPED = _Lines('|- ', '`- ', '|  ', '   ')


def _lines() -> _Lines:
    try:
        ''.join(_DRAWN).encode(sys.stdout.encoding or 'ascii')
    except UnicodeEncodeError:
        return _TYPED
    return _DRAWN


def _tree(backups: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A tree for each name: its chains, and their levels, oldest first."""

    def name(backup: dict[str, Any]) -> tuple[str, str, str]:
        return backup.get('storage', ''), backup['hostname'], backup['backup_name']

    lines = _lines()
    for (storage, host, title), group in groupby(sorted(backups, key=name), name):
        chains = list(group)
        yield ''
        member = f'[storage:{storage}] ' if storage else ''
        size = human.size(sum(chain['size'] for chain in chains))
        yield _spread(
            f'{member}{host} / {title}',
            f'{_count(len(chains), "chain")}, {size}',
        )
        for number, chain in enumerate(chains, 1):
            last = number == len(chains)
            yield from _chain(
                chain,
                lines.last if last else lines.entry,
                lines.below_last if last else lines.below,
                lines,
            )


def _chain(
    chain: dict[str, Any], before: str, below: str, lines: _Lines
) -> Iterator[str]:
    levels = chain['levels']
    yield _spread(
        f'{before}chain of {chain["level_zero"]}, {chain["engine"]}',
        f'{_count(len(levels), "level")}, {human.size(chain["size"])}',
    )
    for number, level in enumerate(levels, 1):
        last = number == len(levels)
        yield _spread(
            f'{below}{lines.last if last else lines.entry}level {level["level"]:<3} '
            f'{level["date"]}',
            human.size(level['size']),
        )
        if 'whole' in level:
            before = f'{below}{lines.below_last if last else lines.below}'
            yield from textwrap.wrap(
                _said(level),
                _COLUMNS,
                initial_indent=before,
                subsequent_indent=before,
                break_long_words=False,
                break_on_hyphens=False,
            )


def _said(level: dict[str, Any]) -> str:
    """A level's details, in words."""
    if not level['whole']:
        return 'damaged'
    said = [
        level['compression'] or 'compression not said',
        f'encrypted ({level["encryption"]})'
        if level['encryption']
        else 'not encrypted',
        _count(level['volumes_count'], 'volume'),
    ]
    if not level['digests']:
        said.append('no digests')
    if level['storage_class']:
        said.append(f'class {level["storage_class"]}')
    if level['locked_until']:
        said.append(f'{level["lock_mode"]} lock until {level["locked_until"]}')
    if level['legal_hold']:
        said.append('legal hold')
    return ', '.join(said)


def _spread(left: str, right: str) -> str:
    """One at each edge of the screen; a long name takes more than a screen."""
    return f'{left} {right:>{max(_COLUMNS - len(left) - 1, 0)}}'


def _count(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'
