"""What is around the code: versions, what a wheel holds, lists that must agree."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from freezer.stream import encryption
from freezer.tests.agent import ROOT
from freezer.tests.commands import run_command

PROJECT: dict[str, Any] = tomllib.loads((ROOT / 'pyproject.toml').read_text())
LAYERS = [
    contract
    for contract in PROJECT['tool']['importlinter']['contracts']
    if contract['type'] == 'layers'
]
REPOSITORIES = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
HOOKS = [hook for repository in REPOSITORIES for hook in repository['hooks']]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a build reads, in a directory that git knows nothing of."""
    folder = tmp_path / 'tree'
    (folder / 'freezer' / 'tests').mkdir(parents=True)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'requirements.txt'):
        shutil.copy(ROOT / name, folder)
    for name in ('README.rst', 'LICENSE', 'freezer/__init__.py'):
        shutil.copy(ROOT / name, folder / name)
    (folder / 'freezer' / 'tests' / '__init__.py').touch()
    return folder


def git(tree: Path, *arguments: str) -> None:
    who = ('-c', 'user.name=somebody', '-c', 'user.email=somebody@example.com')
    run_command('git', *who, *arguments, cwd=tree, check=True)


def commit(tree: Path, *options: str) -> None:
    git(tree, 'commit', '-q', '--no-gpg-sign', '-m', 'a change', *options)


def version(tree: Path) -> str:
    argv = (sys.executable, 'setup.py', '--quiet', '--version')
    return run_command(*argv, cwd=tree, check=True).stdout.split()[-1]


# The version


def test_the_version_of_an_export(tree: Path) -> None:
    assert version(tree) == '20.0.0.dev0'


def test_the_version_of_an_export_inside_another_clone(tree: Path) -> None:
    git(tree.parent, 'init', '-q')
    commit(tree.parent, '--allow-empty')
    git(tree.parent, 'tag', '-a', '3.2.1', '-m', 'of another project')
    assert version(tree) == '20.0.0.dev0'


def test_the_version_follows_git(tree: Path) -> None:
    git(tree, 'init', '-q')
    git(tree, 'add', '.')
    commit(tree)
    assert version(tree) == '20.0.0.dev0'
    commit(tree, '--allow-empty')
    assert re.fullmatch(r'20\.0\.0\.dev[12]', version(tree))
    git(tree, 'tag', '-a', '20.0.0', '-m', 'a release')
    assert version(tree) == '20.0.0'


def test_the_version_of_an_sdist_is_that_of_its_metadata(tree: Path) -> None:
    (tree / 'PKG-INFO').write_text('Name: freezer\nVersion: 20.4.2\n')
    assert version(tree) == '20.4.2'


# Dependencies


def requirements() -> list[str]:
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    extras = PROJECT['project']['optional-dependencies']
    return [
        *(line.partition('#')[0].strip() for line in lines if line[:1] != '#'),
        *(each for extra in extras.values() for each in extra),
    ]


@pytest.mark.parametrize('requirement', requirements())
def test_every_dependency_has_a_minimum(requirement: str) -> None:
    assert re.match(r'[A-Za-z0-9_.-]+>=\d', requirement)


def test_the_page_has_every_extra() -> None:
    page = (ROOT / 'doc/source/user/install.rst').read_text()
    listed = set(re.findall(r'^``([\w-]+)``  ', page, re.MULTILINE))
    assert listed == set(PROJECT['project']['optional-dependencies'])


@pytest.mark.parametrize('name', ['Containerfile', 'tools/package.sh', 'tools/lib.sh'])
def test_extras_that_are_installed_are_there(name: str) -> None:
    text = (ROOT / name).read_text()
    (named,) = re.findall(r'(?:\.|src)\[([\w,-]+)\]|^EXTRAS=(\S+)', text, re.MULTILINE)
    chosen = set(''.join(named).split(','))
    assert len(chosen) > 1
    assert chosen <= set(PROJECT['project']['optional-dependencies'])


def test_bindep_has_what_the_tests_install() -> None:
    script = '. tools/lib.sh; echo "${PACKAGES[@]}"'
    done = run_command('bash', '-c', script, cwd=ROOT, check=True)
    lines = (ROOT / 'bindep.txt').read_text().splitlines()
    named = {line.split()[0] for line in lines if line and line[0] != '#'}
    assert set(done.stdout.split()) <= named
    assert 'tar' in named


# Debian

DEBIAN = ROOT / 'packaging' / 'debian'


@pytest.mark.parametrize('command', sorted(PROJECT['project']['scripts']))
def test_a_package_for_debian_has_all_of_a_command(command: str) -> None:
    installed = (DEBIAN / f'{command}.install').read_text().split()
    data = PROJECT['tool']['setuptools']['data-files']
    assert f'usr/bin/{command}' in installed
    for target, shell in (
        ('bash-completion/completions', 'bash'),
        ('zsh', 'zsh'),
        ('fish', 'fish'),
    ):
        (folder,) = (each for each in data if each.startswith(f'share/{target}'))
        (pattern,) = data[folder]
        (file,) = (p for p in ROOT.glob(pattern) if command in p.name)
        assert f'usr/{folder}/{file.name}' in installed, shell
    (page,) = (DEBIAN / f'{command}.manpages').read_text().split()
    assert (ROOT / f'doc/source/cli/{Path(page).stem}.rst').exists()
    for pattern in (DEBIAN / f'{command}.examples').read_text().split():
        assert list(ROOT.glob(pattern)), pattern


def test_debian_has_a_package_for_each_command() -> None:
    named = re.findall(r'(?m)^Package: (.*)', (DEBIAN / 'control').read_text())
    assert sorted(named) == sorted(PROJECT['project']['scripts'])
    installed = {path.stem for path in DEBIAN.glob('*.install')}
    assert installed == set(named)


def test_debian_depends_on_what_the_scheduler_needs() -> None:
    control = (DEBIAN / 'control').read_text()
    extras = PROJECT['project']['optional-dependencies']
    for each in extras['scheduler']:
        name = re.match(r'[\w-]+', each)[0].removeprefix('python-')  # type: ignore[index]
        assert f' python3-{name},\n' in control


def test_the_minimum_for_age_is_that_of_the_extra() -> None:
    (needed,) = PROJECT['project']['optional-dependencies']['encryption']
    minimum = needed.removeprefix('cryptography>=').partition('.')[0]
    assert int(minimum) == encryption._AGE_NEEDS
    assert f'python3-cryptography (>= {minimum})' in (DEBIAN / 'control').read_text()


def test_debian_starts_the_command_that_it_installs() -> None:
    unit = (ROOT / 'etc/systemd/freezer-scheduler.service').read_text()
    rules = (DEBIAN / 'rules').read_text()
    (old, new) = re.findall(r"sed 's,(.*),(.*),' etc/systemd", rules)[0]
    assert 'ExecStart=/usr/bin/freezer-scheduler ' in unit.replace(old, new)


@pytest.mark.parametrize(
    ('of_pbr', 'of_debian'),
    [
        ('20.0.0', '20.0.0'),
        ('20.0.0.dev5', '20.0.0~dev5'),
        ('20.0.0.0rc1', '20.0.0~rc1'),
        ('20.0.0.0b2.dev7', '20.0.0~b2~dev7'),
    ],
)
def test_the_version_for_debian_and_back(of_pbr: str, of_debian: str) -> None:
    def sed(file: Path, found: str, text: str) -> str:
        (script,) = re.findall(found, file.read_text())
        return run_command('sed', '-E', script, input=text, check=True).stdout

    script = ROOT / 'tools' / 'debian.sh'
    assert sed(script, r"VERSION\" \| sed -E '(.*)'\)", of_pbr) == of_debian
    assert sed(DEBIAN / 'rules', r"\| sed '(.*)'\)", of_debian) == of_pbr


@pytest.mark.root
@pytest.mark.parametrize('option, starts', [('', False), ('--build', True)])
def test_a_build_needs_no_machine_without_the_scheduler(
    option: str, starts: bool, tmp_path: Path
) -> None:
    installed = tmp_path / 'dpkg-query'
    installed.write_text('#!/bin/sh\necho installed\n')
    installed.chmod(0o755)
    # It ends where the work would begin.
    changes = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'TMPDIR': '/none'}
    argv = ['bash', 'tools/debian.sh', *option.split()]
    done = run_command(*argv, cwd=ROOT, env=os.environ | changes)
    assert done.returncode == 1
    assert ('/none' in done.stderr) == starts
    assert ('this script would remove it' in done.stderr) != starts


# Examples


def test_examples_of_backups_remove_old_ones() -> None:
    backups = [
        action['freezer_action']
        for path in (ROOT / 'etc/freezer/scheduler').glob('*.example')
        for action in json.loads(path.read_text())['job_actions']
        if action['freezer_action'].get('action', 'backup') == 'backup'
    ]
    assert len(backups) > 1
    for each in backups:
        assert each['incremental'] is True
        assert each['remove_older_than'] > each['restart_always_level'] == 6.9


def test_no_page_makes_weekly_levels_a_minute_too_late() -> None:
    pages = [ROOT / 'README.rst', *(ROOT / 'doc/source').rglob('*.rst')]
    for page in pages:
        for text in ('--restart-always-level 7', 'restart_always_level = 7'):
            assert text not in page.read_text(), page


def test_the_unit_starts_what_the_guides_install() -> None:
    unit = (ROOT / 'etc/systemd/freezer-scheduler.service').read_text()
    (folder,) = re.findall(r'ExecStart=(\S+)/bin/freezer-scheduler ', unit)
    for name in ('README.rst', 'doc/source/user/install.rst'):
        text = (ROOT / name).read_text()
        assert f'python3 -m venv {folder}\n' in text
        assert f'{folder}/bin/pip install' in text
    guides = [ROOT / 'README.rst', *(ROOT / 'doc/source/user').glob('*.rst')]
    for page in guides:
        # pip refuses to install into the system of Debian 12 and others.
        assert not re.search(r'(?m)^ +[#$] pip install', page.read_text()), page


def test_the_image_runs_the_agent() -> None:
    words = 'ENTRYPOINT ["freezer-agent"]\nCMD ["--help"]\n'
    assert (ROOT / 'Containerfile').read_text().endswith(words)


# Habits


def test_hooks_are_local_and_their_programs_are_those_of_the_tests() -> None:
    assert {repository['repo'] for repository in REPOSITORIES} == {'local'}
    script = (ROOT / 'tools' / 'test.sh').read_text()
    for hook in HOOKS:
        program = shlex.split(hook['entry'])[0]
        if program != 'bash':
            assert re.search(rf"step '[^']*' {Path(program).name}\b", script), hook


@pytest.mark.parametrize('hook', HOOKS, ids=lambda hook: hook['id'])
def test_a_hook_runs(hook: dict[str, Any]) -> None:
    if hook['id'] in ('mypy', 'import-contracts'):
        # They take long, and are steps of tools/test.sh as they stand here.
        arguments = ['--help']
    else:
        others = {'shell-syntax': ['tools/lib.sh'], 'release-notes': []}
        arguments = others.get(hook['id'], ['setup.py'])
    program, *options = shlex.split(hook['entry'])
    beside = Path(sys.executable).with_name(Path(program).name)
    found = beside if beside.exists() else beside.name
    done = run_command(found, *options, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pre_commit_stops_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PRE_COMMIT_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'clone'
    folder.mkdir()
    git(folder, 'init', '-q')
    for name in ('.pre-commit-config.yaml', 'pyproject.toml'):
        shutil.copy(ROOT / name, folder)
    (folder / '.venv').symlink_to(sys.prefix)

    def hook(name: str, content: str, *only: str) -> int:
        (folder / name).write_text(content)
        git(folder, 'add', name)
        argv = [sys.executable, '-m', 'pre_commit', 'run', *only, '--files', name]
        return run_command(*argv, cwd=folder).returncode

    assert hook('fine.py', "NAME = 'x'\n", 'ruff-check') == 0
    assert hook('unused.py', 'import os\n', 'ruff-check') == 1
    assert hook('broken.sh', '#!/bin/bash\nif\n', 'shell-syntax') == 1


def test_the_containerfile_is_linted() -> None:
    program = Path(sys.executable).with_name('hadolint')
    done = run_command(program, '--no-color', 'Containerfile', cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_files_are_as_editorconfig_says() -> None:
    kinds = ('*.py', '*.sh', '*.rst', '*.toml', '*.yaml', '*.cfg')
    files = run_command('git', 'ls-files', '-z', *kinds, cwd=ROOT, check=True).stdout
    for name in files.split('\0')[:-1]:
        path = ROOT / name
        if not path.exists():  # removed, and not committed yet
            continue
        content = path.read_bytes()
        content.decode('utf-8')
        assert b'\r' not in content, name
        assert not content or content.endswith(b'\n'), name
        assert not re.search(rb'[ \t]\n', content), name


# The picture


@pytest.fixture(scope='module')
def picture() -> ModuleType:
    path = ROOT / 'doc' / 'source' / '_ext' / 'import_contract.py'
    spec = importlib.util.spec_from_file_location('import_contract', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('contract', LAYERS, ids=lambda c: str(c['name'][:20]))
def test_the_picture_has_every_layer(
    contract: dict[str, Any], picture: ModuleType
) -> None:
    page = (ROOT / 'doc/source/contributor/architecture.rst').read_text()
    assert f'.. import-contract:: {contract["name"]}\n' in page
    found = picture.layers(contract['name'])
    assert [' | '.join(layer) for layer in found] == contract['layers']
    arrows = picture.arrows(found)
    drawn = picture.svg(found, arrows)
    order = [module for layer in found for module in layer]
    for module in order:
        assert f'>{module.removeprefix(picture._common(found))}</text>' in drawn
    assert drawn.count('fill="none"') == len(arrows) > len(found)
    # Down, and never up.
    assert all(order.index(a) < order.index(b) for a, b in arrows)


def test_a_contract_that_is_not_there(picture: ModuleType) -> None:
    with pytest.raises(LookupError, match='no contract'):
        picture.layers('another')
