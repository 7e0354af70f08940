"""Faults of every storage with files on a server: ssh, ftp, ftps."""

import abc
import contextlib
import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from freezer.storage import exceptions as e
from freezer.storage import retry
from freezer.storage.backup import Backup, LevelPaths
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.repository import Repository
from freezer.tests.conformance.backups import HOST, MARKER, TAR, backup
from freezer.tests.cutting import CuttingProxy
from freezer.tests.servers.ftpd import Pyftpd, Vsftpd
from freezer.tests.servers.sshd import Sshd

PART = 5 * 2**20
CONTENT = os.urandom(3 * 2**20 + 1000)

Server = Sshd | Pyftpd | Vsftpd
Storage = RemotePathStorage[Any]


def store(target: Storage, state: Path, level: Backup | None = None) -> None:
    """A whole backup; discarded if it fails, as the agent does it."""
    state.write_bytes(b'state')
    pending = target.begin(level or backup())
    try:
        blocks = (CONTENT[n : n + 100_000] for n in range(0, len(CONTENT), 100_000))
        pending.write(blocks).commit(state, MARKER)
    except BaseException:
        with contextlib.suppress(e.StorageException):
            pending.discard()
        raise


def make(target: Storage, state: Path) -> None:
    target.prepare()
    store(target, state)


def restored(target: Storage) -> bytes:
    chain = Repository({'': target}).find_state(TAR, HOST)
    return b''.join(b''.join(level.stream().blocks()) for level in chain.values())


def files(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob('*') if path.is_file()]


class Driver(abc.ABC):
    """A storage, and how a test opens it.

    :cvar prefix: of its options
    """

    prefix: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between attempts; their number stays."""
        monkeypatch.setattr(retry, '_LONGEST_DELAY', 0.1)

    @staticmethod
    @abc.abstractmethod
    def opened(
        server: Any, root: Path | str, **changes: Any
    ) -> AbstractContextManager[Storage]: ...

    def options(self, **changes: Any) -> dict[str, Any]:
        return {f'{self.prefix}_{name}': value for name, value in changes.items()}

    def through(self, proxy: CuttingProxy, **changes: Any) -> dict[str, Any]:
        return self.options(host='127.0.0.1', port=proxy.port, **changes)


class ConnectionFaults(Driver):
    """A connection that ends goes on in another one.

    Fixtures: ``server`` is one server, ``each_server`` each one; ``proxy`` and
    ``each_proxy`` are before them.

    :cvar steps: of each direction, where connections are cut
    """

    steps: ClassVar[int] = 24 if os.environ.get('FREEZER_TEST_THOROUGH') else 6

    def _traffic(
        self,
        server: Server,
        proxy: CuttingProxy,
        root: Path,
        work: Callable[[Storage], object],
    ) -> tuple[int, int]:
        """Bytes sent and received by undisturbed work."""
        sent, received = proxy.sent, proxy.received
        with self.opened(server, root, **self.through(proxy)) as target:
            work(target)
        return proxy.sent - sent, proxy.received - received

    def test_a_write_survives_a_cut_at_each_step(
        self,
        each_server: Server,
        each_proxy: CuttingProxy,
        root: Path,
        tmp_path: Path,
    ) -> None:
        proxy = each_proxy
        work = functools.partial(make, state=tmp_path / 'state')
        totals = self._traffic(each_server, proxy, tmp_path / 'first', work)
        conflicts = 0
        for direction, total in zip(('sent', 'received'), totals, strict=True):
            for step in range(self.steps):
                proxy.cut(**{direction: total * step // self.steps + 1})
                cuts = proxy.cuts
                with self.opened(each_server, root, **self.through(proxy)) as target:
                    try:
                        work(target)
                    except e.Conflict:
                        # The folder may be another agent's: nothing is listed then.
                        conflicts += 1
                        assert not any('metadata/' in name for name in files(root))
                    else:
                        assert restored(target) == CONTENT
                        assert not [n for n in files(root) if n.endswith('.partial')]
                    assert proxy.cuts == cuts + 1, (direction, step)
                shutil.rmtree(root, ignore_errors=True)
        assert conflicts <= 2

    def test_without_retries_the_same_cuts_fail(
        self, server: Server, proxy: CuttingProxy, root: Path, tmp_path: Path
    ) -> None:
        for sent in (1, 500, 2_000, 1_000_000, len(CONTENT) - 1000):
            proxy.cut(sent=sent)
            options = self.through(proxy, retry_budget=0.0)
            with self.opened(server, root, **options) as target:
                with pytest.raises(e.StorageException, match='gave up after 1 attempt'):
                    make(target, tmp_path / 'state')
            assert not any('metadata/' in name for name in files(root))

    def test_a_read_survives_a_cut_at_each_step(
        self,
        each_server: Server,
        each_proxy: CuttingProxy,
        root: Path,
        tmp_path: Path,
    ) -> None:
        proxy = each_proxy
        with self.opened(each_server, root, **self.through(proxy)) as target:
            make(target, tmp_path / 'state')
        _sent, total = self._traffic(each_server, proxy, root, restored)
        for step in range(self.steps):
            proxy.cut(received=total * step // self.steps + 1)
            cuts = proxy.cuts
            with self.opened(each_server, root, **self.through(proxy)) as target:
                assert restored(target) == CONTENT
            assert proxy.cuts == cuts + 1, step

    def test_a_silent_server_is_an_error(
        self, server: Server, proxy: CuttingProxy, root: Path
    ) -> None:
        options = self.through(proxy, timeout=1.0, retry_budget=2.0, connect_timeout=1)
        with self.opened(server, root, **options) as target:
            target.prepare()
            proxy.silence()
            with pytest.raises(e.Unreachable, match=r'no answer|ended|lost'):
                target.read_file(f'{root}/file')
            proxy.speak()
            with pytest.raises(e.NotFound):
                target.read_file(f'{root}/file')

    def test_a_cancelled_write_ends_soon_where_the_server_is_silent(
        self, each_server: Server, each_proxy: CuttingProxy, root: Path
    ) -> None:
        options = self.through(each_proxy, timeout=200.0)
        with self.opened(each_server, root, **options) as target:
            target.prepare()
            pending = target.begin(backup())

            def blocks() -> Iterator[bytes]:
                yield CONTENT
                each_proxy.silence()
                threading.Timer(0.5, pending.cancel).start()
                while True:
                    yield CONTENT

            with pytest.raises(e.Cancelled):
                pending.write(blocks())
            each_proxy.speak()
            pending.discard()
        assert files(root) == []

    def test_a_server_that_is_killed_and_restarted(
        self, own_server: Server, root: Path, tmp_path: Path
    ) -> None:
        with self.opened(own_server, root) as target:
            target.prepare()
            state = tmp_path / 'state'
            state.write_bytes(b'state')
            pending = target.begin(backup())

            def blocks() -> Iterator[bytes]:
                yield CONTENT
                own_server.restart()
                yield CONTENT

            pending.write(blocks()).commit(state, MARKER)
            assert restored(target) == CONTENT * 2
            own_server.kill()
            threading.Timer(1.0, own_server.start).start()
            assert restored(target) == CONTENT * 2

    def test_no_server(self, server: Server, root: Path) -> None:
        options = self.options(port=1, retry_budget=1.0)
        with self.opened(server, root, **options) as target:
            with pytest.raises(e.Unreachable, match=':1: Connection refused'):
                target.prepare()


class ServerFaults(Driver):
    """Servers that cannot do all, or may not."""

    @staticmethod
    @abc.abstractmethod
    def read_only() -> Server: ...

    def test_one_that_only_reads(
        self, server: Server, root: Path, tmp_path: Path
    ) -> None:
        with self.opened(server, root) as target:
            make(target, tmp_path / 'state')
        with self.read_only() as own, self.opened(own, root) as target:
            assert restored(target) == CONTENT
            with pytest.raises(e.AccessDenied, match=r'permission denied|may not do'):
                target.begin(backup(level=1))
            with pytest.raises(e.StorageException, match='could not be deleted'):
                target.delete_files([LevelPaths(str(root), backup()).marker])
        assert any('metadata/' in name for name in files(root))

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason='only root may mount')
    def test_one_whose_disk_is_full(
        self, each_server: Server, root: Path, tmp_path: Path
    ) -> None:
        root.mkdir()
        mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(root)]
        subprocess.run(mount, check=True)
        try:
            # pyftpdlib falls silent with TLS.
            options = self.options(timeout=2.0, retry_budget=120.0)
            with self.opened(each_server, root, **options) as target:
                with pytest.raises(
                    e.StorageException, match=r'no space is left|check the disk'
                ):
                    store(target, tmp_path / 'state')
            assert files(root) == []
        finally:
            # A session of vsftpd that has just ended may still be in it.
            subprocess.run(['umount', '--lazy', root], check=True)

    def test_links_are_not_followed(
        self, links_server: Server, root: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / 'outside'
        (outside / 'folder').mkdir(parents=True)
        (outside / 'folder' / 'file').touch()
        (root / 'tree' / 'inner').mkdir(parents=True)
        (root / 'tree' / 'inner' / 'file').touch()
        (root / 'tree' / 'link').symlink_to(outside)
        (root / 'linked').symlink_to(outside)
        with self.opened(links_server, root) as target:
            assert set(dict(target.list_tree(f'{root}/tree'))) == {'inner/file', 'link'}
            target.remove_tree(f'{root}/tree')
            target.remove_tree(f'{root}/linked')
        assert files(outside) == ['folder/file']
        assert list(root.iterdir()) == []

    def check_relative_containers(
        self, server: Server, home: Path, name: str, state: Path
    ) -> None:
        """:param name: of a directory to make in the home of the user"""
        for container in (f'{name}/a', f'~/{name}/a', f'./{name}//a/'):
            with self.opened(server, container) as target:
                target.prepare()
                if container == f'{name}/a':
                    store(target, state)
                assert restored(target) == CONTENT
        assert any('metadata/' in each for each in files(home / name / 'a'))
