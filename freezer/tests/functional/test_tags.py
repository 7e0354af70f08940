"""Tags and notes: recorded with a backup, shown, and used to choose one."""

import json
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import layout
from freezer.tests.agent import Agent, iso, job_file, private


def markers(agent: Agent) -> list[dict[str, Any]]:
    """The content of the markers, oldest first."""
    files = agent.store.files()
    paths = sorted(agent.store.markers(), key=lambda path: path.split('/')[4])
    return [json.loads(files[path]) for path in paths]


def shown(agent: Agent, *options: object) -> list[dict[str, Any]]:
    """The levels that info lists."""
    document = agent.run('info', '--metadata-out', '-', *options).check().document
    return [level for each in document['backups'] for level in each['levels']]


@pytest.fixture(params=['local', 'agent'])
def three(request: pytest.FixtureRequest, source: Path) -> tuple[Agent, list[int]]:
    """Levels 0, 1 and 2 with the tags a b, a and none; and their times."""
    agent: Agent = request.getfixturevalue(request.param)
    dates = []
    for number, words in enumerate(
        (('--tag', 'a', '--tag', 'b', '--note', 'Wörter, "so"'), ('--tag', 'a'), ())
    ):
        (source / 'file').write_text(str(number))
        made = agent.increment(source, *words).check().document
        assert made['curr_backup_level'] == number
        dates.append(made['time_stamp'])
    return agent, dates


def test_info(three: tuple[Agent, list[int]]) -> None:
    agent, dates = three
    assert [marker.get(layout.TAGS_KEY) for marker in markers(agent)] == [
        ['a', 'b'],
        ['a'],
        None,
    ]
    long = shown(agent, '--long')
    assert [level['tags'] for level in long] == [['a', 'b'], ['a'], []]
    assert [level['note'] for level in long] == ['Wörter, "so"', '', '']
    for words, found in (
        (('--tag', 'a'), dates[:2]),
        (('--tag', 'b', '--tag', 'a'), dates[:1]),
        (('--tag', 'A'), []),
    ):
        assert [level['time_stamp'] for level in shown(agent, *words)] == found
    text = agent.run('info', '--tag', 'b').check().out
    assert 'tags: a b, note: Wörter, "so"' in text
    assert iso(dates[1]) not in text
    assert 'tags: a b' in agent.run('info', '--long').check().out
    assert 'No backup has the tag c' in agent.run('info', '--tag', 'c').check().err
    # Without --long, nothing is read.
    assert 'tags' not in shown(agent)[0]


def test_last(three: tuple[Agent, list[int]], source: Path) -> None:
    """Of each name; across chains; and of those that have a tag."""
    agent, dates = three
    dates.append(agent.backup(source).check().document['time_stamp'])
    agent.told('--backup-name', 'other').backup(source).check()
    found = shown(agent, '--backup-name', 'bk', '--last', '2')
    assert [(each['time_stamp'], each['tags']) for each in found] == [
        (dates[2], []),
        (dates[3], []),
    ]
    assert len(shown(agent.nameless, '--last', '1')) == 2
    assert len(shown(agent.nameless, '--last', '9')) == 5
    found = shown(agent, '--last', '1', '--tag', 'a', '--long')
    assert [(each['time_stamp'], each['whole']) for each in found] == [(dates[1], True)]
    document = agent.run('info', '--last', '1', '--json').check().document
    (chain,) = document['backups']
    assert chain['size'] == chain['levels'][0]['size']
    assert '--last belongs to action info' in agent.run('verify', '--last', '1').error
    assert agent.run('info', '--last', '0').code != 0


def test_restore(three: tuple[Agent, list[int]], tmp_path: Path) -> None:
    agent, dates = three
    for number, words in enumerate(
        (
            ('--tag', 'b'),
            ('--tag', 'a'),
            (),
            ('--tag', 'a', '--restore-from-date', iso(dates[0])),
        )
    ):
        target = tmp_path / str(number)
        agent.restore(target, *words).check()
        assert (target / 'file').read_text() == str(number % 3)
    listed = agent.run('list', '--tag', 'b').check()
    assert f'level 0, {iso(dates[0])}' in listed.err
    error = agent.restore(tmp_path / 'x', '--tag', 'a', '--tag', 'c').only_error
    assert 'has 2 tags a, c; --action info --long shows the tags' in error
    error = agent.restore(
        tmp_path / 'x', '--tag', 'a', '--restore-from-date', '2020-01-01'
    ).only_error
    assert 'at or before 2020-01-01T23:59:59Z has 1 tag a' in error


def test_retention(local: Agent, source: Path) -> None:
    """Each tag has its own, and a base is kept whatever its tags."""
    dates = [
        local.backup(source, *words).check().document['time_stamp']
        for words in (
            ('--tag', 'x'),
            ('--tag', 'x'),
            ('--tag', 'y'),
            (),
            ('--incremental', '--tag', 'y'),
            ('--tag', 'x'),
        )
    ]
    dry = local.run('admin', '--tag', 'x', '--keep-last', '2', '--dry-run').check().err
    assert dry.count('without the tag') == 3
    assert [line.split()[1] for line in dry.splitlines()] == [
        *('remove', 'keep', 'keep', 'keep', 'keep', 'keep', 'keep')
    ]
    last = local.backup(source, '--tag', 'x', '--keep-last', '1').check().document
    dates.append(last['time_stamp'])
    assert [level['time_stamp'] for level in shown(local)] == [*dates[2:5], dates[6]]
    local.store.made_earlier(9 * 86400, local.identity)
    earlier = [date - 9 * 86400 for date in dates]
    for tag, left in (('x', earlier[2:5]), ('y', [earlier[3]])):
        local.run('admin', '--tag', tag, '--remove-older-than', '5').check()
        assert [level['time_stamp'] for level in shown(local)] == left


def test_tags_in_a_job_file(local: Agent, source: Path, tmp_path: Path) -> None:
    values = {'tag': '\na\nb', 'note': 'every night'}
    config = job_file(tmp_path / 'job', {'action': values})
    local.backup(source, '--config', config).check()
    (marker,) = markers(local)
    assert (marker['tags'], marker['note']) == (['a', 'b'], 'every night')


def test_a_changed_tag_is_detected(local: Agent, source: Path, tmp_path: Path) -> None:
    """With format age; and the tags stay when the index is made again."""
    secret = private(tmp_path / 'words', 'some words\n')
    sealed = local.told('--encrypt-pass-file', secret, '--encryption', 'age')
    sealed.backup(source, '--tag', 'good').check()
    (path,) = [p for p in local.store.files() if p.endswith('/index')]
    local.store.delete(path)
    sealed.run('admin', '--rebuild-index').check()
    (marker,) = markers(local)
    assert marker['tags'] == ['good']
    sealed.restore(tmp_path / 'target').check()
    marker['tags'] = ['bad']
    (path,) = local.store.markers()
    local.store.put(path, json.dumps(marker).encode())
    assert sealed.restore(tmp_path / 'other').code == 1


@pytest.mark.parametrize('value', ['a', 7, {'a': 1}, [['a'], None, 'a\x1b[1m']])
def test_whatever_a_marker_has(local: Agent, source: Path, value: object) -> None:
    local.backup(source).check()
    (path,) = local.store.markers()
    marker = {**markers(local)[0], 'tags': value, 'note': value}
    local.store.put(path, json.dumps(marker).encode())
    long = local.run('info', '--long').check().out
    assert '\x1b' not in long
    assert shown(local, '--tag', 'a') == []


@pytest.mark.parametrize(
    'words, error',
    [
        (('--tag', ''), 'one word'),
        (('--tag', 'two words'), 'one word'),
        (('--tag', 'a,b'), 'one word'),
        (('--tag', 'a\tb'), 'contains a tab'),
        (('--tag', 'a' * 65), 'at most 64'),
        (('--note', 'a' * 501), 'at most 500'),
        (('--note', 'a\nb'), 'contains a line feed'),
        (('--tag', '\udcff'), 'not UTF-8'),
        (tuple(f'--tag={number}' for number in range(17)), 'at most 16'),
    ],
)
def test_what_is_refused(
    local: Agent, source: Path, words: tuple[str, ...], error: str
) -> None:
    assert error in local.backup(source, *words).only_error
    assert local.store.is_untouched()


def test_where_they_have_no_effect(local: Agent, source: Path) -> None:
    local.backup(source, '--tag', 'ü' * 64, '--note', 'ü' * 500).check()
    for action in ('verify', 'find', 'check'):
        error = local.run(action, '--tag', 'a', '--include', 'x').only_error
        assert '--tag has no effect' in error or '--include selects' in error
    assert '--note belongs to action backup' in local.run('info', '--note', 'a').error
