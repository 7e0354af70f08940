"""A server, a way to it, a place on it, and what fills that."""

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.backup import Backup, PendingBackup, WrittenBackup
from freezer.storage.repository import Repository
from freezer.tests import servers
from freezer.tests.conformance.backups import (
    MARKER,
    STATE,
    Commit,
    Store,
    chunks,
    write,
)
from freezer.tests.conformance.places import (
    FtpPlace,
    LocalPlace,
    MultiplePlace,
    Place,
    S3Place,
    SshPlace,
    SwiftPlace,
    new_s3_place,
    new_swift_place,
)
from freezer.tests.conformance.variants import VARIANTS, Variant, Way
from freezer.tests.conftest import SERVERS
from freezer.tests.plugins.place import SqlitePlace


@pytest.fixture(scope='session', autouse=True)
def _versions(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Into the report, for ``tools/matrix.sh``."""
    for package in ('botocore', 'urllib3'):
        record_testsuite_property(package, importlib.metadata.version(package))


# What is not about S3 takes minutes on each of these, and is the same on the others; so
# do thousands of objects on moto, which proves little. tools/matrix.sh runs them as
# well.
_ALIKE = (
    *('s3-rclone', 's3-swift', 's3-moto', 'swift-keystone'),
    # test_verify.py has vsftpd, and faults/test_ftp.py both.
    *('ftps-pyftpdlib', 'ftps-vsftpd'),
)
LEFT_OUT = {
    'TestEveryStorage': _ALIKE,
    'TestRates': (*_ALIKE, 's3-ceph'),
    'TestPages': ('moto',),
    'TestVariantsOfPages': ('moto-', 'rclone-', 'swift-'),
}


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if os.environ.get('FREEZER_TEST_THOROUGH'):
        return
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    where, _, parameters = item.nodeid.partition('[')
    return '/test_storage' in where and any(
        f'::{suite}::' in where and server in parameters
        for suite, names in LEFT_OUT.items()
        for server in names
    )


@pytest.fixture(scope='session', params=SERVERS)
def s3_server(request: pytest.FixtureRequest) -> servers.Server | None:
    """Each server in turn, or None for a storage that has none."""
    if request.param is None:
        return None
    server: servers.Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Variant:
    """The one that a test names, or that the whole suite is run in."""
    chosen = os.environ.get('FREEZER_TEST_VARIANT', 'plain')
    return VARIANTS[getattr(request, 'param', chosen)]


@pytest.fixture
def way(
    s3_server: servers.Server | None, variant: Variant, tmp_path: Path
) -> Iterator[Way | None]:
    """How the driver comes to the server."""
    if s3_server is None:
        yield None
        return
    with variant(s3_server, tmp_path) as way:
        yield way


@pytest.fixture
def s3(s3_server: servers.Server, way: Way) -> Iterator[S3Place]:
    """A bucket that is not there yet."""
    place = new_s3_place(s3_server, way)
    yield place
    place.remove()


@pytest.fixture
def bucket(s3: S3Place) -> Iterator[Bucket]:
    """A bucket as the driver has it."""
    storage = s3.storage()
    storage.prepare()
    yield storage._bucket
    storage.close()


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    driver: str,
    s3_server: servers.Server | None,
    way: Way | None,
    tmp_path: Path,
) -> Iterator[Place]:
    local = LocalPlace(tmp_path / 'some where' / 'ü')
    other: Place = LocalPlace(tmp_path / 'elsewhere')
    if s3_server is not None and way is not None:
        other = new_s3_place(s3_server, way)
    ssh: Place = local
    if driver == 'ssh':
        ssh = SshPlace(request.getfixturevalue('sshd'), tmp_path / 'some where' / 'ü')
    ftp: Place = local
    if driver in ('pyftpd', 'pyftpd_tls', 'vsftpd_tls'):
        ftp = FtpPlace(request.getfixturevalue(driver), tmp_path / 'some where' / 'ü')
    swift: Place = local
    if driver in ('swift', 'swift_keystone'):
        swift = new_swift_place(request.getfixturevalue(driver))
    yield {
        'local': local,
        'ssh': ssh,
        **dict.fromkeys(('pyftpd', 'pyftpd_tls', 'vsftpd_tls'), ftp),
        **dict.fromkeys(('swift', 'swift_keystone'), swift),
        's3': other,
        'sqlite': SqlitePlace(tmp_path / 'some where' / 'ü.sqlite'),
        'multiple': MultiplePlace({'here': local, 'there': other}),
    }[driver]
    for each in (other, swift):
        if isinstance(each, S3Place | SwiftPlace):
            each.remove()


@pytest.fixture
def repository(place: Place) -> Iterator[Repository]:
    repository = place.repository()
    repository.prepare()
    yield repository
    repository.close()


@pytest.fixture
def commit(tmp_path: Path) -> Commit:
    """Commit as an engine does, whose metadata and index are in files."""
    state = tmp_path / 'state'
    state.write_bytes(STATE)

    def commit(written: WrittenBackup, index: bytes | None = None) -> None:
        if index is None:
            written.commit(state, MARKER)
            return
        path = tmp_path / 'index'
        path.write_bytes(index)
        written.commit(state, MARKER, path)

    return commit


@pytest.fixture
def store(repository: Repository, commit: Commit) -> Store:
    """Make a whole backup."""

    def store(
        backup: Backup, content: bytes = b'content', index: bytes | None = None
    ) -> PendingBackup:
        pending = repository.begin(backup)
        commit(write(pending, chunks(content)), index)
        return pending

    return store
