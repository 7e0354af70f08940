"""Removes old backups, after a backup or with action admin."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError, FreezerError
from freezer.job.job import Job, describe_levels, iso
from freezer.job.resources import owners
from freezer.storage.backup import Backup
from freezer.storage.levels import SECONDS_PER_DAY
from freezer.storage.retention import TOLERATED_SECONDS, Plan, Policy
from freezer.utils import human

LOG = logging.getLogger(__name__)

# Levels that no option keeps, as many as a month of daily backups has: a longer chain
# should end.
_MANY_HELD = 30


def retention_requested(config: AgentConfig) -> bool:
    """Whether to remove old backups. 0 days, which once meant "all", removes none.

    :raises ConfigError: two options contradict each other
    """
    options = {
        'remove-older-than': config.remove_older_than,
        'remove-before-date': config.remove_before_date,
        'the keep options': config.keep,
    }
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise ConfigError(f'{given[0]} and {given[1]}: give one of them')
    return bool(given)


def remove_old(
    job: Job,
    whole: int | None = None,
    coming: Backup | None = None,
    check: Callable[[Sequence[Plan]], None] = lambda plans: None,
) -> None:
    """Remove old backups, if the options request it.

    :param whole: level-0 timestamp of a chain that ``--remove-older-than`` and
        ``--remove-before-date`` leave as it is
    :param coming: the backup that a dry run supposes to be made
    :param check: called with the plans before they are carried out
    """
    config = job.config
    if not retention_requested(config):
        return
    if config.remove_older_than:
        _check_clock(job)
    job.progress.phase = 'Removing old backups'
    now = time.time()
    policy = Policy(now, config.keep, _cutoff(config, now), whole, coming, config.tag)
    plans: list[Plan] = []
    for owner in owners(job):
        plans += job.repository.plan_retention(
            config.engine_name, owner.identity, policy, owner
        )
    check(plans)
    if not config.dry_run:
        job.repository.carry_out(plans)
    for line in lines(plans, policy, config.dry_run):
        LOG.info('%s', line)
        job.say(line)


def _cutoff(config: AgentConfig, now: float) -> int:
    """Epoch seconds: backups made then or before are old. Nothing is older than 0."""
    if config.remove_before_date:
        return max(0, int(config.remove_before_date.timestamp()))
    return int(max(0.0, now - config.remove_older_than * SECONDS_PER_DAY))


def _check_clock(job: Job) -> None:
    """If this clock were far ahead, every backup would look old.

    :raises FreezerError: it is, compared with the storage's
    """
    theirs = job.repository.time()
    ahead = 0 if theirs is None else time.time() - theirs
    if ahead > TOLERATED_SECONDS:
        raise FreezerError(
            f"this machine's clock is {ahead:.0f} s ahead of the storage's, so "
            f'remove-older-than removed nothing: set the clock, or use '
            f'--remove-before-date'
        )


def lines(plans: Sequence[Plan], policy: Policy, dry_run: bool) -> Iterator[str]:
    """What is removed; in a dry run, also what stays of the chains in question."""
    removed = 'Would remove' if dry_run else 'Removed'
    for plan in plans:
        if dry_run and (policy.rules or any(each.stays for each in plan.decisions)):
            yield from _states(plan)
            continue
        for zero, chain in plan.removed.items():
            yield f'{removed} {plan.name} of {iso(zero)}: {describe_levels(chain)}'
    if policy.rules:
        yield from (_kept(plan, dry_run) for plan in plans if plan.decisions)
        if dry_run:
            for plan in plans:
                yield from _long_chain(plan)
    elif not any(plan.removed for plan in plans):
        others = ', or is kept by a pin or for want of the tag'
        yield (
            f'Nothing to remove: every chain has a backup newer than '
            f'{iso(policy.cutoff)}{others if any(p.decisions for p in plans) else ""}'
        )


def _states(plan: Plan) -> Iterator[str]:
    """A line for each level: whether it stays, its size, and why."""
    for each in sorted(plan.decisions, key=lambda each: each.stored.timestamp):
        stored = each.stored
        why = ', '.join(each.reasons) or 'others build on it' * each.needed
        line = (
            f'Would {"keep" if each.stays else "remove":<6} {iso(stored.timestamp)} '
            f'level {stored.level:<3} {human.size(each.size):>9}  {why}'
        )
        yield line.rstrip()


def _kept(plan: Plan, dry_run: bool) -> str:
    """A summary, with the cost of levels that no rule keeps."""
    kept = [each for each in plan.decisions if each.stays]
    line = (
        f'{"Would keep" if dry_run else "Kept"} {len(kept)} of '
        f'{human.number(len(plan.decisions), "backup")} of {plan.name}'
    )
    needed = [each for each in kept if not each.reasons]
    if needed:
        size = human.size(sum(each.size for each in needed))
        line += f'; {len(needed)} of them ({size}) only because others build on them'
    return line


def _long_chain(plan: Plan) -> Iterator[str]:
    """A sentence, if most of the newest chain stays only for the sake of the rest."""
    newest = max(
        (each.stored.level_zero_timestamp for each in plan.decisions), default=0
    )
    held = [
        each
        for each in plan.decisions
        if each.stored.level_zero_timestamp == newest
        and each.needed
        and not each.reasons
    ]
    if len(held) > _MANY_HELD:
        yield (
            f'{len(held)} levels of the newest chain of {plan.name} ({iso(newest)}) '
            f'cannot be removed before a new chain begins, because others build on '
            f'them: back up with --restart-always-level, --max-level or '
            f'--always-level 1'
        )
