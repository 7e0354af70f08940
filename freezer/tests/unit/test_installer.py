"""The installer of the S3 driver, on a directory that looks like Freezer 19.0.0.

As ``inside-freezer-19.rst`` shows it.
"""

import sys
from pathlib import Path

import grimp
import pytest

from freezer.tests.agent import ROOT
from freezer.tests.commands import run_command

INSTALLER = ROOT / 'tools' / 'install-into-freezer.sh'
DRIVER = 'freezer.storage.s3'
# Modules that Freezer 19 has and that stay: the driver runs on them as they are.
UPSTREAM = {'freezer.storage.base', 'freezer.storage.physical'}
PACKAGES = {'freezer', 'freezer.storage', 'freezer.utils'}
REPLACED = {'freezer/storage/s3.py', 'freezer/storage/exceptions.py'}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / 'site packages'
    info = folder / 'freezer-19.0.0.dist-info'
    for path in (info, folder / 'freezer' / 'storage', folder / 'freezer' / 'utils'):
        path.mkdir(parents=True)
    (info / 'METADATA').write_text('Name: freezer\nVersion: 19.0.0\n')
    for name in (*REPLACED, 'freezer/storage/physical.py', 'freezer/utils/utils.py'):
        (folder / name).write_text(f'{name} of Freezer 19\n')
    return folder


def installed(*arguments: object) -> str:
    done = run_command(INSTALLER, *arguments)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout


def refused(*arguments: object) -> str:
    done = run_command(INSTALLER, *arguments)
    assert (done.returncode, done.stdout) == (1, '')
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def listed() -> set[str]:
    return set(installed('--list').split())


def test_the_list_is_what_the_driver_imports() -> None:
    graph = grimp.build_graph('freezer', exclude_type_checking_imports=True)
    found: set[str] = set()
    waiting = {DRIVER}
    while waiting:
        module = waiting.pop()
        # A package's own code runs before that of what is in it.
        package = module.rpartition('.')[0]
        imported = graph.find_modules_directly_imported_by(module) | {package}
        found.add(module)
        waiting |= imported - found - UPSTREAM - PACKAGES
    paths = set()
    for module in found:
        path = module.replace('.', '/')
        folder = (ROOT / path).is_dir()
        paths.add(f'{path}/__init__.py' if folder else f'{path}.py')
    assert listed() == paths


def test_install_and_undo(packages: Path) -> None:
    before = files(packages)
    said = installed(packages)
    for name in listed():
        how = 'replaced' if name in REPLACED else 'added'
        assert f'{how} {name}\n' in said
        assert (packages / name).read_bytes() == (ROOT / name).read_bytes()
    for name in REPLACED:
        assert (packages / f'{name}.freezer19').read_bytes() == before[name]
    assert 'botocore>=' in said
    after = files(packages)
    assert installed(packages) == said
    assert files(packages) == after
    installed('--undo', packages)
    assert files(packages) == before
    assert not (packages / 'freezer' / 'storage' / '_s3').exists()
    assert 'not installed there' in refused('--undo', packages)


def test_an_installation_that_breaks_off_can_be_undone(packages: Path) -> None:
    # The last file cannot be written.
    obstacle = packages / sorted(listed())[-1]
    obstacle.mkdir()
    before = files(packages)
    assert run_command(INSTALLER, packages).returncode == 1
    changed = files(packages)
    assert all(changed[name] != before[name] for name in REPLACED)
    installed('--undo', packages)
    assert files(packages) == before


@pytest.mark.parametrize('version', ['18.0.0', '20.0.0.dev1'])
def test_another_freezer_is_refused(packages: Path, version: str) -> None:
    (info,) = packages.glob('*.dist-info')
    (info / 'METADATA').write_text(f'Name: freezer\nVersion: {version}\n')
    info.rename(packages / f'freezer-{version}.dist-info')
    before = files(packages)
    assert f'found freezer {version}; 19.0.0 is required' in refused(packages)
    assert files(packages) == before


def test_what_is_no_freezer_is_refused(tmp_path: Path) -> None:
    assert 'not a directory' in refused(tmp_path / 'nothing')
    assert 'no freezer/storage/physical.py' in refused(tmp_path)
    # This tree is not an installed one.
    assert '19.0.0 is required' in refused(ROOT)
    for arguments in ((), ('--what',), ('',), (tmp_path, tmp_path)):
        assert 'usage' in refused(*arguments)


def test_an_older_python_is_refused(packages: Path, tmp_path: Path) -> None:
    old = tmp_path / 'lib' / 'python3.10' / 'site-packages'
    old.parent.mkdir(parents=True)
    packages.rename(old)
    assert 'Python 3.10' in refused(old)
    new = old.parent.with_name(f'python3.{sys.version_info.minor}')
    old.parent.rename(new)
    installed(new / old.name)
