"""Action info: the backups in a container."""

import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from freezer.exceptions import VerifyError
from freezer.job.job import Job, Outcome, Table, iso, shortened
from freezer.storage import layout
from freezer.storage.backup import Backup
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.reports import ChainReport, Details
from freezer.utils import human

LOG = logging.getLogger(__name__)

T = TypeVar('T')

_COLUMNS = 80


class _Found(NamedTuple):
    """What ``--long`` adds.

    :param details: (storage, backup) -> details, None if it is damaged; a backup that
        was removed after the listing is missing
    """

    details: dict[tuple[str, Backup], Details | None]
    problems: list[str]


class InfoJob(Job):
    """Lists the backups in the container: all, or those of a name or a host.

    One listing shows most of it; ``--long`` needs requests for each backup.
    """

    def execute(self) -> Outcome:
        report = self.repository.report()
        chains = [c for c in report.chains if self.is_selected(c.identity)]
        found = self._find_details() if self.config.long else None
        backups = [self._chain_entry(chain, found) for chain in chains]
        document = {
            'container': report.container,
            'size': report.size,
            'objects_count': report.objects,
            'backups': backups,
            'prefixes': list(report.prefixes),
        }
        total = Table(
            ('Container', 'Size', 'Object Count'),
            [(report.container, report.size, report.objects)],
        )
        outcome = Outcome(document, [total], text=[*_tree(backups)])
        if not backups:
            present = [chain.identity for chain in report.chains]
            outcome.lines = [self.none_selected(report.container, present)]
        if report.prefixes:
            outcome.lines = [
                *outcome.lines,
                'Containers below this one that hold backups: '
                + shortened(report.prefixes),
            ]
        if found is not None and found.problems:
            outcome.lines = [
                *(f'Problem: {problem}' for problem in found.problems),
                *outcome.lines,
            ]
            outcome.failure = VerifyError(
                f'{len(found.problems)} of {sum(len(b["levels"]) for b in backups)} '
                f'backups are damaged: --action verify shows what can be restored'
            )
        return outcome

    def _find_details(self) -> _Found:
        found = _Found({}, [])
        for stored in self.repository.committed():
            backup = stored.backup
            if not self.is_selected(backup.hostname_backup_name):
                continue
            details: Details | None
            try:
                details = self.repository.details(stored)
            except NotFound:
                # It was removed meanwhile.
                continue
            except IntegrityError as error:
                LOG.error('%r: %s', backup, error.message)
                found.problems.append(error.message)
                details = None
            found.details[stored.member, backup] = details
        return found

    def _chain_entry(self, chain: ChainReport, found: _Found | None) -> dict[str, Any]:
        several = self.config.storage == 'multiple'
        host, name = layout.split_identity(chain.identity)
        zero = chain.level_zero_timestamp
        levels: list[dict[str, Any]] = []
        for level in chain.levels:
            entry = {
                'level': level.level,
                'time_stamp': level.timestamp,
                'date': iso(level.timestamp),
                'size': level.size,
            }
            if found is not None:
                at = (chain.engine, chain.identity, zero, level.timestamp, level.level)
                key = (chain.storage, Backup(*at))
                if key not in found.details:
                    continue
                entry |= _details_entry(found.details[key])
            levels.append(entry)
        return ({'storage': chain.storage} if several else {}) | {
            'hostname': host,
            'backup_name': name,
            'engine': chain.engine,
            'level_zero': iso(zero),
            'level_zero_timestamp': zero,
            'levels': levels,
            'size': chain.size,
        }


def _details_entry(found: Details | None) -> dict[str, Any]:
    """What ``--long`` adds to a level; nulls if it is damaged."""
    marker: Mapping[str, Any] = found.marker if found else {}
    stat = found.stat if found else None
    until = stat.locked_until if stat else None
    return {
        'whole': found is not None,
        'compression': marker.get('compression'),
        'encryption': _encryption(marker),
        'incomplete': marker.get(layout.INCOMPLETE_KEY, 0) if found else None,
        'volumes_count': found.volumes if found else None,
        'data_size': found.size if found else None,
        'digests': found.digests if found else None,
        'storage_class': stat.storage_class if stat else None,
        'lock_mode': stat.lock_mode if stat else None,
        'locked_until': None if until is None else iso(until),
        'legal_hold': stat.legal_hold if stat else None,
    }


def _encryption(marker: Mapping[str, Any]) -> str | None:
    """The name of the format."""
    if marker.get(layout.FORMAT_KEY):
        return str(marker[layout.FORMAT_KEY])
    return 'openssl' if marker.get('encryption') else None


# The tree

# Before an entry and before the last one; the same for what is below them.
_LINES = ('├─ ', '└─ ', '│  ', '   ')
_ASCII_LINES = ('|- ', '`- ', '|  ', '   ')


def _tree(backups: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A tree for each name: its chains and their levels, oldest first."""

    def name(backup: dict[str, Any]) -> tuple[str, str, str]:
        return backup.get('storage', ''), backup['hostname'], backup['backup_name']

    for (storage, host, title), group in groupby(sorted(backups, key=name), name):
        chains = list(group)
        yield ''
        member = f'[storage:{storage}] ' if storage else ''
        size = human.size(sum(chain['size'] for chain in chains))
        yield _justify(
            f'{member}{host} / {title}', f'{human.number(len(chains), "chain")}, {size}'
        )
        for chain, entry, below in _branches(chains):
            count = human.number(len(chain['levels']), 'level')
            yield _justify(
                f'{entry}chain of {chain["level_zero"]}, {chain["engine"]}',
                f'{count}, {human.size(chain["size"])}',
            )
            for level, entry, deeper in _branches(chain['levels']):
                yield _justify(
                    f'{below}{entry}level {level["level"]:<3} {level["date"]}',
                    human.size(level['size']),
                )
                if 'whole' in level:
                    yield from textwrap.wrap(
                        _describe(level),
                        _COLUMNS,
                        initial_indent=below + deeper,
                        subsequent_indent=below + deeper,
                        break_long_words=False,
                        break_on_hyphens=False,
                    )


def _branches(entries: Sequence[T]) -> Iterator[tuple[T, str, str]]:
    """Each entry, what is drawn before it, and before what is below it."""
    lines = _LINES
    try:
        ''.join(lines).encode(sys.stdout.encoding or 'ascii')
    except UnicodeEncodeError:
        lines = _ASCII_LINES
    for number, entry in enumerate(entries, 1):
        last = number == len(entries)
        yield entry, lines[last], lines[2 + last]


def _describe(level: dict[str, Any]) -> str:
    """A level's details in words."""
    if not level['whole']:
        return 'damaged'
    words = [
        level['compression'] or 'compression unknown',
        f'encrypted ({level["encryption"]})'
        if level['encryption']
        else 'not encrypted',
        human.number(level['volumes_count'], 'volume'),
    ]
    if level['incomplete']:
        words.append(f'incomplete ({human.number(level["incomplete"], "read error")})')
    if not level['digests']:
        words.append('no digests')
    if level['storage_class']:
        words.append(f'class {level["storage_class"]}')
    if level['locked_until']:
        words.append(f'{level["lock_mode"]} lock until {level["locked_until"]}')
    if level['legal_hold']:
        words.append('legal hold')
    return ', '.join(words)


def _justify(left: str, right: str) -> str:
    """A text at each edge of the screen; a long name may make the line longer."""
    return f'{left} {right:>{max(_COLUMNS - len(left) - 1, 0)}}'
