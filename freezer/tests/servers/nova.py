"""The real Nova and the services it needs. No server has a processor, but disks."""

import contextlib
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.tests.servers.cloud import Service

_WSGI = """
import sys
sys.argv = ['{name}', '--config-file', '{config}']
sys.path.insert(0, '{folder}')
{application}
"""
# No driver of Neutron binds a port without an agent.
_BOUND = """
from neutron_lib.plugins.ml2 import api


class Bound(api.MechanismDriver):
    connectivity = 'l2'

    def initialize(self):
        pass

    def bind_port(self, context):
        for segment in context.segments_to_bind:
            context.set_binding(
                segment[api.ID], 'ovs', {'port_filter': False}, status='ACTIVE'
            )
            return
"""
_ENTRY_POINTS = """
[neutron.ml2.mechanism_drivers]
bound = bound:Bound
"""
# Nova's fake driver has no disks: it never uploads an image of a server.
_DISKS = """
import os
import sys

sys.argv[0] = 'nova-compute'
# First: it prepares the process.
from nova.cmd import compute
from nova.compute import task_states
from nova.conf import CONF
from nova.image import glance
import nova.virt
from nova.virt import fake


class DiskDriver(fake.FakeDriver):
    vcpus, memory_mb, local_gb = 64, 65536, 1000

    def _disk(self, instance):
        return os.path.join(CONF.instances_path, instance.uuid)

    def spawn(self, context, instance, *args, **kwargs):
        super().spawn(context, instance, *args, **kwargs)
        if instance.image_ref:
            disk = self._disk(instance)
            glance.API().download(context, instance.image_ref, dest_path=disk)

    def snapshot(self, context, instance, image_id, update_task_state):
        pending = task_states.IMAGE_PENDING_UPLOAD
        uploading = task_states.IMAGE_UPLOADING
        update_task_state(task_state=pending)
        update_task_state(task_state=uploading, expected_state=pending)
        record = {
            'status': 'active', 'disk_format': 'raw', 'container_format': 'bare',
        }
        with open(self._disk(instance), 'rb') as data:
            glance.API().update(context, image_id, record, data, purge_props=False)

    def destroy(self, context, instance, *args, **kwargs):
        super().destroy(context, instance, *args, **kwargs)
        if os.path.exists(self._disk(instance)):
            os.unlink(self._disk(instance))


disks = type(sys)('nova.virt.disks')
disks.DiskDriver = DiskDriver
sys.modules[disks.__name__] = nova.virt.disks = disks
sys.exit(compute.main())
"""


class Placement(Service):
    """Takes 130 MB of memory."""

    name = 'placement'
    kind = 'placement'
    needs = ('mariadb',)

    def prepare(self) -> None:
        cloud = self.cloud
        (cloud.directory / self.name).mkdir()
        (cloud.directory / 'pwsgi.py').write_text(
            'import sys\n'
            "sys.argv = ['placement-api']\n"
            'from placement import wsgi\n'
            'application = wsgi.init_application()\n'
        )
        settings = cloud.common(self.name)
        settings['placement_database'] = cloud.connection(self.name)
        cloud.write('placement/placement.conf', settings)
        config = ('--config-file', 'placement/placement.conf')
        cloud.migrate(self.name, 'placement-manage', *config, 'db', 'sync')

    def launch(self) -> None:
        config = {'OS_PLACEMENT_CONFIG_DIR': str(self.cloud.directory / self.name)}
        self.cloud.spawn_wsgi(self.name, self.port, 'pwsgi', config)

    def is_ready(self, session: Any) -> bool:
        session.get(f'{self.endpoint}/resource_providers')
        return True


class Neutron(Service):
    """The API; ports are bound to nothing. Takes 200 MB of memory."""

    name = 'neutron'
    kind = 'network'
    needs = ('mariadb', 'rabbitmq')

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory / self.name
        package = folder / 'bound-1.dist-info'
        for each in (folder / 'lock', package):
            each.mkdir(parents=True)
        (folder / 'bound.py').write_text(_BOUND)
        (package / 'METADATA').write_text(
            'Metadata-Version: 2.1\nName: bound\nVersion: 1\n'
        )
        (package / 'entry_points.txt').write_text(_ENTRY_POINTS)
        application = (
            'from neutron import server\n'
            'from neutron.server import api\n'
            "application = server.boot_server(api.api_server, prog='neutron-api')"
        )
        config = folder / 'neutron.conf'
        (cloud.directory / 'nwsgi.py').write_text(
            _WSGI.format(
                name='neutron-api',
                config=config,
                folder=folder,
                application=application,
            )
        )
        settings = cloud.common(self.name)
        settings['DEFAULT'] |= {
            'core_plugin': 'ml2',
            'service_plugins': '',
            'api_paste_config': cloud.folder / 'etc/neutron/api-paste.ini',
            'dhcp_agent_notification': 'false',
            'notify_nova_on_port_status_changes': 'false',
            'notify_nova_on_port_data_changes': 'false',
        }
        settings |= {
            'database': cloud.connection(self.name),
            'ml2': {
                'type_drivers': 'local',
                'tenant_network_types': 'local',
                'mechanism_drivers': 'bound',
                'extension_drivers': '',
            },
        }
        cloud.write('neutron/neutron.conf', settings)
        cloud.migrate(
            *(self.name, 'neutron-db-manage', '--config-file', str(config)),
            *('upgrade', 'heads'),
        )

    def launch(self) -> None:
        self.cloud.spawn_wsgi(self.name, self.port, 'nwsgi', {})

    def is_ready(self, session: Any) -> bool:
        session.get(f'{self.endpoint}/v2.0/networks')
        return True


class Nova(Service):
    """API, scheduler, conductor and compute; takes 870 MB of memory.

    The root disk of a server that boots from an image is a file; its volumes are
    attached by name only.
    """

    name = 'nova'
    kind = 'compute'
    path = '/v2.1'
    needs = ('mariadb', 'rabbitmq')

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory / self.name
        for name in ('lock', 'instances'):
            (folder / name).mkdir(parents=True)
        (folder / 'compute.py').write_text(_DISKS)
        (cloud.directory / 'novawsgi.py').write_text(
            'import sys\n'
            "sys.argv = ['nova-api']\n"
            'from nova.wsgi.osapi_compute import application\n'
        )
        # nova-compute refuses to start after a first start that was interrupted.
        (folder / 'compute_id').write_text(str(uuid.uuid4()))
        shutil.copy(cloud.folder / 'etc/nova/api-paste.ini', folder)
        settings = cloud.common(self.name)
        settings['DEFAULT'] |= {
            'compute_driver': 'disks.DiskDriver',
            'instances_path': folder / 'instances',
            'update_resources_interval': 10,
        }
        settings |= {
            'database': cloud.connection('nova'),
            'api_database': cloud.connection('nova_api'),
            'api': {'auth_strategy': 'keystone'},
            'wsgi': {'api_paste_config': folder / 'api-paste.ini'},
            'scheduler': {'workers': 1},
            'conductor': {'workers': 1},
            'glance': {
                'api_servers': cloud.service('glance').endpoint,
                'num_retries': 1,
            },
        }
        for service in ('placement', 'cinder', 'neutron', 'keystone'):
            settings[service] = cloud.credentials()
        cloud.write('nova/nova.conf', settings)
        cloud.let_admin_serve()
        self._create_tables()

    def _create_tables(self) -> None:
        cloud = self.cloud
        manage = ('nova-manage', '--config-file', 'nova/nova.conf')
        cloud.migrate('nova_api', *manage, 'api_db', 'sync')
        cloud.migrate('nova', *manage, 'db', 'sync', '--local_cell')
        zero = cloud.database('nova_cell0')
        cloud.backends.mariadb.execute(
            cloud.backends.mariadb.dump('nova'), 'nova_cell0'
        )
        cells = (*manage, 'cell_v2')
        cloud.program(*cells, 'map_cell0', '--database_connection', zero)
        cloud.program(*cells, 'create_cell', '--name', 'cell1')
        self._is_found = False

    def launch(self) -> None:
        cloud = self.cloud
        config = {'OS_NOVA_CONFIG_DIR': str(cloud.directory / self.name)}
        cloud.spawn_wsgi(self.name, self.port, 'novawsgi', config)
        arguments = ['--config-file', 'nova/nova.conf']
        for part in ('scheduler', 'conductor'):
            cloud.spawn(f'nova-{part}', [f'nova-{part}', *arguments])
        cloud.spawn('nova-compute', ['python', 'nova/compute.py', *arguments])

    def is_ready(self, session: Any) -> bool:
        found = session.get(f'{self.endpoint}/v2.1/os-services').json()['services']
        up = {each['binary'] for each in found if each['state'] == 'up'}
        if not up >= {'nova-scheduler', 'nova-conductor', 'nova-compute'}:
            return False
        if not self._is_found:
            self.cloud.program(
                *('nova-manage', '--config-file', 'nova/nova.conf'),
                *('cell_v2', 'discover_hosts'),
            )
            self._is_found = True
        hosts = session.get(f'{self.endpoint}/v2.1/os-hypervisors').json()
        return bool(hosts['hypervisors'])

    @contextlib.contextmanager
    def stopped_compute(self) -> Iterator[None]:
        """While in the block, no server is created or deleted."""
        process = self.cloud._processes['nova-compute']
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGCONT)

    def disk(self, server_id: str) -> Path:
        """The root disk of a server that boots from an image."""
        path = self.cloud.directory / self.name / 'instances' / server_id
        assert os.path.exists(path)
        return path
