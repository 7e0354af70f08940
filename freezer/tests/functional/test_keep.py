"""Retention by calendar, from the command line to the storage."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from freezer.tests.agent import Agent, assert_restores, iso, job_file

DAY = 86400


@pytest.fixture(params=['local', 'agent'])
def anywhere(request: pytest.FixtureRequest) -> Agent:
    """On a local storage, and on S3."""
    found: Agent = request.getfixturevalue(request.param)
    return found


def days(agent: Agent, source: Path, levels: Iterable[int]) -> list[int]:
    """Make one backup a day, the last one now; returns their times, oldest first."""
    made: list[int] = []
    for level in levels:
        if made:
            agent.store.made_earlier(DAY, agent.identity)
        (source / 'day').write_text(f'{len(made)}')
        how = ('--incremental', '--always-level', '1') if level else ()
        document = agent.backup(source, *how).check().document
        assert document['curr_backup_level'] == level
        made = [each - DAY for each in made] + [document['time_stamp']]
    return made


def dates(agent: Agent) -> list[int]:
    """The times of all levels that are there."""
    return sorted(
        int(path.split('/')[4].split('_')[1]) for path in agent.store.markers()
    )


def test_days_are_kept_with_what_they_build_on(
    anywhere: Agent, source: Path, tmp_path: Path
) -> None:
    made = days(anywhere, source, [0, 0, 1, 1, 0, 1, 1, 1])
    before = anywhere.store.files()
    options = ('--keep-daily', '2', '--keep-weekly', '0')
    dry = anywhere.run('admin', *options, '--dry-run').check().err.splitlines()
    assert anywhere.store.files() == before
    verbs = [' '.join(line.split()[:3]) for line in dry[:-1]]
    stay = [False] * 4 + [True, False, True, True]
    assert verbs == [
        f'Would {"keep" if kept else "remove"} {iso(date)}'
        for kept, date in zip(stay, made, strict=True)
    ]
    assert dry[4].endswith('others build on it')
    assert dry[-1].startswith(f'Would keep 3 of 8 backups of {anywhere.identity}; 1 of')
    done = anywhere.run('admin', *options).check().err
    assert 'Kept 3 of 8 backups' in done
    kept = [date for date, stays in zip(made, stay, strict=True) if stays]
    assert dates(anywhere) == kept
    left = anywhere.store.files()
    assert left.items() <= before.items()
    assert {path.split('/')[4] for path in left} == {
        path.split('/')[4] for path in anywhere.store.markers()
    }
    for number, date in ((4, made[4]), (6, made[6]), (7, made[7])):
        target = tmp_path / f'{number}'
        anywhere.restore(target, '--restore-from-date', iso(date)).check()
        assert (target / 'day').read_text() == str(number)
    # Nothing is left to do, and the chain goes on.
    assert 'Removed' not in anywhere.run('admin', *options).check().err
    anywhere.increment(source).check()
    assert_restores(anywhere, source, tmp_path / 'newest')


def test_after_a_backup(anywhere: Agent, source: Path) -> None:
    """The dry run supposes the backup that it does not make."""
    made = days(anywhere, source, [0, 0, 0])
    options = ('--keep-last', '2')
    dry = anywhere.backup(source, *options, '--dry-run').check().err
    assert f'Would remove {iso(made[1])}' in dry
    assert f'Would keep   {iso(made[2])}' in dry
    assert dates(anywhere) == made
    last = anywhere.backup(source, *options).check().document['time_stamp']
    assert dates(anywhere) == [made[2], last]


def test_in_a_job_file_on_two_storages(
    local: Agent, agent: Agent, source: Path, tmp_path: Path
) -> None:
    """Each storage has states of its own."""
    days(local, source, [0, 0, 0])
    days(agent, source, [0, 0])
    options = {'keep_last': 1, 'keep_daily': 2, 'keep_yearly': 'None'}
    sections = {
        'job': options,
        'storage:near': local.store.section,
        'storage:far': agent.store.section,
    }
    config = job_file(tmp_path / 'job', sections)
    names = ('--hostname', 'hosta', '--backup-name', 'bk', '--config', config)
    done = Agent(local.store)
    done.options = names
    done.run('admin').check()
    assert len(dates(local)) == len(dates(agent)) == 2


@pytest.mark.parametrize(
    'options, error',
    [
        (('--keep-last', '-1'), '--keep-last'),
        (('--keep-daily', 'all'), '--keep-daily'),
        (('--keep-last', '0', '--keep-daily', '0'), 'keep-last, keep-daily: 0 would'),
        (('--keep-within', '30'), 'is not an age'),
        (('--keep-within', '6m'), 'is not an age'),
        (('--keep-within', '0d'), 'keep-within: 0 would'),
        (
            ('--keep-last', '1', '--remove-older-than', '9'),
            'remove-older-than and the keep options: give one of them',
        ),
        (
            ('--keep-last', '1', '--remove-before-date', '2026-01-01'),
            'remove-before-date and the keep options: give one of them',
        ),
    ],
)
@pytest.mark.parametrize('action', ['admin', 'backup'])
def test_contradictions(
    local: Agent, source: Path, action: str, options: tuple[str, ...], error: str
) -> None:
    local.backup(source).check()
    before = local.store.files()
    assert error in local.run(action, '--path-to-backup', source, *options).only_error
    assert local.store.files() == before


def test_a_name_without_backups(local: Agent, source: Path) -> None:
    local.backup(source).check()
    error = Agent(local.store, 'kb').run('admin', '--keep-last', '1').only_error
    assert "No backup 'kb' of host 'hosta'" in error
