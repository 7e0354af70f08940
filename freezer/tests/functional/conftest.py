"""Stores and sources that several modules use."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from freezer.tests import servers
from freezer.tests.agent import PART, ROOT, Agent, LocalStore, S3Store, Store, Trap
from freezer.tests.conformance.variants import certified
from freezer.tests.front import Front
from freezer.tests.once import made_once
from freezer.tests.proxy import Proxy
from freezer.tests.servers.backends import Backends
from freezer.tests.servers.cinder import Cinder
from freezer.tests.servers.cloud import LIBRARIES, Cloud
from freezer.tests.servers.control_plane import ControlPlane
from freezer.tests.servers.glance import Glance
from freezer.tests.servers.nova import Neutron, Nova, Placement


@pytest.fixture
def store(seaweedfs: servers.SeaweedFS) -> S3Store:
    return S3Store(seaweedfs)


@pytest.fixture
def mortal() -> Iterator[servers.SeaweedFS]:
    """A server that no other test needs."""
    with servers.SeaweedFS() as server:
        yield server


@pytest.fixture
def agent(store: S3Store) -> Agent:
    return Agent(store)


@pytest.fixture
def proxy(seaweedfs: servers.SeaweedFS) -> Iterator[Proxy]:
    with Proxy(seaweedfs.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxied(seaweedfs: servers.SeaweedFS, proxy: Proxy) -> S3Store:
    """A store that the agent reaches through the proxy."""
    return S3Store(seaweedfs, proxy.endpoint)


@pytest.fixture
def local(tmp_path: Path) -> Agent:
    return Agent(LocalStore(tmp_path / 'local store'))


@pytest.fixture(params=['local', 'seaweedfs', 'ceph'])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == 'local':
        return LocalStore(tmp_path / 'store')
    server: servers.Server = request.getfixturevalue(request.param)
    return S3Store(server)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    path.mkdir()
    (path / 'file').write_text('content')
    return path


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Five parts of random bytes."""
    path = tmp_path / 'big'
    path.mkdir()
    (path / 'file').write_bytes(os.urandom(4 * PART + 1000))
    return path


@pytest.fixture
def front(moto: servers.Moto) -> Iterator[Front]:
    with Proxy(moto.endpoint) as proxy:
        front = Front(moto, proxy)
        yield front
        front.close()


@pytest.fixture(scope='session')
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / 'ca.pem'
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def secure(moto: servers.Moto, authority: trustme.CA) -> Iterator[Front]:
    """By https, with a certificate of an authority nobody knows."""
    with Proxy(moto.endpoint, certified(authority, '127.0.0.1')) as proxy:
        front = Front(moto, proxy)
        yield front
        front.close()


@pytest.fixture(scope='session')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH, with the package of driver.rst."""

    def make(folder: Path) -> None:
        package = ROOT / 'freezer' / 'tests' / 'plugins'
        copy = shutil.copytree(package, folder / 'package')
        pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps']
        subprocess.run([*pip, '--target', folder / 'lib', copy], check=True)

    return made_once(tmp_path_factory, 'plugins', make) / 'lib'


@pytest.fixture(scope='session')
def control_plane(cloud: Cloud) -> ControlPlane:
    return cloud.add(ControlPlane)


@pytest.fixture(scope='session')
def glance(cloud: Cloud) -> Glance:
    return cloud.add(Glance)


@pytest.fixture(scope='session')
def cinder(glance: Glance) -> Cinder:
    """Volumes, and backups of volumes."""
    if missing := Backends.missing({*Cinder.needs}):
        pytest.skip(f'no {missing}')
    if os.getuid():
        pytest.skip('Cinder runs as root only')
    return glance.cloud.add(Cinder)


@pytest.fixture(scope='session')
def librbd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH that has librbd for this Python, and nothing else."""
    folder = tmp_path_factory.mktemp('librbd')
    for name in ('rados', 'rbd'):
        (file,) = LIBRARIES.glob(f'{name}.cpython-*.so')
        (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope='session')
def nova(cinder: Cinder) -> Nova:
    cinder.cloud.add_all(Placement, Neutron, Nova)
    return cinder.cloud.add(Nova)
