"""What the pages of the documentation have one type is typed, and answered so."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import agent, packages, pages, recording, scheduler, servers
from freezer.tests.agent import ROOT
from freezer.tests.once import made_once
from freezer.tests.pages import ENDPOINT, Block, Reader

BUCKET = 'backups'


def runs() -> list[Any]:
    """Each page, with each server that some of it is run on."""
    found = []
    for page in pages.pages():
        name = str(page.relative_to(ROOT))
        short = name.removeprefix('doc/source/').removesuffix('.rst')
        run = [block.server for block in pages.blocks(page) if block.is_run]
        for server in dict.fromkeys(run):
            found.append(pytest.param(page, server, id=f'{short}-{server}'))
    return found


@pytest.fixture(scope='session')
def aws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the command ``aws``: that of this machine, or one from pip.

    That one is in a virtual environment of its own, made once for all workers: it wants
    one certain botocore.
    """
    found = shutil.which('aws')
    if found:
        return Path(found).parent

    def make(folder: Path) -> None:
        venv = [sys.executable, '-m', 'venv', '--without-pip', str(folder)]
        subprocess.run(venv, check=True)
        try:
            packages.install(folder, 'awscli')
        except packages.Unavailable as error:
            pytest.skip(f'no aws-cli: {error}')

    return made_once(tmp_path_factory, 'aws', make) / 'bin'


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """What there is on the machine that the pages speak of."""
    root = tmp_path / 'web1'
    for name, content in {
        'etc/host.conf': 'multi on\n',
        'etc/hostname': 'web1\n',
        'etc/hosts': '127.0.0.1 localhost\n',
        'etc/motd': 'Welcome.\n',
        'etc/passwd': 'root:x:0:0:root:/root:/bin/bash\n',
        'etc/ssh/sshd_config': 'PermitRootLogin no\n',
        'etc/ssh/ssh_config': 'HashKnownHosts yes\n',
        'home/alice/letter.txt': 'Dear reader,\n',
        'home/alice/cache/index': 'what can be made again\n',
        'srv/www/index.html': '<p>All is well.</p>\n',
        'var/lib/freezer/notes': 'nothing yet\n',
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name in ('tmp', 'mnt', 'run', 'etc/freezer', 'var/tmp'):
        (root / name).mkdir()
    # Of one second, as the pages show them.
    now = int(time.time())
    for path in (root, *root.rglob('*')):
        os.utime(path, (now, now))
    return root


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the commands of this tree."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, argv in (
        ('freezer-agent', agent.command()),
        ('freezer-scheduler', scheduler.command()),
    ):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
        script.chmod(0o755)
    return folder


# Some type many commands.
@pytest.mark.timeout(900)
@pytest.mark.parametrize('page, s3_server', runs(), indirect=['s3_server'])
def test_page(
    page: Path,
    s3_server: servers.Server,
    machine: Path,
    programs: Path,
    request: pytest.FixtureRequest,
) -> None:
    todo = [
        block
        for block in pages.blocks(page)
        if block.is_run and block.server == s3_server.name
    ]
    path = [programs]
    if any(needs_aws(block) for block in todo):
        path.append(request.getfixturevalue('aws'))
    store = {
        'ENDPOINT': s3_server.endpoint,
        'ACCESS_KEY': s3_server.access_key,
        'SECRET_KEY': s3_server.secret_key,
    }
    s3_server.remove_bucket(BUCKET)
    try:
        with Reader(machine, store, path) as reader:
            for block in todo:
                reader.follow(block)
    finally:
        s3_server.remove_bucket(BUCKET)


@pytest.mark.root
def test_the_terminal_of_the_landing_page(seaweedfs: servers.Server) -> None:
    """Its commands still give what it shows; else record it again."""
    seaweedfs.remove_bucket(BUCKET)
    try:
        now = session(recording.record(seaweedfs))
    finally:
        seaweedfs.remove_bucket(BUCKET)
    moments = pages.Moments()
    for (typed, shown), (again, met) in zip(
        session(recording.load()), now, strict=True
    ):
        assert typed == again
        assert not pages.differs(shown, met, moments), typed


def session(recorded: list[Any]) -> list[tuple[str, str]]:
    """Commands and output of a recording."""
    text = recording.session(recorded)
    name = recording.PATH.name
    return list(Block('console', text, name, 'seaweedfs', ENDPOINT, {}).commands())


def needs_aws(block: Block) -> bool:
    return 'aws ' in block.text
