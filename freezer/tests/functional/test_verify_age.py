"""What verify finds in backups in format age, and of markers that are lost."""

import json
from pathlib import Path

import pytest

from freezer.storage import manifest
from freezer.tests.agent import Agent, LocalStore, S3Store, private

WELL = 'no problems found'


@pytest.fixture
def encrypted(local: Agent, tmp_path: Path) -> Agent:
    passphrase = private(tmp_path / 'pass', 'correct horse\n')
    return local.told('--encrypt-pass-file', passphrase, '--encryption', 'age')


@pytest.fixture
def chain(encrypted: Agent, source: Path) -> list[str]:
    """The markers of two levels."""
    for level in range(2):
        (source / f'new at {level}').write_text('new')
        encrypted.increment(source).check()
    return encrypted.store.markers()


def beside(marker: str, name: str) -> str:
    return marker.replace('metadata/', 'data/', 1).rpartition('/')[0] + f'/{name}'


def flip(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


def test_a_key_file_has_a_digest(local: Agent, chain: list[str]) -> None:
    """Without the passphrase, too, each of its bits counts."""
    store = local.store
    path = beside(chain[1], 'identity.age')
    content = store.files()[path]
    for position in range(0, len(content), len(content) // 8):
        store.put(path, flip(content, position))
        result = local.run('verify', '--json')
        assert result.code == 1
        assert f'{path} differs from the file that was written' in result.err
        assert f'a restore uses {store.directory}/' in result.err  # type: ignore[attr-defined]
        (wrong,) = [b for b in result.document['backups'] if not b['ok']]
        assert wrong['level'] == 1
        assert wrong['restorable']


def test_a_key_file_that_all_levels_lost(local: Agent, chain: list[str]) -> None:
    content = local.store.files()[beside(chain[0], 'identity.age')]
    for marker in chain:
        local.store.put(beside(marker, 'identity.age'), flip(content, 100))
    result = local.run('verify', '--json')
    assert result.code == 1
    assert not any(backup['restorable'] for backup in result.document['backups'])


def test_each_character_of_a_marker_counts(local: Agent, chain: list[str]) -> None:
    """Of the seal above all, which only the passphrase opens."""
    content = local.store.files()[chain[1]]
    seal = content.index(b'"seal"')
    for position in (*range(2, seal, 40), *range(seal, len(content), 90)):
        local.store.put(chain[1], flip(content, position))
        result = local.run('verify')
        assert result.code == 1, (position, result)
        assert WELL not in result.err


def test_the_passphrase_opens_seals(
    encrypted: Agent, chain: list[str], tmp_path: Path
) -> None:
    """Without reading data, verify refuses what a restore refuses."""
    marker = json.loads(encrypted.store.files()[chain[1]])
    marker['compression'] = 'none'
    # As somebody would who can write to the storage.
    del marker[manifest.CONTENT_KEY]
    marker = json.loads(manifest.whole(marker))
    encrypted.store.put(chain[1], json.dumps(marker).encode())
    result = encrypted.run('verify')
    assert result.code == 1
    assert 'was modified or damaged' in result.err
    assert encrypted.restore(tmp_path / 'to').code == 1


def test_a_wrong_passphrase(local: Agent, chain: list[str], tmp_path: Path) -> None:
    wrong = private(tmp_path / 'wrong', 'battery staple\n')
    result = local.run('verify', '--encrypt-pass-file', wrong)
    assert result.code == 1
    assert 'wrong passphrase' in result.err


def test_all_is_well(
    local: Agent, encrypted: Agent, chain: list[str], tmp_path: Path
) -> None:
    for agent in (local, encrypted):
        assert WELL in agent.run('verify').check().err
    assert WELL in encrypted.run('verify', '--verify-data').check().err


def test_a_changed_passphrase_is_no_damage(
    local: Agent, chain: list[str], tmp_path: Path
) -> None:
    """``encryption.rst`` says how to change it."""
    from freezer.stream import age

    for marker in chain:
        path = beside(marker, 'identity.age')
        key = age.unlock(b'correct horse', local.store.files()[path], path)
        local.store.put(path, age.lock(b'battery staple', key))
    assert local.run('verify').code == 1
    new = private(tmp_path / 'new', 'battery staple\n')
    assert WELL in local.run('verify', '--encrypt-pass-file', new).check().err


# Markers that are lost


@pytest.mark.parametrize('kind', ['local', 's3'])
def test_a_lost_marker_is_a_warning(
    store: S3Store, source: Path, tmp_path: Path, kind: str
) -> None:
    place = LocalStore(tmp_path / 'place') if kind == 'local' else store
    agent = Agent(place)
    for level in range(2):
        (source / f'new at {level}').write_text('new')
        agent.increment(source).check()
    marker = place.markers()[1]
    place.delete(marker)
    result = agent.run('verify', '--json').check()
    (line,) = [each for each in result.err.splitlines() if 'Warning: ' in each]
    assert 'level 1 of ' in line
    assert 'but no marker' in line
    assert marker in line
    (lost,) = result.document['without_marker']
    assert (lost['level'], lost['backup_name']) == (1, agent.name)
    assert lost['time_stamp'] == int(marker.split('/')[-2].partition('_')[2])


def test_all_markers_lost(local: Agent, source: Path) -> None:
    local.backup(source).check()
    local.store.delete(local.store.markers()[0])
    result = local.run('verify')
    assert 'but no marker' in result.err
    assert 'No backup' in result.error


def test_what_no_backup_left_is_no_lost_marker(local: Agent, source: Path) -> None:
    """Data without a manifest is that of a backup that failed."""
    local.backup(source).check()
    local.backup(source).check()
    marker = local.store.markers()[0]
    local.store.delete(marker)
    local.store.delete(beside(marker, 'manifest'))
    assert 'Warning' not in local.run('verify').check().err
