"""Faults of storages ftp and ftps: connections that break, servers that refuse, full
disks."""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage.base import StorageSettings
from freezer.storage.ftp import transfer
from freezer.storage.ftp.client import Client
from freezer.storage.ftp.connection import Connections
from freezer.storage.ftp.options import OPTIONS
from freezer.storage.ftp.storage import FtpsStorage, FtpStorage
from freezer.tests.cutting import CuttingProxy
from freezer.tests.faults.file_servers import (
    CONTENT,
    PART,
    ConnectionFaults,
    Driver,
    ServerFaults,
    files,
    make,
    restored,
)
from freezer.tests.servers.ftpd import PASSWORD, Pyftpd, Vsftpd

Ftpd = Pyftpd | Vsftpd
# A data connection leads to the address of its client: the proxy has the other one.
BEHIND = '127.0.0.2'


def _behind(kind: type[Ftpd], tls: bool) -> Any:
    @pytest.fixture(scope='module')
    def server() -> Iterator[Ftpd]:
        if not kind.available():
            pytest.skip(f'no {kind.title} ({kind.source})')
        with kind(tls=tls, address=BEHIND) as server:
            yield server

    return server


pyftpd_behind = _behind(Pyftpd, False)
pyftpd_tls_behind = _behind(Pyftpd, True)
vsftpd_tls_behind = _behind(Vsftpd, True)


@pytest.fixture(params=['pyftpd', 'pyftpd_tls', 'vsftpd_tls'])
def each_server(request: pytest.FixtureRequest) -> Ftpd:
    """Servers for a proxy."""
    server: Ftpd = request.getfixturevalue(f'{request.param}_behind')
    return server


@pytest.fixture
def server(pyftpd_behind: Pyftpd) -> Pyftpd:
    """One of them, for what is the same on all."""
    return pyftpd_behind


@pytest.fixture
def links_server(vsftpd_tls: Ftpd) -> Ftpd:
    """One that says what a link is."""
    return vsftpd_tls


@pytest.fixture(params=[Pyftpd, Vsftpd])
def own_server(request: pytest.FixtureRequest) -> Iterator[Ftpd]:
    kind: type[Ftpd] = request.param
    if not kind.available():
        pytest.skip(f'no {kind.title}')
    with kind(tls=True) as server:
        yield server


def proxy_for(server: Ftpd) -> CuttingProxy:
    return CuttingProxy(server.port, server.data_ports, BEHIND)


@pytest.fixture
def each_proxy(each_server: Ftpd) -> Iterator[CuttingProxy]:
    with proxy_for(each_server) as each_proxy:
        yield each_proxy


@pytest.fixture
def proxy(server: Ftpd) -> Iterator[CuttingProxy]:
    with proxy_for(server) as proxy:
        yield proxy


def storage(server: Ftpd, root: Path | str, **changes: Any) -> FtpStorage:
    given = OPTIONS.defaults() | server.options(ftp_retry_budget=30.0) | changes
    kind = FtpsStorage if server.tls else FtpStorage
    return kind.from_settings(StorageSettings(str(root), PART, options=given))


@contextlib.contextmanager
def opened(server: Ftpd, root: Path | str, **changes: Any) -> Iterator[FtpStorage]:
    with contextlib.closing(storage(server, root, **changes)) as found:
        yield found


class FtpDriver(Driver):
    prefix = 'ftp'
    opened = staticmethod(opened)


class TestConnections(FtpDriver, ConnectionFaults):
    @pytest.mark.parametrize('early', [True, False])
    def test_bytes_that_a_restarted_server_lost_are_noticed(
        self, each_server: Ftpd, each_proxy: CuttingProxy, root: Path, early: bool
    ) -> None:
        """Long before the break, and just before it."""

        def lose() -> None:
            (partial,) = root.glob('file.*.partial')
            with partial.open('r+b') as file:
                file.seek(1000 if early else max(partial.stat().st_size - 200_000, 0))
                file.write(bytes(1000))

        each_proxy.after_cut = lose
        with opened(each_server, root, **self.through(each_proxy)) as target:
            target.prepare()
            each_proxy.cut(sent=2 * transfer._REPLAY_BYTES)
            blocks = (memoryview(CONTENT[:100_000]) for _ in range(500))
            with pytest.raises(e.IntegrityError, match='other ones than were sent'):
                target.write_stream(f'{root}/file', blocks)
        assert files(root) == []

    def test_a_file_that_became_shorter_is_noticed(
        self, server: Ftpd, proxy: CuttingProxy, root: Path
    ) -> None:
        def lose() -> None:
            (partial,) = root.glob('file.*.partial')
            os.truncate(partial, 1000)

        proxy.after_cut = lose
        with opened(server, root, **self.through(proxy)) as target:
            target.prepare()
            proxy.cut(sent=2 * transfer._REPLAY_BYTES)
            blocks = (memoryview(CONTENT[:100_000]) for _ in range(500))
            with pytest.raises(e.IntegrityError, match=r'other ones|the server has'):
                target.write_stream(f'{root}/file', blocks)
        assert files(root) == []

    def test_a_file_without_a_confirmation_is_no_file(
        self,
        server: Ftpd,
        proxy: CuttingProxy,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """All bytes arrived, but 226 did not."""
        monkeypatch.setattr(transfer, '_UNSURE_SECONDS', 2.0)
        options = {'ftp_timeout': 1.0, 'ftp_retry_budget': 0.0}

        def blocks() -> Iterator[memoryview]:
            yield memoryview(CONTENT)
            time.sleep(0.5)
            proxy.silence()

        with opened(server, root, **self.through(proxy, **options)) as target:
            target.prepare()
            with pytest.raises(e.Unreachable):
                target.write_stream(f'{root}/file', blocks())
            assert not (root / 'file').exists()
            proxy.speak()

    def test_a_confirmation_that_comes_late(
        self, each_server: Ftpd, each_proxy: CuttingProxy, root: Path
    ) -> None:
        """The connection breaks before it: the bytes are compared, and confirmed."""

        def blocks() -> Iterator[memoryview]:
            yield memoryview(CONTENT)
            time.sleep(0.5)
            each_proxy.cut(received=1)

        with opened(each_server, root, **self.through(each_proxy)) as target:
            target.prepare()
            target.write_stream(f'{root}/file', blocks())
            assert each_proxy.cuts == 1
        assert (root / 'file').read_bytes() == CONTENT

    def test_a_source_that_is_slower_than_the_server_waits(self, root: Path) -> None:
        with Pyftpd(data_timeout=1) as own, opened(own, root) as target:
            target.prepare()

            def blocks() -> Iterator[memoryview]:
                for start in range(0, len(CONTENT), 2**20):
                    yield memoryview(CONTENT)[start : start + 2**20]
                    time.sleep(2.5 if start == 2**20 else 0)

            target.write_stream(f'{root}/file', blocks())
            assert 'REST' in own.log()
        assert (root / 'file').read_bytes() == CONTENT


class TestLogins:
    def test_a_wrong_password(
        self, root: Path, server: Ftpd, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with opened(server, root, ftp_password='wrong-secret') as target:
            with pytest.raises(e.BadCredentials, match='530') as found:
                target.prepare()
        with opened(server, root) as target:
            target.prepare()
        for text in (found.value.message, caplog.text, repr(target)):
            assert 'secret' not in text

    @pytest.mark.parametrize('kind', [Pyftpd, Vsftpd])
    def test_a_certificate_that_nobody_vouches_for(
        self, root: Path, kind: type[Ftpd]
    ) -> None:
        if not kind.available():
            pytest.skip(f'no {kind.title}')
        with kind(tls=True) as own:
            with opened(own, root, ftp_ca_bundle=None) as target:
                with pytest.raises(e.CertificateError, match='ftp-ca-bundle'):
                    target.prepare()
            # Another name than the server has.
            own.make_certificate('elsewhere.example.com')
            own.restart()
            with opened(own, root) as target:
                with pytest.raises(e.CertificateError, match='not valid for'):
                    target.prepare()
            assert 'USER' not in own.log()
            given = OPTIONS.defaults() | own.options(ftp_ca_bundle=None)
            insecure = StorageSettings(str(root), PART, insecure=True, options=given)
            with contextlib.closing(FtpsStorage.from_settings(insecure)) as target:
                target.prepare()
            assert 'USER' in own.log()

    def test_a_server_without_tls_never_gets_the_password(
        self, root: Path, server: Ftpd
    ) -> None:
        given = OPTIONS.defaults() | server.options()
        settings = StorageSettings(str(root), PART, options=given)
        before = server.log().count('USER')
        with contextlib.closing(FtpsStorage.from_settings(settings)) as target:
            with pytest.raises(e.Rejected, match='offers no TLS'):
                target.prepare()
        assert server.log().count('USER') == before

    def test_a_server_that_demands_tls(self, root: Path, pyftpd_tls: Ftpd) -> None:
        given = OPTIONS.defaults() | pyftpd_tls.options(ftp_ca_bundle=None)
        settings = StorageSettings(str(root), PART, options=given)
        with contextlib.closing(FtpStorage.from_settings(settings)) as target:
            with pytest.raises(e.Rejected, match='set storage ftps'):
                target.prepare()

    @pytest.mark.parametrize(
        ('replies', 'message'),
        [
            ({'AUTH': '234 Go on.\r\n230 Logged in.'}, 'bytes before TLS began'),
            ({'AUTH': '431 Not now.'}, '431 Not now'),
            ({'AUTH': '334 Continue.'}, '334 Continue'),
            ({'PROT': '536 No.'}, '536 No'),
            ({'PROT': '350 Perhaps.'}, '350 Perhaps'),
        ],
    )
    def test_tls_is_confirmed_for_commands_and_data(
        self, root: Path, replies: dict[str, str], message: str
    ) -> None:
        root.mkdir()
        with Pyftpd(tls=True, replies=replies) as own:
            with opened(own, root, ftp_retry_budget=0.0) as target:
                with pytest.raises(e.StorageException, match=message):
                    list(target.list_tree(str(root)))
            assert ('USER' in own.log()) == ('PROT' in replies)
            assert not any(name in own.log() for name in ('PASV', 'EPSV', 'CWD'))

    @pytest.mark.parametrize('number', ['500', '530', '430', '332', '999'])
    def test_a_server_that_repeats_the_password(self, root: Path, number: str) -> None:
        replies = {'PASS': f'{number} PASS {PASSWORD}: command not understood'}
        with Pyftpd(replies=replies) as own:
            with opened(own, root, ftp_retry_budget=0.0) as target:
                with pytest.raises(e.StorageException) as found:
                    target.prepare()
        error: BaseException | None = found.value
        assert f'{number} PASS …' in found.value.message or number == '332'
        while error is not None:
            assert PASSWORD not in str(error)
            error = error.__cause__

    def test_data_connections_resume_the_session(
        self, root: Path, vsftpd_tls: Ftpd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(vsftpd_tls, root) as target:
            target.prepare()
            target.write_file(f'{root}/file', CONTENT)
            monkeypatch.setattr('freezer.storage.ftp.client.Client.tls_session', None)
            with pytest.raises(e.Rejected, match=r'522|session'):
                target.write_file(f'{root}/other', CONTENT)

    def test_ipv6(self, root: Path, tmp_path: Path) -> None:
        for kind, tls in ((Pyftpd, False), (Pyftpd, True)):
            with kind(tls=tls, address='::1') as own, opened(own, root) as target:
                make(target, tmp_path / 'state')
                assert restored(target) == CONTENT
                assert 'EPSV' in own.log()
                shutil.rmtree(root)


class TestServers(FtpDriver, ServerFaults):
    @staticmethod
    def read_only() -> Pyftpd:
        return Pyftpd(permissions='elr')

    def test_one_without_mlsd_and_pasv(self, root: Path, tmp_path: Path) -> None:
        without = ['MLSD', 'MLST', 'PASV', 'FEAT', 'SIZE']
        with Pyftpd(without=without) as own, opened(own, root) as target:
            make(target, tmp_path / 'state')
            assert restored(target) == CONTENT
            report = {row.name: row.finding for row in target.check().rows}
            assert report['listings'].message.startswith('LIST')
            assert not any(f.result == 'problem' for f in report.values())

    def test_one_that_appends_but_does_not_continue(self, root: Path) -> None:
        with Pyftpd(without=['REST'], data_timeout=1) as own, opened(own, root) as t:
            t.prepare()
            t.write_stream(f'{root}/file', slow_blocks())
            assert (root / 'file').read_bytes() == CONTENT
            report = {row.name: row.finding for row in t.check().rows}
            assert report['resume'].message.endswith('(APPE)')

    def test_one_that_cannot_continue_a_file(self, root: Path) -> None:
        without = ['REST', 'APPE']
        with Pyftpd(without=without, data_timeout=1) as own, opened(own, root) as t:
            t.prepare()
            with pytest.raises(e.Rejected, match='the server cannot continue a file'):
                t.write_stream(f'{root}/file', slow_blocks())
            assert files(root) == []
            report = {row.name: row.finding for row in t.check().rows}
            assert report['resume'].result == 'note'
            assert 'cannot continue' in report['resume'].message

    def test_one_that_does_not_rename(self, root: Path, tmp_path: Path) -> None:
        with Pyftpd(without=['RNFR', 'RNTO']) as own, opened(own, root) as target:
            with pytest.raises(e.Rejected, match='does not support'):
                make(target, tmp_path / 'state')
            assert files(root) == []
            with pytest.raises(e.Rejected, match='does not support'):
                target.check()
            assert files(root) == []

    def test_one_that_renames_to_new_names_only(self, root: Path) -> None:
        replies = {'RNTO': '553 File exists.'}
        root.mkdir()
        (root / 'file').touch()
        with Pyftpd(replies=replies) as own, opened(own, root) as target:
            with pytest.raises(e.Rejected, match='cannot replace a file'):
                target.write_file(f'{root}/file', b'new')
        assert files(root) == ['file']

    @pytest.mark.parametrize(
        'reply', ['552 Quota exceeded.', '452 Insufficient storage space.']
    )
    def test_one_that_has_no_space(
        self, root: Path, tmp_path: Path, reply: str
    ) -> None:
        with Pyftpd(replies={'STOR': reply}) as own, opened(own, root) as target:
            with pytest.raises(e.Rejected, match='no space is left'):
                make(target, tmp_path / 'state')

    @pytest.mark.parametrize('at_once', [2, 3])
    def test_one_that_accepts_few_connections(
        self, root: Path, tmp_path: Path, at_once: int
    ) -> None:
        for number in range(40):
            (root / 'tree' / str(number)).mkdir(parents=True)
            (root / 'tree' / str(number) / 'file').touch()
        # pyftpdlib refuses the connection that makes it so many.
        with Pyftpd(at_once=at_once) as own, opened(own, root) as target:
            assert len(list(target.list_tree(f'{root}/tree'))) == 40
            target.remove_tree(f'{root}/tree')
            make(target, tmp_path / 'state')
            assert restored(target) == CONTENT

    @pytest.mark.parametrize('reply', [e.Throttled, e.BadCredentials, e.Unreachable])
    def test_one_that_refuses_more_connections_in_its_own_way(
        self,
        server: Ftpd,
        root: Path,
        reply: type[e.StorageException],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """ProFTPD has 530 for it, as for a wrong password."""
        take = Connections.take

        def taken(self: Connections, *args: Any) -> Client:
            if threading.current_thread() is not threading.main_thread():
                raise reply('the maximum number of clients is connected')
            return take(self, *args)

        monkeypatch.setattr(Connections, 'take', taken)
        for number in range(20):
            (root / str(number)).mkdir(parents=True)
        with opened(server, root) as target:
            found = target.server.list_folders([f'{root}/{n}' for n in range(20)])
            assert found == [[]] * 20
            assert target.server.connections.limit == 1

    def test_one_that_ends_a_connection_in_a_batch(
        self, server: Ftpd, root: Path
    ) -> None:
        """The file whose deletion got 421 does not count as deleted."""

        def call(_client: Client, _path: str) -> None:
            if threading.current_thread() is not threading.main_thread():
                raise e.Throttled('421 Timeout.')
            time.sleep(0.02)

        with opened(server, root) as target:
            with pytest.raises(e.Throttled):
                target.server._each([str(number) for number in range(40)], call)

    def test_one_that_replies_twice(self, root: Path) -> None:
        """The second reply does not count as that of the next command."""
        root.mkdir()
        (root / 'file').touch()
        replies = {'SIZE': '213 0\r\n250 Extra.'}
        with Pyftpd(replies=replies, permissions='elr') as own:
            with opened(own, root) as target:
                assert target.server.size(f'{root}/file') == 0
                with pytest.raises(e.Unreachable, match='250 Extra'):
                    target.server.remove_files([f'{root}/file'])
                (error,) = target.server.remove_files([f'{root}/file'])
                assert isinstance(error, e.AccessDenied)

    @pytest.mark.parametrize(
        ('reply', 'kind'),
        [
            ({'SIZE': '213 many'}, e.Rejected),
            ({'SIZE': '213'}, e.Rejected),
            ({'SIZE': '250 5'}, e.Rejected),
            ({'PASV': '227 (127,0,0,1,999,999)'}, e.Unreachable),
            ({'PASV': '500 No.', 'EPSV': '229 (|||x|)'}, e.Unreachable),
        ],
    )
    def test_one_with_malformed_replies(
        self, root: Path, reply: dict[str, str], kind: type[e.StorageException]
    ) -> None:
        root.mkdir()
        (root / 'file').touch()
        with Pyftpd(replies=reply) as own, opened(own, root) as target:
            with pytest.raises(kind):
                target.server.read(f'{root}/file', None)

    @pytest.mark.parametrize('without', [[], ['MLSD', 'MLST']])
    def test_one_that_cuts_listings(self, root: Path, without: list[str]) -> None:
        """As Pure-FTPd does it, which reports success."""
        root.mkdir()
        (root / 'file').touch()
        reply = '226 Output truncated to 10000 matches'
        with Pyftpd(without=without, confirmation=reply) as own:
            with opened(own, root) as target:
                with pytest.raises(e.Rejected, match='only a part of it: 226 Output'):
                    list(target.list_tree(str(root)))

    @pytest.mark.parametrize('instead', ['NONE', 'LIST empty'])
    def test_one_whose_list_has_no_options(self, root: Path, instead: str) -> None:
        """It refuses, or lists a file of that name: nothing."""
        (root / 'x' / 'empty').mkdir(parents=True)
        (root / 'x' / 'file').touch()
        lines = {'LIST -a': instead, 'FEAT': 'NONE'}
        with Pyftpd(lines=lines) as own, opened(own, root) as target:
            (found,) = target.server.list_folders([f'{root}/x'])
            assert not isinstance(found, e.StorageException)
            assert {each.name for each in found} == {'empty', 'file'}

    def test_one_that_changes_names(self, root: Path) -> None:
        with Pyftpd(lower=True) as own, opened(own, root) as target:
            report = {row.name: row.finding for row in target.check().rows}
        assert report['names'].result == 'problem'
        assert report['names'].message.endswith('became a b')

    def test_one_that_accepts_none(self, root: Path) -> None:
        options = {'ftp_retry_budget': 1.0}
        with Pyftpd() as own:
            (root / 'x').mkdir(parents=True)
            with opened(own, root) as first:
                assert list(first.list_tree(f'{root}/x')) == []
            with Pyftpd(replies={'USER': '421 Too many users.'}) as own:
                with opened(own, root, **options) as target:
                    with pytest.raises(e.Throttled, match='421'):
                        target.prepare()

    def test_names_that_a_listing_could_misread(
        self, each_server: Ftpd, root: Path
    ) -> None:
        names = [' a', 'b  c', '-la', '*', '{x}', 'a -> b', 'ü', '.hidden', '[1]', '%']
        with opened(each_server, root) as target:
            target.prepare()
            for name in names:
                target.write_file(f'{root}/{name}/{name}', b'content')
            found = dict(target.list_tree(str(root)))
            assert sorted(found) == sorted(f'{name}/{name}' for name in names)
            assert set(found.values()) == {7}
            for name in names:
                assert target.read_file(f'{root}/{name}/{name}') == b'content'
                target.delete_files([f'{root}/{name}/{name}'])
            assert files(root) == []

    def test_line_breaks_are_refused(self, server: Ftpd, root: Path) -> None:
        with pytest.raises(e.StorageConfigError, match='line breaks'):
            storage(server, f'{root}/a\r\nDELE b')
        with opened(server, root) as target:
            target.prepare()
            with pytest.raises(e.Rejected, match='line breaks'):
                target.write_file(f'{root}/a\nDELE b', b'')

    def test_a_relative_container(self, tmp_path: Path) -> None:
        home = tmp_path / 'home'
        home.mkdir()
        with Pyftpd(home=str(home)) as own:
            self.check_relative_containers(own, home, 'c', tmp_path / 'state')


def slow_blocks() -> Iterator[memoryview]:
    for start in range(0, len(CONTENT), 2**20):
        yield memoryview(CONTENT)[start : start + 2**20]
        time.sleep(2.5 if start == 2**20 else 0)


def test_a_listing_is_complete_or_an_error(root: Path) -> None:
    """A line of an unknown form is never skipped."""
    root.mkdir()
    (root / 'a\rb').touch()
    with Pyftpd(without=['MLSD', 'MLST']) as own, opened(own, root) as target:
        assert list(target.list_tree(str(root))) == [('a\rb', 0)]
        (root / 'a\nb').touch()
        with pytest.raises(e.MalformedAnswer, match='unknown form'):
            list(target.list_tree(str(root)))


def test_no_more_than_what_may_be_resent_is_in_memory(
    server: Ftpd, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    keep = transfer.Upload._keep

    def watched(self: Any, block: memoryview) -> None:
        nonlocal most
        keep(self, block)
        most = max(most, sum(len(block) for _start, block in self._sent))

    monkeypatch.setattr(transfer.Upload, '_keep', watched)
    step = FtpStorage.request_bytes
    with opened(server, root) as target:
        target.prepare()
        path = f'{root}/file'
        target.write_stream(path, (memoryview(bytes(step)) for _ in range(200)))
        limit = transfer._REPLAY_BYTES
        assert limit - step <= most <= limit + 2 * step


def test_ranges_in_any_order(each_server: Ftpd, root: Path) -> None:
    root.mkdir()
    content = os.urandom(8 * 2**20)
    (root / 'file').write_bytes(content)
    (root / 'empty').touch()
    ends = [(0, 10), (10, 100_000), (300_000, 300_001), (5 * 2**20, 5 * 2**20 + 9)]
    ends += [(4, 5), (len(content) - 3, len(content) + 3), (7, 9)]
    with opened(each_server, root) as target:
        found = list(target.read_ranges(f'{root}/file', ends))
        assert found == [content[start:end] for start, end in ends]
        assert list(target.read_ranges(f'{root}/empty', [(0, 5)])) == [b'']
        with pytest.raises(e.NotFound):
            list(target.read_ranges(f'{root}/none', [(0, 5)]))
    assert PASSWORD not in str(found[2])
