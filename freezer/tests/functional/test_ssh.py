"""The agent with storage ssh, and the page about it."""

import configparser
import dataclasses
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import agent, pages, servers, trees
from freezer.tests.agent import ROOT, Agent, S3Store, SshStore, missed
from freezer.tests.cutting import CuttingProxy
from freezer.tests.pages import Block, Reader
from freezer.tests.servers.sshd import Sshd

PAGE = ROOT / 'doc' / 'source' / 'user' / 'ssh.rst'
_HERE = 'freezer/tests/functional/test_ssh.py'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / 'source'
    trees.make_tree(source, seed=5, files=30)
    (source / 'long').write_bytes(os.urandom(5 * 2**20))
    return source


@pytest.fixture
def store(sshd: Sshd, tmp_path: Path) -> SshStore:
    return SshStore(sshd, tmp_path / 'backups')


def test_levels_restore_and_are_removed(
    store: SshStore, source: Path, tmp_path: Path
) -> None:
    ours = Agent(store)
    ours.increment(source).check()
    before = trees.describe(source)
    (source / 'new').write_text('new')
    ours.increment(source).check()
    for level, state in enumerate((before, trees.describe(source))):
        target = tmp_path / f'level {level}'
        date = agent.iso(int(store.markers()[level].split('/')[4].partition('_')[2]))
        ours.restore(target, '--restore-from-date', date).check()
        assert missed(state, target) == []
    part = tmp_path / 'part'
    ours.restore(part, '--include', 'new').check()
    assert (part / 'new').read_text() == 'new'
    ours.run('verify', '--verify-data').check()
    assert ours.nameless.run('info', '--json').check().document['backups']
    ours.backup(source).check()
    ours.run('admin', '--keep-last', '1').check()
    # No empty folder of the other chain remains.
    assert len(list(store.directory.glob('*/tar/*/*'))) == 2


def end_while_it_writes(store: SshStore, source: Path, how: signal.Signals) -> int:
    slow = Agent(store, options=['--upload-limit', '100000'])
    with slow.start('backup', '--path-to-backup', source) as process:
        end = time.monotonic() + 60
        while not any(path.endswith('.partial') for path in store.files()):
            assert time.monotonic() < end, process.output()
            time.sleep(0.05)
        process.send(how)
        return process.wait().code


def test_a_killed_agent_leaves_nothing_for_long(store: SshStore, source: Path) -> None:
    end_while_it_writes(store, source, signal.SIGKILL)
    assert store.files()
    assert store.markers() == []
    Agent(store, 'next').backup(source).check()
    assert {path.split('/')[2] for path in store.files()} == {f'{agent.HOST}_next'}
    folders = [path.name for path in store.directory.glob('data/tar/*')]
    assert folders == [f'{agent.HOST}_next']


def test_an_interrupted_agent_leaves_nothing(store: SshStore, source: Path) -> None:
    assert end_while_it_writes(store, source, signal.SIGTERM) != 0
    assert store.files() == {}


@pytest.mark.parametrize('s3_server', ['seaweedfs'], indirect=True)
def test_ssh_and_s3_in_one_job(
    sshd: Sshd, s3_server: servers.Server, source: Path, tmp_path: Path
) -> None:
    """If one of them breaks down, the other has the backup."""
    with CuttingProxy(sshd.port) as proxy:
        known = tmp_path / 'known_hosts'
        known.write_text(
            sshd.known_hosts.read_text().replace(str(sshd.port), str(proxy.port))
        )
        changes = {'ssh_port': proxy.port, 'ssh_known_hosts': known}
        ssh = SshStore(sshd, tmp_path / 'backups', ssh_retry_budget=2, **changes)
        s3 = S3Store(s3_server)
        sections = {
            'storage:ssh': ssh.section,
            'storage:s3': s3.section,
            'default': {
                'backup_name': 'bk',
                'hostname': agent.HOST,
                'path_to_backup': source,
            },
        }
        job = tmp_path / 'job.conf'
        _write(job, sections)
        agent.run('--config', job, '--action', 'backup').check()
        for store in (ssh, s3):
            target = tmp_path / type(store).__name__
            Agent(store).restore(target).check()
            assert missed(trees.describe(source), target) == []
        proxy.cut(sent=2_000_000)
        proxy.after_cut = proxy.take_down
        done = agent.run('--config', job, '--action', 'backup')
        assert '[storage:ssh]' in done.error
        assert len(s3.markers()) == 2
        assert len(ssh.markers()) == 1
        assert 'the backup is complete on s3' in done.error


def _write(path: Path, sections: dict[str, dict[str, object]]) -> None:
    job = configparser.ConfigParser(interpolation=None)
    job.read_dict(sections)
    with path.open('w') as stream:
        job.write(stream)
    path.chmod(0o600)


def test_one_place_twice_is_refused(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    first = SshStore(sshd, tmp_path / 'backups').section
    second = {**first, 'container': f'{tmp_path}/backups/'}
    job = tmp_path / 'job.conf'
    _write(job, {'storage:a': first, 'storage:b': second})
    done = agent.run(
        *('--config', job, '--action', 'backup', '--backup-name', 'bk'),
        *('--path-to-backup', source),
    )
    assert 'are the same container' in done.error


def test_mistakes_are_one_line(sshd: Sshd, tmp_path: Path) -> None:
    def error(**changes: object) -> str:
        return Agent(SshStore(sshd, tmp_path / 'x', **changes)).run('info').only_error

    assert 'ssh-key /nowhere: No such file' in error(ssh_key='/nowhere')
    assert 'ssh-known-hosts /no: No such file' in error(ssh_known_hosts='/no')
    assert 'not the name or address of a host' in error(ssh_host='u@h:/path')
    assert 'not a fingerprint' in error(ssh_host_key='MD5:00')
    assert 'ssh-jump-host' in error(ssh_jump_host='a@b@c:0')
    nobody = error(ssh_host='nobody.invalid', ssh_retry_budget=0)
    assert 'Host lines of ~/.ssh/config are not read' in nobody
    refused = error(ssh_port=1, ssh_retry_budget=0)
    assert '@127.0.0.1:1: Connection refused' in refused
    folder = Path.home() / '.ssh'
    folder.mkdir()
    (folder / 'id_ed25519').write_text('no key')
    (folder / 'id_ed25519').chmod(0o600)
    found = error(ssh_key='~/.ssh/id_rsa')
    assert 'one of id_ed25519, id_ecdsa, id_rsa in ~/.ssh: Invalid' in found
    (tmp_path / 'x').touch()
    assert error().endswith('/x is not a directory: name another container')
    (tmp_path / 'x').unlink()
    (tmp_path / 'x').symlink_to('nowhere')
    assert error().endswith('/x is not a directory: name another container')
    ours = Agent(SshStore(sshd, tmp_path / 'x'))
    assert 'is not a directory' in ours.backup(tmp_path).only_error
    ours = Agent(SshStore(sshd, Path('/proc/x')))
    assert ours.backup(tmp_path).only_error.endswith(':/proc/x: not found')
    assert (
        'storage ssh needs ssh-host'
        in agent.run('--action', 'info', '--storage', 'ssh', '--container', 'x').error
    )
    assert (
        'home is not looked up'
        in agent.run(
            '--action',
            'info',
            '--storage',
            'ssh',
            '--ssh-host',
            'h',
            '--container',
            '~x/y',
        ).error
    )


def test_no_secret_is_shown(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    store = SshStore(sshd, tmp_path / 'backups')
    secrets = {'SSH_PASSWORD': 'geheim-1', 'SSH_KEY_PASSPHRASE': 'geheim-2'}
    ours = Agent(store).told('--debug', **secrets)
    done = ours.backup(source).check()
    log = Path(os.environ['HOME'], '.freezer', 'freezer.log').read_text()
    for text in (done.out, done.err, log, str(store.files())):
        assert 'geheim' not in text


class _SshReader(Reader):
    """Knows the server of the page."""

    def __init__(self, port: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._port = port

    def _there(self, text: str) -> str:
        text = text.replace('backup.example.com', '127.0.0.1')
        return super()._there(text.replace('2222', str(self._port)))

    def _here(self, text: str) -> str:
        text = text.replace('127.0.0.1', 'backup.example.com')
        return super()._here(text.replace(str(self._port), '2222'))


def test_the_page(tmp_path: Path) -> None:
    todo = [
        dataclasses.replace(
            block, said={k: v for k, v in block.said.items() if k != 'run by'}
        )
        for block in pages.blocks(PAGE)
        if block.said.get('run by') == _HERE
    ]
    assert len(todo) == 5
    machine, programs = tmp_path / 'web1', tmp_path / 'bin'
    (machine / 'etc').mkdir(parents=True)
    (machine / 'etc' / 'hosts').write_text('127.0.0.1 localhost\n')
    programs.mkdir()
    script = programs / 'freezer-agent'
    script.write_text(f'#!/bin/sh\nexec {shlex.join(agent.command())} "$@"\n')
    script.chmod(0o755)
    nowhere = {'ENDPOINT': 'http://nowhere', 'ACCESS_KEY': '', 'SECRET_KEY': ''}
    with (
        Sshd() as server,
        _SshReader(server.port, machine, nowhere, [programs]) as reader,
    ):
        for block in todo:
            _follow(reader, block, server, machine)


def _follow(reader: Reader, block: Block, server: Sshd, machine: Path) -> None:
    reader.follow(block)
    made = machine / 'root' / '.ssh' / 'id_backup.pub'
    if 'id_backup' in block.text and made.exists():
        server.allow(made)
