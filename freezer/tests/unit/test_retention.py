"""What retention keeps, compared with a slow model that shares nothing with it."""

import dataclasses
import datetime
import json
import random
import time
import zoneinfo
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from freezer.job import retention as report
from freezer.job.job import iso
from freezer.storage import layout, levels, retention
from freezer.storage.backup import Backup, LevelPaths
from freezer.storage.base import Storage
from freezer.storage.exceptions import NotFound
from freezer.storage.keep import Rules
from freezer.storage.retention import Policy

DAY = 86400
BEGIN = 1_500_000_000
TEN_YEARS = BEGIN + 3653 * DAY
NAME = 'web1_etc'
ZONES = ('UTC', 'Europe/Berlin', 'America/St_Johns', 'Pacific/Apia', 'Asia/Kathmandu')


class Files:
    """A storage that is a dictionary: path -> content."""

    storage_path = 'root'

    def __init__(
        self, found: dict[Backup, bool], pinned: Collection[Backup] = ()
    ) -> None:
        """:param found: backup -> whether it is incomplete"""
        self.files: dict[str, bytes] = {}
        for backup, incomplete in found.items():
            paths = LevelPaths(self.storage_path, backup)
            content = {layout.INCOMPLETE_KEY: 1} if incomplete else {}
            self.files[paths.data] = b'123'
            self.files[paths.marker] = json.dumps(content).encode()
            if backup in pinned:
                self.files[paths.pin] = b''

    def location(self, path: str) -> str:
        return path

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        for each, content in sorted(self.files.items()):
            if each.startswith(f'{path}/'):
                yield each.removeprefix(f'{path}/'), len(content)

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        if path not in self.files:
            raise NotFound(path)
        return self.files[path]

    def delete_files(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.files.pop(path, None)


def plan_of(files: Files, policy: Policy) -> retention.Plan:
    return retention.plan(cast(Storage, files), 'tar', NAME, policy)


def left(files: Files) -> set[Backup]:
    chains = levels.chains(cast(Storage, files), 'tar', NAME)
    return {each.backup for chain in chains.values() for each in chain}


# The model


def base(backup: Backup, there: Sequence[Backup]) -> Backup | None:
    """The level below it in its chain; None at level 0, and if it is missing."""
    below = [
        each
        for each in there
        if each.level_zero_timestamp == backup.level_zero_timestamp
        and each.level == backup.level - 1
    ]
    older = [each for each in below if each.timestamp <= backup.timestamp]
    return max(older or below, key=lambda each: each.timestamp, default=None)


def way_down(backup: Backup, there: Sequence[Backup]) -> list[Backup] | None:
    """All that a restore needs; None if it cannot be restored."""
    found = [backup]
    while found[-1].level:
        lower = base(found[-1], there)
        if lower is None:
            return None
        found.append(lower)
    return found


Key = Callable[[datetime.datetime], Any]
CALENDAR: dict[str, Key] = {
    'hourly': lambda moment: (moment.date(), moment.hour),
    'daily': lambda moment: moment.date(),
    'weekly': lambda moment: moment.date() - datetime.timedelta(days=moment.weekday()),
    'monthly': lambda moment: (moment.year, moment.month),
    'yearly': lambda moment: moment.year,
}


def chosen(found: dict[Backup, bool], rules: Rules, now: int) -> set[Backup]:
    """What the rules keep by themselves."""
    chains: dict[int, list[Backup]] = {}
    for each in found:
        chains.setdefault(each.level_zero_timestamp, []).append(each)
    states, others = [], set()
    for each in found:
        whole = way_down(each, chains[each.level_zero_timestamp]) is not None
        if whole and each.timestamp <= now + 3600:
            states.append(each)
        else:
            others.add(each)
    if not states:
        return others

    def order(each: Backup) -> tuple[int, int, int]:
        return each.timestamp, each.level_zero_timestamp, each.level

    def newest(some: Sequence[Backup]) -> Backup:
        return max(some, key=lambda each: (not found[each], *order(each)))

    kept = {max(states, key=order)}
    ranked = sorted(states, key=lambda each: (found[each], [-n for n in order(each)]))
    kept |= set(ranked[: rules.last])
    if rules.within:
        latest = max(each.timestamp for each in states)
        kept |= {each for each in states if latest - each.timestamp <= rules.within}
    for name, key in CALENDAR.items():
        wanted = getattr(rules, name)
        groups: dict[Any, list[Backup]] = {}
        for each in states:
            moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(
                seconds=each.timestamp
            )
            groups.setdefault(key(moment), []).append(each)
        for period in sorted(groups, reverse=True)[:wanted]:
            kept.add(newest(groups[period]))
        if len(groups) < wanted:
            kept.add(min(states, key=lambda each: (found[each], *order(each))))
    return kept | others


def with_bases(found: Collection[Backup], wanted: set[Backup]) -> set[Backup]:
    """Some backups, and all that they build on."""
    chains: dict[int, list[Backup]] = {}
    for each in found:
        chains.setdefault(each.level_zero_timestamp, []).append(each)
    kept = set()
    for each in wanted:
        there: Backup | None = each
        chain = chains[each.level_zero_timestamp]
        while there is not None and there not in kept:
            kept.add(there)
            # Of a damaged chain, what there is of the levels below.
            below = [b.level for b in chain if b.level < there.level]
            above = dataclasses.replace(there, level=max(below, default=-1) + 1)
            there = base(above, chain)
    return kept


# Ten years


def history(dice: random.Random, zone: str) -> dict[Backup, bool]:
    """Backups at times of a local clock, which may be wrong, with pauses; of several
    policies, one after the other."""
    found: dict[Backup, bool] = {}
    moment = datetime.datetime.fromtimestamp(BEGIN, datetime.UTC).replace(tzinfo=None)
    moment = moment.replace(hour=dice.randrange(24), minute=dice.randrange(60))
    hours = dice.choice([6, 24, 36, 24 * 7])
    policy, wrong, now = levels.LevelPolicy(), 0, BEGIN
    chains: dict[int, list[Backup]] = {}
    while True:
        if dice.random() < 0.01:
            policy = levels.LevelPolicy(
                dice.random() < 0.9,
                dice.choice([0, 3, 6]),
                dice.choice([0, 0, 1, 2]),
                dice.choice([0, 6.9, 29.9]),
            )
            hours = dice.choice([24, 36, 24 * 7, 24 * 30])
        if dice.random() < 0.01:
            moment += datetime.timedelta(days=dice.randrange(200))
        if dice.random() < 0.003:
            wrong = dice.choice([0, 0, -400 * DAY, 3600, 90 * DAY])
        moment += datetime.timedelta(hours=hours)
        local = moment.replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=dice.randrange(2))
        real = int(local.timestamp())
        if real > TEN_YEARS:
            return found
        # As the agent does: the times of a name increase, whatever the clock says.
        now = max(now + 1, real + wrong)
        chain = levels.resolve(chains[max(chains)]) if chains else {}
        below = levels.base_for_next(chain, policy, now)
        zero = below.level_zero_timestamp if below else now
        made = Backup('tar', NAME, zero, now, below.level + 1 if below else 0)
        chains.setdefault(zero, []).append(made)
        found[made] = dice.random() < 0.1


def disturbed(found: dict[Backup, bool], dice: random.Random) -> dict[Backup, bool]:
    """The same with levels that are missing, and with equal times."""
    for each in dice.sample(sorted(found, key=repr), min(len(found), 3)):
        del found[each]
    for each in dice.sample(sorted(found, key=repr), min(len(found), 3)):
        zero = each.level_zero_timestamp + dice.choice([0, 1])
        moment = each.timestamp + dice.choice([0, 0, 1, 5 * DAY])
        twin = Backup('tar', NAME, zero, moment, dice.randint(0, each.level))
        found[twin] = dice.random() < 0.5
    return found


NUMBERS = st.sampled_from([0, 0, 0, 1, 2, 7, 12, 400, 10**30])
RULES = st.builds(
    Rules,
    *[NUMBERS] * 6,
    st.sampled_from([0.0, 0.0, 3600.0, 30.0 * DAY, 365.0 * DAY]),
).filter(bool)


@given(st.integers(0, 2**32), st.sampled_from(ZONES), RULES, st.booleans())
# A smaller seed is no simpler case.
@settings(max_examples=60, phases=[Phase.reuse, Phase.generate])
def test_ten_years_are_kept_as_by_the_model(
    seed: int, zone: str, rules: Rules, disturb: bool
) -> None:
    dice = random.Random(seed)
    found = history(dice, zone)
    if disturb:
        found = disturbed(found, dice)
    now = TEN_YEARS + dice.choice([0, -30 * DAY, 3 * DAY, 5000 * DAY])
    if found and dice.random() < 0.2:
        now = dice.choice([*found]).timestamp - dice.choice([0, 3600, 3601])
    pinned = set(dice.sample(sorted(found, key=repr), min(len(found), 3)))
    files = Files(found, pinned)
    before = dict(files.files)
    plan = plan_of(files, Policy(now, rules))
    stays = {each.stored.backup for each in plan.decisions if each.stays}
    wanted = chosen(found, rules, now) | pinned
    assert stays == with_bases(found, wanted)
    reasons = {each.stored.backup for each in plan.decisions if each.reasons}
    assert reasons == wanted
    assert files.files == before
    plan.carry_out()
    assert left(files) == stays
    assert len(files.files) == 2 * len(stays) + len(pinned)
    # What stays is restored with the same levels as before.
    sample = dice.sample(sorted(stays, key=repr), min(len(stays), 20))
    for each in sample:
        assert way_down(each, [*found]) == way_down(each, [*stays])
    assert plan_of(files, Policy(now, rules)).removed == {}


@pytest.mark.parametrize('zone', ZONES)
def test_the_time_zone_of_the_machine_does_not_matter(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = history(random.Random(20), 'Europe/Berlin')
    policy = Policy(TEN_YEARS, Rules(hourly=50, daily=50, weekly=50, monthly=50))

    def kept() -> list[tuple[Backup, list[str]]]:
        plan = plan_of(Files(found), policy)
        return [(each.stored.backup, each.reasons) for each in plan.decisions]

    expected = kept()
    monkeypatch.setenv('TZ', zone)
    time.tzset()
    try:
        assert kept() == expected
    finally:
        monkeypatch.undo()
        time.tzset()


# Cases


def at(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text)
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def full(*dates: str) -> dict[Backup, bool]:
    """Full backups; a date that ends with ! is that of an incomplete one."""
    return {
        Backup('tar', NAME, moment, moment, 0): date.endswith('!')
        for date in dates
        if (moment := at(date.rstrip('!')))
    }


CASES = {
    # name: (rules, dates there, dates kept)
    'the newest of each day': (
        Rules(daily=2),
        ('2026-01-01T10', '2026-01-02T09', '2026-01-02T23:59:59', '2026-01-03T00'),
        ('2026-01-02T23:59:59', '2026-01-03T00'),
    ),
    'days without a backup do not count': (
        Rules(daily=2),
        ('2026-01-01', '2026-03-01', '2026-06-01'),
        ('2026-03-01', '2026-06-01'),
    ),
    'a week is from Monday to Sunday': (
        Rules(weekly=2),
        ('2026-01-25T22', '2026-01-26T01', '2026-02-01T23', '2026-02-02'),
        ('2026-02-01T23', '2026-02-02'),
    ),
    'a week may be in two years': (
        Rules(weekly=1),
        ('2025-12-28', '2025-12-30', '2026-01-01'),
        ('2026-01-01',),
    ),
    'the oldest, as long as there are too few years': (
        Rules(yearly=2),
        ('2026-01-05', '2026-02-01', '2026-03-01'),
        ('2026-01-05', '2026-03-01'),
    ),
    'the rules add up, and are not counted after each other': (
        Rules(daily=1, monthly=2),
        ('2026-01-31', '2026-02-01', '2026-02-02'),
        ('2026-01-31', '2026-02-02'),
    ),
    'within counts from the newest': (
        Rules(within=DAY),
        ('2026-01-01T09:59:59', '2026-01-01T10', '2026-01-02T10'),
        ('2026-01-01T10', '2026-01-02T10'),
    ),
    'a complete one before a newer incomplete one': (
        Rules(daily=2),
        ('2026-01-01T10', '2026-01-01T12!', '2026-01-02T10', '2026-01-02T12!'),
        ('2026-01-01T10', '2026-01-02T10', '2026-01-02T12!'),
    ),
    'an incomplete one if there is no other': (
        Rules(daily=1),
        ('2026-01-01', '2026-01-02T08!', '2026-01-02T10!'),
        ('2026-01-02T10!',),
    ),
    'the last complete ones, and the newest': (
        Rules(last=2),
        ('2026-01-01', '2026-01-02', '2026-01-03!', '2026-01-04!'),
        ('2026-01-01', '2026-01-02', '2026-01-04!'),
    ),
    'nothing dated in the future counts': (
        Rules(last=1),
        ('2026-01-01', '2026-01-02', '2030-01-01'),
        ('2026-01-02', '2030-01-01'),
    ),
}


@pytest.mark.parametrize('rules, there, kept', CASES.values(), ids=CASES)
def test_rules(rules: Rules, there: tuple[str, ...], kept: tuple[str, ...]) -> None:
    files = Files(full(*there))
    plan = plan_of(files, Policy(at('2026-12-01'), rules))
    plan.carry_out()
    assert left(files) == set(full(*kept))


def chain(*steps: tuple[int, int]) -> dict[Backup, bool]:
    """One chain of (level, time)."""
    return {Backup('tar', NAME, BEGIN, BEGIN + t, level): False for level, t in steps}


def test_the_cost_of_a_chain_is_shown() -> None:
    files = Files(chain((0, 0), (1, DAY), (2, 2 * DAY)))
    plan = plan_of(files, Policy(TEN_YEARS, Rules(last=1)))
    assert [(each.reasons, each.needed, each.size) for each in plan.decisions] == [
        ([], True, 3),
        ([], True, 3),
        (['newest', 'last'], False, 3),
    ]
    assert plan.removed == {}


def test_what_is_being_written_keeps_its_base() -> None:
    there = chain((0, 0), (1, DAY), (1, 2 * DAY))
    newer = full('2026-01-01')
    files = Files(there | newer)
    rules = Policy(TEN_YEARS, Rules(last=1))
    written = Backup('tar', NAME, BEGIN, TEN_YEARS, 2)
    claim = LevelPaths(files.storage_path, written).file('claim')
    files.files[claim] = b''
    plan_of(files, rules).carry_out()
    assert left(files) == {*chain((0, 0), (1, 2 * DAY)), *newer}
    assert claim in files.files
    # A leftover holds nothing, and goes with its chain.
    files.files[claim.replace(str(TEN_YEARS), str(BEGIN + 3 * DAY))] = b''
    del files.files[claim]
    plan_of(files, rules).carry_out()
    assert len(files.files) == 2


def test_the_backup_that_is_coming_is_the_newest() -> None:
    there = chain((0, 0), (1, DAY), (1, 2 * DAY))
    coming = Backup('tar', NAME, BEGIN, BEGIN + 2 * DAY + 9, 2)
    plan = plan_of(Files(there), Policy(TEN_YEARS, Rules(last=1), coming=coming))
    assert [each.stays for each in plan.decisions] == [True, False, True]


def test_a_damaged_marker_takes_no_place() -> None:
    files = Files(full('2026-01-01', '2026-01-02T08', '2026-01-02T10', '2026-01-03'))
    (path,) = (p for p in files.files if str(at('2026-01-02T10')) in p and 'meta' in p)
    files.files[path] = b'{'
    plan_of(files, Policy(TEN_YEARS, Rules(daily=2))).carry_out()
    assert left(files) == set(full('2026-01-02T08', '2026-01-03'))


def test_a_chain_with_thousands_of_levels_takes_no_time() -> None:
    """Of each level, only its base is looked for."""
    files = Files(chain(*((level, level * 3600) for level in range(20_000))))
    plan = plan_of(files, Policy(TEN_YEARS, Rules(last=1)))
    assert all(each.stays for each in plan.decisions)


@pytest.mark.parametrize('restart, many', [(99, True), (14, False)])
def test_a_dry_run_reports_a_chain_that_cannot_shrink(restart: int, many: bool) -> None:
    """90 daily levels, with a new chain each so many days."""
    found = {}
    for day in range(90):
        level = day % restart
        zero, moment = BEGIN + (day - level) * DAY, BEGIN + day * DAY
        found[Backup('tar', NAME, zero, moment, level)] = False
    policy = Policy(BEGIN + 90 * DAY, Rules(daily=7, weekly=4))
    plans = [plan_of(Files(found), policy)]
    last = list(report.lines(plans, policy, dry_run=True))[-1]
    needed = sum(not each.reasons for each in plans[0].decisions if each.stays)
    start = f'{needed} levels of the newest chain of {NAME} ({iso(BEGIN)}) cannot be'
    assert last.startswith(start) == many
    assert not any(
        'newest chain' in line for line in report.lines(plans, policy, dry_run=False)
    )
