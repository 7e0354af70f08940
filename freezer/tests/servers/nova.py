"""The real Nova, with a compute driver whose servers are files."""

import shutil
import uuid
from pathlib import Path
from typing import Any

from freezer.tests.servers.cloud import HOST, Service

_WSGI = """
import sys
sys.argv = ['nova-api']
from nova.wsgi.osapi_compute import application
"""
_CELLS = """
INSERT INTO nova_api.cell_mappings (created_at, uuid, name, transport_url,
                                    database_connection, disabled) VALUES
  (NOW(), '00000000-0000-0000-0000-000000000000', 'cell0', 'none:///', '{cell0}', 0),
  (NOW(), '{uuid}', 'cell1', '{queue}', '{cell1}', 0);
INSERT INTO nova_api.host_mappings (created_at, cell_id, host)
  SELECT NOW(), id, '{host}' FROM nova_api.cell_mappings WHERE name = 'cell1';
"""


class Nova(Service):
    """API, scheduler, conductor and compute; takes 900 MB of memory."""

    name = 'nova'
    kind = 'compute'
    path = '/v2.1'
    needs = ('mariadb', 'rabbitmq')
    parts = ('scheduler', 'conductor', 'compute')

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory / self.name
        for each in ('lock', 'instances'):
            (folder / each).mkdir(parents=True)
        # Otherwise a first start that was interrupted would be the last one.
        (folder / 'compute_id').write_text(str(uuid.uuid4()))
        (cloud.directory / 'novawsgi.py').write_text(_WSGI)
        # It looks for both files in one directory.
        shutil.copy(cloud.folder / 'etc/nova/api-paste.ini', folder)
        settings = cloud.common(self.name)
        settings['DEFAULT'] |= {
            'compute_driver': 'disks.DisksDriver',
            'instances_path': folder / 'instances',
            'flat_injected': 'false',
            'update_resources_interval': 10,
        }
        settings |= {
            'database': cloud.connection('nova_cell1'),
            'api_database': {'connection': cloud.database('nova_api')},
            'api': {'auth_strategy': 'keystone'},
            'wsgi': {'api_paste_config': folder / 'api-paste.ini'},
            'scheduler': {'workers': 1},
            'conductor': {'workers': 1},
            'glance': {
                'api_servers': cloud.service('glance').endpoint,
                'num_retries': 1,
            },
            **{
                section: cloud.credentials()
                for section in ('placement', 'cinder', 'neutron', 'keystone')
            },
            'key_manager': {
                'backend': 'nova.keymgr.conf_key_mgr.ConfKeyManager',
                'fixed_key': '0' * 64,
            },
        }
        cloud.write('nova/nova.conf', settings)
        config = ('nova-manage', '--config-file', 'nova/nova.conf')
        cloud.database('nova_cell0')
        cloud.migrate('nova_api', *config, 'api_db', 'sync')
        cloud.migrate('nova_cell1', *config, 'db', 'sync', '--local_cell')
        cloud.migrate('nova_cell0', like='nova_cell1')
        cloud.backends.mariadb.execute(
            _CELLS.format(
                cell0=cloud.database('nova_cell0'),
                cell1=cloud.database('nova_cell1'),
                uuid=uuid.uuid4(),
                queue=cloud.backends.rabbitmq.url,
                host=HOST,
            )
        )

    def launch(self) -> None:
        cloud = self.cloud
        config = ['--config-file', 'nova/nova.conf']
        # It must be there before nova-compute asks for other services.
        cloud.spawn_wsgi(
            *(self.name, self.port, 'novawsgi'),
            {'OS_NOVA_CONFIG_DIR': str(cloud.directory / self.name)},
        )
        for part in ('scheduler', 'conductor'):
            cloud.spawn(f'nova-{part}', [f'nova-{part}', *config])
        driver = Path(__file__).with_name('nova_disks.py')
        # Not with the modules beside it: this one is called nova.
        cloud.spawn('nova-compute', ['python', '-P', str(driver), *config])

    def is_ready(self, session: Any) -> bool:
        found = session.get(f'{self.endpoint}/v2.1/os-services').json()['services']
        up = {each['binary'] for each in found if each['state'] == 'up'}
        if up != {f'nova-{part}' for part in self.parts}:
            return False
        placement = self.cloud.service('placement').endpoint
        hosts = session.get(
            f'{placement}/resource_providers?resources=VCPU:1,DISK_GB:1',
            headers={'OpenStack-API-Version': 'placement 1.4'},
        )
        return bool(hosts.json()['resource_providers'])

    def disk(self, server_id: str) -> Path:
        """The root disk of a server that boots from an image."""
        return self.cloud.directory / 'nova' / 'instances' / server_id
