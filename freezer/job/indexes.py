"""Makes the indexes of stored levels that have none."""

import logging

from freezer.engine.rebuild import ChainRebuilder, NoIndexError
from freezer.exceptions import FreezerError
from freezer.job.job import Job, Outcome, describe_levels
from freezer.storage import levels, manifest
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    NotFound,
    Rejected,
)
from freezer.storage.levels import NoSuchBackup
from freezer.utils import human

LOG = logging.getLogger(__name__)

# Of one level; other errors concern the storage.
_OF_A_LEVEL = (FreezerError, IntegrityError, NotFound, Conflict, Rejected)


def rebuild_indexes(job: Job) -> Outcome:
    """Make indexes for the levels of a name, or of all names of the host.

    :raises NoSuchBackup: none is selected
    :raises StorageException: the storage cannot be read, or not be written to
    """
    chains = _chains(job)
    failed = without = made = 0
    for chain in chains:
        if job.config.dry_run:
            for stored in chain:
                if manifest.INDEX_KEY not in stored.marker:
                    job.say(f'Would make the index of {_name(stored)}')
            continue
        with ChainRebuilder(job.engine, job.settings, job.repository) as rebuilder:
            for stored in chain:
                below = levels.needed(stored, chain)[::-1]
                try:
                    made += _rebuild(job, rebuilder, stored, below)
                except NoIndexError as error:
                    without += 1
                    _say(job, f'No index for {_name(stored)}: {error}')
                except _OF_A_LEVEL as error:
                    failed += 1
                    _say(job, f'Problem: {_name(stored)}: {error}')
    return _outcome(job, made, without, failed)


def _chains(job: Job) -> list[list[StoredLevel]]:
    config = job.config
    committed = job.repository.committed()
    present = [each for each in committed if each.backup.engine == config.engine_name]
    chains: dict[tuple[str, str, int], list[StoredLevel]] = {}
    for stored in present:
        identity = stored.backup.hostname_backup_name
        if identity.startswith(f'{config.hostname}_') and job.is_selected(stored):
            key = stored.member, identity, stored.level_zero_timestamp
            chains.setdefault(key, []).append(stored)
    if not chains:
        identities = [each.backup.hostname_backup_name for each in present]
        container = ', '.join(settings.container for _, settings in config.storages)
        raise NoSuchBackup(job.none_selected(container, identities))
    return list(chains.values())


def _rebuild(
    job: Job,
    rebuilder: ChainRebuilder,
    stored: StoredLevel,
    below: list[StoredLevel],
) -> bool:
    """Whether an index was made; False if there is one already."""
    job.progress.phase = f'Looking at level {stored.level}'
    if rebuilder.has_index(stored):
        return False
    job.progress.begin()
    job.progress.phase = f'Reading level {stored.level}'
    count = rebuilder.rebuild(stored, below)
    _say(job, f'Made the index of {_name(stored)}: {human.number(count, "record")}')
    return True


def _say(job: Job, line: str) -> None:
    LOG.info('%s', line)
    job.say(line)


def _outcome(job: Job, made: int, without: int, failed: int) -> Outcome:
    if job.config.dry_run:
        return Outcome()
    outcome = Outcome(lines=[f'Made {_count(made)}'])
    if without:
        outcome.lines = [*outcome.lines, f'{human.number(without, "level")} without']
    if failed:
        outcome.failure = FreezerError(
            f'{human.number(failed, "level")} could not be read or changed: see above'
        )
    return outcome


def _count(made: int) -> str:
    return '1 index' if made == 1 else f'{made} indexes'


def _name(stored: StoredLevel) -> str:
    member = f'[storage:{stored.member}] ' if stored.member else ''
    return f'{member}{stored.backup.hostname_backup_name}, {describe_levels([stored])}'
