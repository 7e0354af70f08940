"""The real Cinder: volumes in Ceph's RBD, and their backups in Ceph's S3."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

from freezer.tests.servers.base import which
from freezer.tests.servers.cloud import LIBRARIES, Service

_WSGI = """
import sys
sys.argv = ['cinder-api', '--config-file', '{folder}/cinder.conf']
from cinder.wsgi import wsgi
application = wsgi.initialize_application()
"""
# A busy monitor without authentication refuses a command now and then: "EPERM: problem
# getting command descriptions from mon". Cinder does not ask again.
_CEPH = """\
#!/bin/sh
for _ in 1 2 3 4 5; do
    if answer=$({ceph} "$@"); then
        printf '%s\\n' "$answer"
        exit 0
    fi
    sleep 0.2
done
exit 1
"""
_POOL = 'volumes'
#: bucket of Cinder's own backups
BUCKET = 'cinderbackups'


class Cinder(Service):
    """API, scheduler, volumes and backups; takes 800 MB of memory."""

    name = 'cinder'
    kind = 'block-storage'
    path = '/v3/%(project_id)s'
    needs = ('mariadb', 'rabbitmq', 'ceph')
    parts = ('scheduler', 'volume', 'backup')

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory / self.name
        for each in ('lock', 'conversion', 'bin'):
            (folder / each).mkdir(parents=True)
        program = folder / 'bin/ceph'
        program.write_text(_CEPH.format(ceph=which('ceph')))
        program.chmod(0o755)
        (cloud.directory / 'cwsgi.py').write_text(_WSGI.format(folder=folder))
        ceph = cloud.backends.ceph
        ceph.make_pool(_POOL)
        # Services ask Keystone for this type.
        cloud.add_endpoint('cinderv3', 'volumev3', self.endpoint + self.path)
        helper = f'{cloud.folder}/bin/privsep-helper --config-file {folder}/cinder.conf'
        settings = cloud.common(self.name)
        settings['DEFAULT'] |= {
            'auth_strategy': 'keystone',
            'api_paste_config': cloud.folder / 'etc/cinder/api-paste.ini',
            'resource_query_filters_file': (
                cloud.folder / 'etc/cinder/resource_filters.json'
            ),
            'rootwrap_config': cloud.folder / 'etc/cinder/rootwrap.conf',
            'glance_api_servers': cloud.service('glance').endpoint,
            'image_conversion_dir': folder / 'conversion',
            'enabled_backends': 'ceph',
            'default_volume_type': '__DEFAULT__',
            # Ceph without its manager does not report free space.
            'scheduler_default_filters': 'AvailabilityZoneFilter',
            'periodic_interval': 10,
            # A scheduler that starts later learns of the backend by this report.
            'backend_stats_polling_interval': 3,
            'backup_driver': 'cinder.backup.drivers.s3.S3BackupDriver',
            'backup_s3_endpoint_url': ceph.endpoint,
            'backup_s3_store_access_key': ceph.access_key,
            'backup_s3_store_secret_key': ceph.secret_key,
            'backup_s3_store_bucket': BUCKET,
            'backup_s3_object_size': 16 << 20,
            'backup_s3_block_size': 32 << 10,
        }
        settings |= {
            'database': cloud.connection('cinder'),
            # No rbd_user: os-brick would look for its key in /etc/ceph.
            'ceph': {
                'volume_driver': 'cinder.volume.drivers.rbd.RBDDriver',
                'volume_backend_name': 'ceph',
                'rbd_pool': _POOL,
                'rbd_ceph_conf': ceph.config,
                'rbd_flatten_volume_from_snapshot': 'false',
            },
            'privsep_osbrick': {'helper_command': f'env {helper}'},
            'cinder_sys_admin': {'helper_command': f'env {helper}'},
            'nova': cloud.credentials(),
        }
        cloud.write('cinder/cinder.conf', settings)
        config = ('--config-file', 'cinder/cinder.conf')
        cloud.migrate('cinder', 'cinder-manage', *config, 'db', 'sync')

    def launch(self) -> None:
        cloud = self.cloud
        cloud.spawn_wsgi(self.name, self.port, 'cwsgi', {})
        for part in self.parts:
            self.launch_part(part)

    def launch_part(self, part: str) -> None:
        program = f'cinder-{part}'
        config = ['--config-file', 'cinder/cinder.conf']
        path = f'{self.cloud.directory}/cinder/bin:{os.environ["PATH"]}'
        self.cloud.spawn(program, [program, *config], {'PATH': path})

    def is_ready(self, session: Any) -> bool:
        url = f'{self.endpoint}/v3/{session.get_project_id()}'
        found = session.get(f'{url}/os-services').json()['services']
        up = {each['binary'] for each in found if each['state'] == 'up'}
        pools = session.get(f'{url}/scheduler-stats/get_pools').json()['pools']
        return up == {f'cinder-{part}' for part in self.parts} and bool(pools)

    @contextlib.contextmanager
    def volume(self, volume_id: str) -> Iterator[Any]:
        """The RBD image of a volume, opened for reads and writes."""
        with (
            self._pool() as pool,
            _library('rbd').Image(pool, f'volume-{volume_id}') as image,
        ):
            yield image

    def names(self) -> set[str]:
        """Of all RBD images."""
        with self._pool() as pool:
            return {*_library('rbd').RBD().list(pool)}

    @contextlib.contextmanager
    def _pool(self) -> Iterator[Any]:
        config = str(self.cloud.backends.ceph.config)
        rados = _library('rados').Rados(conffile=config, name='client.admin')
        with rados as cluster, cluster.open_ioctx(_POOL) as pool:
            yield pool


def _library(name: str) -> Any:
    """One of Debian's libraries for Python, which are outside the environment."""
    if name not in sys.modules:
        (file,) = LIBRARIES.glob(f'{name}.cpython-*.so')
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
