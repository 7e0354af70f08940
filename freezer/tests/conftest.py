"""What every test finds: S3 servers on demand, and nothing of the caller's environment.

``moto``, ``seaweedfs``, ``ceph``, ``rclone`` and ``swift`` start their server when the
first test asks for it. ``s3_server`` is each of them in turn; a test that needs fewer
says so::

    @on_servers(lambda kind: kind.properties.checks_keys)
"""

import gc
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from freezer.tests import agent, fewer, packages, servers
from freezer.tests.once import made_once
from freezer.tests.servers import cloud as cloud_server
from freezer.tests.servers.cloud import Cloud
from freezer.tests.servers.ftpd import Pyftpd, Vsftpd
from freezer.tests.servers.sshd import Sshd
from freezer.tests.servers.swift_keystone import SwiftKeystone

SERVERS = tuple(servers.KINDS)
# One start of each, in one of xdist's workers: Ceph takes a gigabyte of memory, and
# both some seconds of all processors.
HEAVY = ('ceph', 'swift', 'cloud')

# Read by the agent, by botocore, by asyncssh or by GNU tar.
_CLEARED = {'ACCESS_KEY', 'SECRET_KEY', 'ENDPOINT', 'TAR_OPTIONS'}
_CLEARED |= {'SSH_AUTH_SOCK', 'SSH_PASSWORD', 'SSH_KEY_PASSPHRASE'}
_CLEARED |= {'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'}
_CLEARED_PREFIXES = ('AWS_', 'OS_')


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    'freezer',
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile('freezer')


def pytest_configure(config: pytest.Config) -> None:
    for kind in servers.KINDS.values():
        marker = f'{kind.name}: uses the S3 server {kind.title} ({kind.source})'
        config.addinivalue_line('markers', marker)
    for variable in list(os.environ):
        name = variable.upper()
        if name in _CLEARED or name.startswith(_CLEARED_PREFIXES):
            del os.environ[variable]
    # Else each agent that is started would compile its modules anew.
    os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
    # The agent writes to ~/.freezer. What does so while tests are collected fails, even
    # for root, who could make any directory.
    os.environ['HOME'] = os.devnull


@pytest.fixture(scope='session', autouse=True)
def _home_of_fixtures(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """Give the fixtures of larger scope a home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('HOME', str(tmp_path_factory.mktemp('home')))
        yield


@pytest.fixture(autouse=True)
def _home(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Give each test a home and temporary files of its own."""
    monkeypatch.setenv('HOME', str(tmp_path_factory.mktemp('home')))
    # An agent that is killed leaves its temporary directory.
    monkeypatch.setenv('TMPDIR', str(tmp_path_factory.mktemp('tmp')))


_TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Now and then, let what tests have left be collected. A storage that is opened
    spares Python the look at all there is (``freezer/utils/startup.py``), and here
    that would be what each test before has left."""
    yield
    if next(_TESTS) % 25 == 0:
        gc.unfreeze()
        gc.collect()


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each agent from nothing, as its users do: for tests of what is decided
    then, or seen of it from outside."""
    monkeypatch.setattr(agent, 'COLD', True)


@pytest.fixture
def kept_logging() -> Iterator[None]:
    """For tests that read a configuration: oslo.log replaces the root logger's
    handlers, pytest's among them."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _fixture(kind: type[servers.Server]) -> Any:
    @pytest.fixture(scope='session', name=kind.name)
    def server() -> Iterator[servers.Server]:
        if not kind.available():
            pytest.skip(f'no {kind.title} ({kind.source})')
        with kind() as server:
            yield server

    return server


moto, seaweedfs, ceph, rclone, swift = map(_fixture, servers.KINDS.values())


@pytest.fixture(scope='session')
def sshd() -> Iterator[Sshd]:
    """An SSH server without a shell."""
    if not Sshd.available():
        pytest.skip(f'no {Sshd.title} ({Sshd.source})')
    with Sshd() as server:
        yield server


def _ftp_fixture(kind: type[Pyftpd | Vsftpd], name: str, tls: bool) -> Any:
    @pytest.fixture(scope='session', name=name)
    def server() -> Iterator[Pyftpd | Vsftpd]:
        if not kind.available():
            pytest.skip(f'no {kind.title} ({kind.source})')
        with kind(tls=tls) as server:
            yield server

    return server


pyftpd = _ftp_fixture(Pyftpd, 'pyftpd', False)
pyftpd_tls = _ftp_fixture(Pyftpd, 'pyftpd_tls', True)
vsftpd_tls = _ftp_fixture(Vsftpd, 'vsftpd_tls', True)


@pytest.fixture(scope='session')
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Keystone, and the services that tests add. These tests share a worker."""

    def make(folder: Path) -> None:
        try:
            cloud_server.build(folder)
        except packages.Unavailable as error:
            pytest.skip(f'no OpenStack: {error}')

    folder = made_once(tmp_path_factory, 'cloud', make)
    with Cloud(folder) as server:
        yield server


@pytest.fixture(scope='session')
def swift_keystone(cloud: Cloud) -> Iterator[SwiftKeystone]:
    """Swift with the Keystone of the cloud."""
    if not SwiftKeystone.available():
        pytest.skip('no Swift with python3-keystonemiddleware')
    with SwiftKeystone(cloud) as server:
        yield server


@pytest.fixture(scope='session', params=SERVERS)
def s3_server(request: pytest.FixtureRequest) -> servers.Server:
    server: servers.Server = request.getfixturevalue(request.param)
    return server


def on_servers(
    wanted: Callable[[type[servers.Server]], object] = bool,
) -> pytest.MarkDecorator:
    """Run tests on every server, or on those that are so."""
    names = [name for name, kind in servers.KINDS.items() if wanted(kind)]
    return pytest.mark.parametrize('s3_server', names, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Mark tests with the servers they use. Those on a heavy one share a worker, and so
    do those of a module that makes something for all its tests.

    A wrapper, to be before and after the hook by which xdist reads the groups.
    """
    for item in items:
        used = _used(item)
        for server in SERVERS:
            if server in used:
                item.add_marker(server)
        shared = next((server for server in HEAVY if server in used), '')
        if not shared and _shares(item):
            shared = item.path.stem
        if shared and item.get_closest_marker('xdist_group') is None:
            item.add_marker(pytest.mark.xdist_group(shared))
    yield
    # After -k and the like, so that they can choose any variant.
    if not os.environ.get('FREEZER_TEST_THOROUGH'):
        _leave_out_variants(config, items)
    if getattr(config.option, 'loadgroup', False):
        for item in items:
            group = item.get_closest_marker('xdist_group')
            if group is not None:
                _group(item, f'@{group.args[0]}')


def _leave_out_variants(config: pytest.Config, items: list[pytest.Item]) -> None:
    variants: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = item.nodeid.partition('[')[0].removeprefix('freezer/tests/')
        if name in fewer.VARIANTS:
            variants.setdefault(name, []).append(item)
    left_out: set[pytest.Item] = set()
    for name, found in variants.items():
        left_out |= {*found} - {*fewer.some(found, fewer.VARIANTS[name])}
    if left_out:
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]


def _used(item: Any) -> set[str]:
    """The names of fixtures that a test uses, those that a parameter names as well."""
    used = set(getattr(item, 'fixturenames', ()))
    callspec = getattr(item, 'callspec', None)
    parameters = callspec.params.values() if callspec is not None else ()
    used |= {each for each in parameters if isinstance(each, str)}
    # Its server uses that one.
    return used | ({'cloud'} if 'swift_keystone' in used else set())


def _shares(item: Any) -> bool:
    """Whether a fixture of the test's module is made once for the module."""
    found = item._fixtureinfo.name2fixturedefs
    return any(each.scope == 'module' for one in found.values() for each in one)


def _group(item: Any, suffix: str) -> None:
    # xdist names the group in the test's id, and pytest 9.2 keeps that elsewhere than
    # xdist 3.8 writes it: pytest-dev/pytest-xdist#1386.
    if not item.nodeid.endswith(suffix) and hasattr(item, '_id'):
        item._id = type(item._id).parse(item.nodeid + suffix)


# A test that did not run has not passed. Where all that tests need is at hand (CI), a
# skip is a failure. In these hooks, as they run in xdist's workers.


def _skips_fail() -> bool:
    return os.environ.get('FREEZER_TEST_DISALLOW_SKIP', '') not in ('', '0')


def _fail_if_skipped(report: Any) -> None:
    if not (_skips_fail() and report.skipped):
        return
    if hasattr(report, 'wasxfail'):
        reason = f'xfail: {report.wasxfail}'
        del report.wasxfail
    else:
        # (path, line, reason)
        what = report.longrepr
        reason = what[2] if isinstance(what, tuple) else str(what)
    report.outcome = 'failed'
    report.longrepr = (
        f'FREEZER_TEST_DISALLOW_SKIP is set, and this did not run: {reason}'
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Any:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Any:
    report = yield
    _fail_if_skipped(report)
    return report
