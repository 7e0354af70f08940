"""Faults of storage ssh: connections that break, servers that refuse, full disks."""

import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from freezer.storage import exceptions as e
from freezer.storage.backup import LevelPaths
from freezer.storage.base import StorageSettings
from freezer.storage.ssh import transfer
from freezer.storage.ssh.options import OPTIONS
from freezer.storage.ssh.storage import SshStorage
from freezer.tests.conformance.backups import backup
from freezer.tests.cutting import CuttingProxy
from freezer.tests.faults.file_servers import (
    CONTENT,
    PART,
    ConnectionFaults,
    Driver,
    ServerFaults,
    files,
    restored,
    store,
)
from freezer.tests.servers.sshd import Sshd, make_key


@pytest.fixture
def server(sshd: Sshd) -> Sshd:
    return sshd


@pytest.fixture
def each_server(sshd: Sshd) -> Sshd:
    return sshd


@pytest.fixture
def links_server(sshd: Sshd) -> Sshd:
    return sshd


@pytest.fixture
def own_server() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture
def each_proxy(proxy: CuttingProxy) -> CuttingProxy:
    return proxy


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[CuttingProxy]:
    with CuttingProxy(sshd.port) as proxy:
        sshd.trust(f'[127.0.0.1]:{proxy.port}')
        yield proxy
    sshd.trust(f'[127.0.0.1]:{sshd.port}')


def storage(server: Sshd, root: Path | str, **changes: Any) -> SshStorage:
    given = OPTIONS.defaults() | server.options(ssh_retry_budget=30.0) | changes
    return SshStorage.from_settings(StorageSettings(str(root), PART, options=given))


@contextlib.contextmanager
def opened(server: Sshd, root: Path | str, **changes: Any) -> Iterator[SshStorage]:
    with contextlib.closing(storage(server, root, **changes)) as found:
        yield found


class SlowProxy(CuttingProxy):
    """Passes what it receives at 4 MiB/s."""

    def _allowed(self, direction: str, size: int) -> tuple[int, bool]:
        if direction == 'received':
            time.sleep(size / (4 * 2**20))
        return super()._allowed(direction, size)


def test_a_file_may_take_longer_than_the_time_out(sshd: Sshd, root: Path) -> None:
    content = os.urandom(16 * 2**20)
    root.mkdir()
    (root / 'large').write_bytes(content)
    with SlowProxy(sshd.port) as proxy:
        sshd.trust(f'[127.0.0.1]:{proxy.port}')
        slow = {'ssh_port': proxy.port, 'ssh_timeout': 2.0, 'ssh_retry_budget': 0.0}
        with opened(sshd, root, **slow) as target:
            assert target.read_file(f'{root}/large') == content
    sshd.trust(f'[127.0.0.1]:{sshd.port}')


class SshDriver(Driver):
    prefix = 'ssh'
    opened = staticmethod(opened)


class TestConnections(SshDriver, ConnectionFaults):
    def test_bytes_that_a_restarted_server_lost_are_noticed(
        self, sshd: Sshd, proxy: CuttingProxy, root: Path
    ) -> None:
        def lose() -> None:
            (partial,) = root.glob('file.*.partial')
            with partial.open('r+b') as file:
                file.seek(1000)
                file.write(bytes(1000))

        proxy.after_cut = lose
        with opened(sshd, root, ssh_port=proxy.port) as target:
            target.prepare()
            # More than is under way at a time: the first bytes were confirmed.
            proxy.cut(sent=2 * transfer._WINDOW)
            blocks = (memoryview(CONTENT[:100_000]) for _ in range(200))
            with pytest.raises(e.IntegrityError, match='were lost after the server'):
                target.write_stream(f'{root}/file', blocks)
        assert files(root) == []


class TestHostKeys:
    """A server whose key is not known never gets the login."""

    @pytest.fixture
    def server(self) -> Iterator[Sshd]:
        with Sshd() as server:
            yield server

    def test_an_unknown_key(self, server: Sshd, root: Path, tmp_path: Path) -> None:
        empty = tmp_path / 'known_hosts'
        empty.touch()
        with opened(server, root, ssh_known_hosts=str(empty)) as target:
            with pytest.raises(e.HostKeyError) as found:
                target.prepare()
        line = found.value.message
        assert 'is unknown: ssh-ed25519 ' + server.fingerprint() in line
        command = line.partition('accept it: ')[2].partition(' >>')[0]
        assert command == f'ssh-keyscan -p {server.port} 127.0.0.1'
        assert server.sessions() == 0
        # What the message says to do is enough.
        known = subprocess.run(
            [*command.split(), '-t', 'ed25519'], capture_output=True, check=True
        )
        empty.write_bytes(known.stdout)
        with opened(server, root, ssh_known_hosts=str(empty)) as target:
            target.prepare()
        assert server.sessions() == 1

    @pytest.mark.parametrize('kind', ['ed25519', 'ecdsa'])
    def test_a_changed_key(self, server: Sshd, root: Path, kind: str) -> None:
        known = server.known_hosts.read_text()
        for path in server.directory.glob('host_*'):
            path.unlink()
        server.make_host_key(kind)
        server.known_hosts.write_text(known)
        server.restart()
        with opened(server, root) as target:
            with pytest.raises(e.HostKeyError, match='has CHANGED') as found:
                target.prepare()
        assert server.fingerprint(kind) in found.value.message
        assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in found.value.message
        assert server.sessions() == 0

    def test_a_fingerprint(self, server: Sshd, root: Path) -> None:
        right, wrong = server.fingerprint(), 'SHA256:' + 'A' * 43
        for pinned in ([right], [wrong, right]):
            options = {'ssh_known_hosts': None, 'ssh_host_key': pinned}
            with opened(server, root, **options) as target:
                target.prepare()
        count = server.sessions()
        options = {'ssh_known_hosts': None, 'ssh_host_key': [wrong]}
        with opened(server, root, **options) as target:
            with pytest.raises(
                e.HostKeyError, match=f'the server has ssh.*{right[7:12]}'
            ):
                target.prepare()
        assert server.sessions() == count


class TestLogins:
    def test_a_wrong_key(self, sshd: Sshd, root: Path, tmp_path: Path) -> None:
        make_key(tmp_path / 'other')
        with opened(sshd, root, ssh_key=str(tmp_path / 'other')) as target:
            with pytest.raises(e.BadCredentials, match=f'{tmp_path}/other'):
                target.prepare()

    @pytest.mark.parametrize('kind', ['ed25519', 'rsa', 'ecdsa'])
    def test_a_key_with_a_passphrase(
        self, sshd: Sshd, root: Path, tmp_path: Path, kind: str
    ) -> None:
        key = tmp_path / 'key'
        make_key(key, kind, 'open sesame')
        sshd.allow(key.with_suffix('.pub'))
        options = {'ssh_key': str(key), 'ssh_key_passphrase': 'open sesame'}
        with opened(sshd, root, **options) as target:
            target.prepare()
        for passphrase in ('', 'wrong secret'):
            options['ssh_key_passphrase'] = passphrase
            with opened(sshd, root, **options) as target:
                with pytest.raises(e.StorageConfigError) as found:
                    target.prepare()
            assert 'SSH_KEY_PASSPHRASE' in found.value.message
            assert 'secret' not in found.value.message

    def test_the_keys_of_an_agent(
        self, sshd: Sshd, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        socket = tmp_path / 'agent'
        with subprocess.Popen(
            ['ssh-agent', '-D', '-a', socket], stdout=subprocess.DEVNULL
        ) as agent:
            try:
                while not socket.exists():
                    assert agent.poll() is None
                monkeypatch.setenv('SSH_AUTH_SOCK', str(socket))
                subprocess.run(['ssh-add', '-q', sshd.key], check=True)
                with opened(sshd, root, ssh_key='~/.ssh/id_rsa') as target:
                    target.prepare()
            finally:
                agent.kill()
        with opened(sshd, root, ssh_key='~/.ssh/id_rsa') as target:
            with pytest.raises(e.BadCredentials, match='keys of the SSH agent'):
                target.reserve(f'{root}/x')

    @pytest.mark.parametrize('interactive', [False, True])
    def test_a_password(self, root: Path, tmp_path: Path, interactive: bool) -> None:
        with _password_server(tmp_path, interactive) as options:
            given = OPTIONS.defaults() | options
            for password, accepted in (('right', True), ('wrong', False)):
                settings = StorageSettings(
                    str(root), PART, options=given | {'ssh_password': password}
                )
                with contextlib.closing(SshStorage.from_settings(settings)) as target:
                    if accepted:
                        target.prepare()
                        continue
                    with pytest.raises(e.BadCredentials) as found:
                        target.prepare()
                    assert 'the password' in found.value.message
                    assert 'wrong' not in found.value.message

    def test_a_jump_host(self, sshd: Sshd, root: Path) -> None:
        with Sshd() as jump:
            known = jump.known_hosts.read_text() + sshd.known_hosts.read_text()
            jump.known_hosts.write_text(known)
            jump.allow(sshd.key.with_suffix('.pub'))
            options = {
                'ssh_jump_host': f'{jump.user}@127.0.0.1:{jump.port}',
                'ssh_known_hosts': str(jump.known_hosts),
            }
            with opened(sshd, root, **options) as target:
                target.prepare()
            assert jump.sessions() == 1
            # An error names the server that it is about.
            closed = {**options, 'ssh_port': 1, 'ssh_retry_budget': 0.0}
            through = f'@127.0.0.1:1 through .*:{jump.port}: Connection refused'
            with opened(sshd, root, **closed) as target:
                with pytest.raises(e.Unreachable, match=through):
                    target.prepare()
            closed = {'ssh_jump_host': '127.0.0.1:1', 'ssh_retry_budget': 0.0}
            with opened(sshd, root, **closed) as target:
                with pytest.raises(e.Unreachable, match=':1: Connection refused'):
                    target.prepare()
            # Its key is checked as well.
            jump.known_hosts.write_text(sshd.known_hosts.read_text())
            with opened(sshd, root, **options) as target:
                with pytest.raises(e.HostKeyError, match=f':{jump.port} is unknown'):
                    target.prepare()


class _PasswordServer(asyncssh.SSHServer):
    """OpenSSH checks passwords only against those of the machine's users."""

    def __init__(self, interactive: bool) -> None:
        self._interactive = interactive

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return not self._interactive

    def validate_password(self, username: str, password: str) -> bool:
        return password == 'right'

    def kbdint_auth_supported(self) -> bool:
        return self._interactive

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return '', '', '', [('Password: ', False)]

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        return list(responses) == ['right']


@contextlib.contextmanager
def _password_server(folder: Path, interactive: bool) -> Iterator[dict[str, Any]]:
    key = asyncssh.generate_private_key('ssh-ed25519')
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def listen() -> Any:
        return await asyncssh.create_server(
            lambda: _PasswordServer(interactive),
            '127.0.0.1',
            0,
            server_host_keys=[key],
            sftp_factory=True,
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    known = folder / 'known_hosts'
    public = key.export_public_key().decode()
    known.write_text(f'[127.0.0.1]:{server.get_port()} {public}')
    try:
        yield {
            'ssh_host': '127.0.0.1',
            'ssh_port': server.get_port(),
            'ssh_username': 'somebody',
            'ssh_known_hosts': str(known),
            'ssh_retry_budget': 5.0,
        }
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class TestServers(SshDriver, ServerFaults):
    @staticmethod
    def read_only() -> Sshd:
        return Sshd(sftp='-R')

    def test_one_that_has_no_extensions(self, root: Path, tmp_path: Path) -> None:
        refused = 'posix-rename,fsync,statvfs,limits'
        with Sshd(sftp=f'-P {refused}') as own, opened(own, root) as target:
            target.prepare()
            store(target, tmp_path / 'state')
            assert restored(target) == CONTENT
            marker = LevelPaths(str(root), backup()).marker
            before = target.read_file(marker)
            with pytest.raises(e.Rejected, match='lacks posix-rename'):
                target.replace_file(marker, before, b'new')
            assert target.read_file(marker) == before
            assert not [name for name in files(root) if name.endswith('.partial')]
            report = {row.name: row.finding for row in target.check().rows}
            for name in ('rename', 'durable', 'space'):
                assert report[name].result == 'note', report[name]

    def test_one_with_a_shell(self, root: Path, tmp_path: Path) -> None:
        with Sshd(shell=True) as own, opened(own, root) as target:
            target.prepare()
            store(target, tmp_path / 'state')
            assert restored(target) == CONTENT

    def test_one_without_sftp(self, root: Path) -> None:
        with Sshd(shell=True) as own:
            config = own.directory / 'sshd_config'
            text = config.read_text().replace('Subsystem', '# Subsystem')
            config.write_text(text)
            (pid,) = own.pids
            # It reads its configuration again.
            os.kill(pid, 1)
            own._wait(own._answers, 'answer')
            with opened(own, root, ssh_retry_budget=1.0) as target:
                with pytest.raises(e.Rejected, match=r'SFTP|sftp'):
                    target.prepare()

    def test_a_relative_container(self, sshd: Sshd, tmp_path: Path) -> None:
        home = Path(os.path.expanduser(f'~{sshd.user}'))
        name = f'freezer-test-{os.getpid()}'
        try:
            self.check_relative_containers(sshd, home, name, tmp_path / 'state')
        finally:
            shutil.rmtree(home / name, ignore_errors=True)


def test_no_more_than_a_window_is_in_memory(
    sshd: Sshd, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests in advance, of reading and writing, have a limit."""
    most = 0
    add = transfer._Transfer._add

    def watched(self: Any, *arguments: Any) -> None:
        nonlocal most
        add(self, *arguments)
        most = max(most, self._under_way)

    monkeypatch.setattr(transfer._Transfer, '_add', watched)
    step = SshStorage.request_bytes
    with opened(sshd, root) as target:
        target.prepare()
        path = f'{root}/file'
        target.write_stream(path, (memoryview(bytes(step)) for _ in range(100)))
        assert step < most <= transfer._WINDOW + step
        most = 0
        ranges = [(start * step, (start + 1) * step) for start in range(100)]
        read = target.read_ranges(path, ranges)
        assert (
            sum(len(block) for block in read if isinstance(block, bytes)) == 100 * step
        )
        assert step < most <= transfer._WINDOW + step


def test_asyncssh_logs_nothing(
    sshd: Sshd, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), opened(sshd, root) as target:
        target.prepare()
    assert not [each for each in caplog.records if each.name.startswith('asyncssh')]
