"""Action info: the backups in a container."""

import logging
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from freezer.exceptions import VerifyError
from freezer.job.job import Job, Outcome, Table, iso, shortened
from freezer.storage import layout
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.levels import fetch_markers, readable_marker
from freezer.storage.reports import ChainReport, Details
from freezer.utils import human, streams
from freezer.utils.text import at_most, columns_of, printable

LOG = logging.getLogger(__name__)

T = TypeVar('T')

_COLUMNS = 80


# The name of a storage among several, and a backup on it.
_Key = tuple[str, Backup]


class _Found(NamedTuple):
    """What the markers add, and with ``--long`` more.

    :param labels: tags and note; empty for a damaged marker
    :param details: None if the level is damaged. A backup that was removed after the
        listing is missing in both.
    """

    labels: dict[_Key, dict[str, Any]]
    details: dict[_Key, Details | None]
    problems: list[str]


class InfoJob(Job):
    """Lists the backups in the container: all, or those of a name or a host.

    One listing shows most of it, and the marker of the newest level of each name the
    rest; ``--long``, ``--tag`` and ``--last`` need requests for each backup.
    """

    takes_tag = True

    def execute(self) -> Outcome:
        report = self.repository.report()
        chains = [c for c in report.chains if self.may_be_selected(c.identity)]
        newest = self._newest_levels(chains)
        chains = [c for c in chains if c not in newest or self.is_selected(newest[c])]
        found = self._find(newest.values()) if self._needs_markers else None
        entries = (self._chain_entry(c, newest.get(c), found) for c in chains)
        # Without levels: filtered out, of another owner, or removed meanwhile.
        backups = [entry for entry in entries if entry['levels']]
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
        if chains and not backups and self.config.tag:
            outcome.lines = [f'No backup has the tag {", ".join(self.config.tag)}']
        elif not backups:
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

    def _newest_levels(
        self, chains: Sequence[ChainReport]
    ) -> dict[ChainReport, StoredLevel]:
        """The newest level of some chains, with its marker, which says whether it is
        complete and whose it is.

        Of each name that is the newest chain; and all chains whose owner the folder's
        name does not tell.
        """
        latest = {
            (c.storage, c.engine, c.identity): c
            for c in sorted(chains, key=lambda c: c.level_zero_timestamp)
        }
        found = {}
        for chain in chains:
            key = chain.storage, chain.engine, chain.identity
            if latest[key] is chain or layout.is_ambiguous(chain.identity):
                zero, last = chain.level_zero_timestamp, chain.levels[-1]
                at = (chain.engine, chain.identity, zero, last.timestamp, last.level)
                storage = self.repository.storages[chain.storage]
                found[chain] = StoredLevel(storage, Backup(*at), chain.storage)
        fetch_markers(found.values())
        return found

    @property
    def _filters(self) -> bool:
        """Whether some levels are left out."""
        return bool(self.config.tag or self.config.last)

    @property
    def _needs_markers(self) -> bool:
        return self.config.long or self._filters

    def _find(self, known: Iterable[StoredLevel]) -> _Found:
        """Read the markers of the levels to show.

        :param known: levels whose markers were read
        """
        read = {(each.member, each.backup): each for each in known}
        tags, long, last = self.config.tag, self.config.long, self.config.last
        levels = [
            read.get((stored.member, stored.backup), stored)
            for stored in self.repository.committed()
            if self.may_be_selected(stored.backup.hostname_backup_name)
        ]
        if tags:
            fetch_markers(levels)
            levels = [stored for stored in levels if stored.has_tags(tags)]
        if last:
            levels = _newest(levels, last)
        fetch_markers(levels)
        found = _Found({}, {}, [])
        for stored in levels:
            if not self.is_selected(stored):
                continue
            key = stored.member, stored.backup
            details = None
            try:
                labels = {'tags': [*stored.tags], 'note': stored.note}
                if long:
                    details = self.repository.details(stored)
            except NotFound:
                # It was removed meanwhile.
                continue
            except IntegrityError as error:
                LOG.error('%r: %s', stored.backup, error.message)
                found.problems.append(error.message)
                labels = {'tags': [], 'note': ''}
            found.labels[key] = labels
            if long:
                found.details[key] = details
        return found

    def _chain_entry(
        self, chain: ChainReport, newest: StoredLevel | None, found: _Found | None
    ) -> dict[str, Any]:
        several = self.config.storage == 'multiple'
        marker = readable_marker(newest) if newest else None
        owner = newest.owner if newest and marker is not None else None
        host, name = owner or layout.split_identity(chain.identity)
        zero = chain.level_zero_timestamp
        levels: list[dict[str, Any]] = []
        for level in chain.levels:
            entry = {
                'level': level.level,
                'time_stamp': level.timestamp,
                'date': iso(level.timestamp),
                'size': level.size,
                'pinned': level.pinned,
            }
            if found is not None:
                at = (chain.engine, chain.identity, zero, level.timestamp, level.level)
                key = (chain.storage, Backup(*at))
                if key not in found.labels:
                    continue
                entry |= found.labels[key]
                if key in found.details:
                    entry |= _details_entry(found.details[key])
            elif marker is not None and level is chain.levels[-1]:
                entry['incomplete'] = marker.get(layout.INCOMPLETE_KEY, 0)
            levels.append(entry)
        size = sum(e['size'] for e in levels) if self._filters else chain.size
        return ({'storage': chain.storage} if several else {}) | {
            'hostname': host,
            'backup_name': name,
            'engine': chain.engine,
            'level_zero': iso(zero),
            'level_zero_timestamp': zero,
            'levels': levels,
            'size': size,
        }


def _newest(levels: Sequence[StoredLevel], count: int) -> list[StoredLevel]:
    """The newest levels of each name on each storage."""
    by_name: dict[tuple[str, str, str], list[StoredLevel]] = {}
    for each in sorted(levels, key=lambda each: each.timestamp):
        name = each.member, each.backup.engine, each.backup.hostname_backup_name
        by_name.setdefault(name, []).append(each)
    return [each for some in by_name.values() for each in some[-count:]]


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
        'parts': [*found.parts] if found else None,
        'data_size': found.size if found else None,
        'digests': found.digests if found else None,
        'storage_class': stat.storage_class if stat else None,
        'lock_mode': stat.lock_mode if stat else None,
        'locked_until': None if until is None else iso(until),
        'legal_hold': stat.legal_hold if stat else None,
        'about': _about(marker),
        'application': _application(marker),
    }


def _about(marker: Mapping[str, Any]) -> dict[str, str]:
    """What the engine says of the source."""
    found = marker.get(layout.ABOUT_KEY)
    if not isinstance(found, dict):
        return {}
    return {str(key): str(value) for key, value in found.items()}


def _application(marker: Mapping[str, Any]) -> dict[str, Any]:
    """What the mode recorded of the application."""
    found = marker.get(layout.APPLICATION_KEY)
    return {**found} if isinstance(found, Mapping) else {}


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
    """A tree for each name: its chains and their levels, oldest first.

    A line that is too long for the terminal is wrapped.
    """
    width = min(streams.columns() or _COLUMNS, _COLUMNS)

    def name(backup: dict[str, Any]) -> tuple[str, str, str]:
        return backup.get('storage', ''), backup['hostname'], backup['backup_name']

    for (storage, host, title), group in groupby(sorted(backups, key=name), name):
        chains = list(group)
        yield ''
        member = f'[storage:{storage}] ' if storage else ''
        size = human.size(sum(chain['size'] for chain in chains))
        yield from _justify(
            f'{member}{host} / {title}',
            f'{human.number(len(chains), "chain")}, {size}',
            width,
        )
        for chain, entry, below in _branches(chains):
            count = human.number(len(chain['levels']), 'level')
            yield from _justify(
                f'{entry}chain of {chain["level_zero"]}, {chain["engine"]}',
                f'{count}, {human.size(chain["size"])}',
                width,
            )
            for level, entry, deeper in _branches(chain['levels']):
                text = f'{below}{entry}level {level["level"]:<3} {level["date"]}'
                if 'whole' not in level and level.get('incomplete'):
                    text += f', {_incomplete(level)}'
                if level['pinned']:
                    text += '  pinned'
                yield from _justify(text, human.size(level['size']), width)
                if words := _describe(level):
                    yield from textwrap.wrap(
                        words,
                        width,
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
    """A level's tags, note and details in words, as far as they are known."""
    words = _details(level) if 'whole' in level else []
    if level.get('tags'):
        words.append(f'tags: {" ".join(map(printable, level["tags"]))}')
    if level.get('note'):
        words.append(f'note: {printable(level["note"])}')
    return ', '.join(words)


def _details(level: dict[str, Any]) -> list[str]:
    if not level['whole']:
        return ['damaged']
    words = [
        level['compression'] or 'compression unknown',
        f'encrypted ({level["encryption"]})'
        if level['encryption']
        else 'not encrypted',
        human.number(level['volumes_count'], 'volume'),
    ]
    if level['parts']:
        words.append(f'parts: {" ".join(level["parts"])}')
    if level['incomplete']:
        words.append(_incomplete(level))
    if not level['digests']:
        words.append('no digests')
    if level['storage_class']:
        words.append(f'class {level["storage_class"]}')
    if level['locked_until']:
        words.append(f'{level["lock_mode"]} lock until {level["locked_until"]}')
    if level['legal_hold']:
        words.append('legal hold')
    for key, value in level['about'].items():
        words.append(f'{printable(key)}: {printable(value)}')
    words += (
        f'{key.replace("_", " ")} {printable(str(value))}'
        for key, value in level['application'].items()
    )
    return words


def _incomplete(level: dict[str, Any]) -> str:
    return f'incomplete ({human.number(level["incomplete"], "read error")})'


def _justify(left: str, right: str, width: int) -> Iterator[str]:
    """A text at each edge of the screen. If they do not fit into one line, a terminal
    gets more; a file or a pipe gets a line that is longer."""
    left = printable(left)
    room = width - columns_of(left) - 1
    if room >= len(right) or not streams.is_terminal():
        yield f'{left} {right:>{max(room, 0)}}'
        return
    while left:
        line = at_most(left, width)
        yield line
        left = left[len(line) :]
    yield f'{right:>{width}}'
