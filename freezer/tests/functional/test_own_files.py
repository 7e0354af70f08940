"""A run that would destroy what it reads is rejected before it writes anything."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from freezer.tests.agent import Agent, LocalStore, private

OUTPUTS = ('--log-file', '--metadata-out', '--metrics-file')
# Each action, with what it needs.
ACTIONS: dict[str, tuple[str, ...]] = {
    'backup': ('--path-to-backup', '{source}'),
    'restore': ('--restore-abs-path', '{target}'),
    'info': (),
    'list': (),
    'find': ('--include', '**'),
    'diff': ('--from-date', '2126-01-31T23:59:59'),
    'dump': ('--include', 'file'),
    'admin': (),
    'check': (),
    'verify': (),
    'exec': ('--command', 'true'),
}


@pytest.fixture
def store(local: Agent, source: Path) -> Path:
    local.backup(source).check()
    assert isinstance(local.store, LocalStore)
    return local.store.directory


def files(*tops: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for top in tops
        for path in ([top] if top.is_file() else sorted(top.rglob('*')))
        if path.is_file()
    }


def arguments(action: str, source: Path, target: Path) -> list[str]:
    words = {'source': source, 'target': target}
    return [each.format(**words) for each in ACTIONS[action]]


def outputs(action: str) -> tuple[str, ...]:
    return OUTPUTS[:1] if action == 'dump' else OUTPUTS


@pytest.mark.parametrize('action', ACTIONS)
def test_output_is_a_file_that_is_read(
    local: Agent, store: Path, source: Path, tmp_path: Path, action: str
) -> None:
    job = private(tmp_path / 'job.conf', '[job]\nquiet = false\n')
    words = private(tmp_path / 'pass', 'secret\n')
    (tmp_path / 'other name').symlink_to('pass')
    os.link(job, tmp_path / 'job again')
    options = ('--config', job, '--encrypt-pass-file', words)
    before = files(job, words, store)
    for output in outputs(action):
        for path in (job, words, tmp_path / 'other name', tmp_path / 'job again'):
            result = local.run(
                action,
                *arguments(action, source, tmp_path / 'target'),
                *options,
                output,
                path,
            )
            assert 'this run reads that file' in result.error
            assert output.strip('-') in result.error
    assert files(job, words, store) == before
    assert not (tmp_path / 'target').exists()


@pytest.mark.parametrize('action', [each for each in ACTIONS if each != 'exec'])
def test_output_is_among_the_backups(
    local: Agent, store: Path, source: Path, tmp_path: Path, action: str
) -> None:
    marker = next(store.glob('metadata/**/metadata'))
    (tmp_path / 'other name').symlink_to(store / 'data/tar')
    before = files(store)
    for output in outputs(action):
        for path in (marker, store / 'data/tar/new', tmp_path / 'other name/new'):
            result = local.run(
                action, *arguments(action, source, tmp_path / 'target'), output, path
            )
            assert 'is among the backups' in result.error
    assert files(store) == before
    # Beside them it destroys nothing.
    local.run('info', '--log-file', store / 'agent.log').check()


@pytest.mark.parametrize('output', OUTPUTS)
def test_output_is_the_source(local: Agent, tmp_path: Path, output: str) -> None:
    source = tmp_path / 'database'
    source.write_text('precious')
    assert 'this run reads that file' in local.backup(source, output, source).error
    assert source.read_text() == 'precious'
    # In a directory that is backed up it is a file like others.
    folder = tmp_path / 'folder'
    folder.mkdir()
    local.backup(folder, output, folder / 'output.prom').check()


def test_two_outputs_are_one_file(local: Agent, source: Path, tmp_path: Path) -> None:
    path = tmp_path / 'output'
    for one in OUTPUTS:
        for two in OUTPUTS:
            if one < two:
                result = local.run(
                    'backup', '--path-to-backup', source, one, path, two, path
                )
                assert 'are one file' in result.error
    assert not path.exists()


def test_devices_are_no_files(local: Agent, source: Path, tmp_path: Path) -> None:
    null = ('--log-file', '/dev/null', '--metadata-out', '/dev/null')
    local.run('backup', '--path-to-backup', source, *null).check()


def test_a_directory_that_is_only_called_data(tmp_path: Path) -> None:
    photos = tmp_path / 'data/photos'
    photos.mkdir(parents=True)
    (photos / 'photo').touch()
    local = Agent(LocalStore(tmp_path))
    for _time in range(2):
        local.run('backup', '--path-to-backup', photos).check()


@pytest.mark.parametrize('output', OUTPUTS[1:2])
def test_output_is_in_the_target(
    local: Agent, store: Path, tmp_path: Path, output: str
) -> None:
    target = tmp_path / 'target'
    target.mkdir()
    result = local.run(
        *('restore', '--restore-abs-path', target, output, target / 'file')
    )
    assert 'is in restore-abs-path' in result.error
    assert list(target.iterdir()) == []
    local.run(
        *('restore', '--restore-abs-path', target, output, tmp_path / 'output.prom')
    ).check()


def test_standard_output(local: Agent, store: Path, tmp_path: Path) -> None:
    """The shell has opened it already; what it appends to stays."""
    words = private(tmp_path / 'pass', 'secret\n')
    marker = next(store.glob('metadata/**/metadata'))
    for path in (words, marker):
        before = path.read_bytes()
        script = f'exec "$@" >>"{path}"'
        agent = local.run_by('sh', '-c', script, 'sh').told(
            '--encrypt-pass-file', words
        )
        result = agent.run('dump', '--include', 'file')
        assert 'standard output' in result.error
        assert path.read_bytes() == before


def test_container_is_the_source(local: Agent, store: Path, tmp_path: Path) -> None:
    (tmp_path / 'other name').symlink_to(store)
    before = files(store)
    for path in (store, tmp_path / 'other name'):
        assert 'is the container itself' in local.backup(path).error
    for path in (
        store / 'data',
        store / 'metadata' / 'tar',
        next(store.glob('data/**/data')),
    ):
        assert 'is among the backups' in local.backup(path).error
    assert files(store) == before


def test_container_that_is_not_there_yet(local: Agent, tmp_path: Path) -> None:
    assert isinstance(local.store, LocalStore)
    store = local.store.directory
    store.mkdir()
    (store / 'file').write_text('content')
    assert 'is the container itself' in local.backup(store).error
    assert os.listdir(store) == ['file']


def test_agent_itself_is_not_removed(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """Its modules, as with a restore of a whole system in place."""
    local.backup(source).check()
    target = tmp_path / 'target'
    copy = target / 'lib' / 'freezer'
    shutil.copytree(
        Path(__file__).parents[2], copy, ignore=shutil.ignore_patterns('tests')
    )
    installed = local.told(PYTHONPATH=str(target / 'lib'), PYTHONSAFEPATH='1')
    installed.program = (sys.executable, '-m', 'freezer.main')
    before = files(target)
    result = installed.restore(target, '--overwrite')
    assert f'would remove {copy}' in result.error
    assert {p: c for p, c in files(target).items() if p.suffix == '.py'} == {
        p: c for p, c in before.items() if p.suffix == '.py'
    }
