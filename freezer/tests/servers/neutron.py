"""The real Neutron, without agents: networks, subnets, ports and security groups."""

from typing import Any

from freezer.tests.servers.cloud import Service

_WSGI = """
import sys
sys.argv = ['neutron-api', '--config-file', '{folder}/neutron.conf']
sys.path.insert(0, '{folder}/plugin')
from neutron import server
from neutron.server import api
application = server.boot_server(api.api_server, prog='neutron-api')
"""
# A port needs an agent on its host to be bound. Here there is none.
_DRIVER = """
from neutron_lib.plugins.ml2 import api


class BindsAnyPort(api.MechanismDriver):
    connectivity = 'l2'

    def initialize(self):
        pass

    def bind_port(self, context):
        segment = context.segments_to_bind[0]
        details = {'port_filter': False}
        context.set_binding(segment[api.ID], 'ovs', details, status='ACTIVE')
"""
_METADATA = 'Metadata-Version: 2.1\nName: binds-any-port\nVersion: 1\n'
_ENTRY_POINT = """
[neutron.ml2.mechanism_drivers]
binds_any_port = binds_any_port:BindsAnyPort
"""


class Neutron(Service):
    """Starts in about ten seconds, and takes 200 MB of memory."""

    name = 'neutron'
    kind = 'network'
    needs = ('mariadb', 'rabbitmq')

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory / self.name
        info = folder / 'plugin' / 'binds_any_port-1.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(_METADATA)
        (info / 'entry_points.txt').write_text(_ENTRY_POINT)
        (folder / 'plugin' / 'binds_any_port.py').write_text(_DRIVER)
        (cloud.directory / 'nwsgi.py').write_text(_WSGI.format(folder=folder))
        settings = cloud.common(self.name)
        settings['DEFAULT'] |= {
            'core_plugin': 'ml2',
            'service_plugins': '',
            'api_paste_config': cloud.folder / 'etc/neutron/api-paste.ini',
            'dhcp_agent_notification': 'false',
            'notify_nova_on_port_status_changes': 'false',
            'notify_nova_on_port_data_changes': 'false',
        }
        settings['database'] = cloud.connection('neutron')
        settings['ml2'] = {
            'type_drivers': 'local',
            'tenant_network_types': 'local',
            'mechanism_drivers': 'binds_any_port',
        }
        cloud.write('neutron/neutron.conf', settings)
        config = ('--config-file', 'neutron/neutron.conf')
        cloud.migrate('neutron', 'neutron-db-manage', *config, 'upgrade', 'heads')

    def launch(self) -> None:
        self.cloud.spawn_wsgi(self.name, self.port, 'nwsgi', {})

    def is_ready(self, session: Any) -> bool:
        session.get(f'{self.endpoint}/v2.0/networks')
        return True
