"""The real Placement, which counts the resources of compute hosts."""

from typing import Any

from freezer.tests.servers.cloud import Service

_WSGI = """
import sys
sys.argv = ['placement-api']
from placement import wsgi
application = wsgi.init_application()
"""


class Placement(Service):
    """Starts in about three seconds, and takes 130 MB of memory."""

    name = 'placement'
    kind = 'placement'
    needs = ('mariadb',)

    def prepare(self) -> None:
        cloud = self.cloud
        (cloud.directory / self.name).mkdir()
        (cloud.directory / 'pwsgi.py').write_text(_WSGI)
        settings = cloud.common(self.name)
        settings['placement_database'] = {'connection': cloud.database('placement')}
        cloud.write('placement/placement.conf', settings)
        config = ('--config-file', 'placement/placement.conf')
        cloud.migrate('placement', 'placement-manage', *config, 'db', 'sync')

    def launch(self) -> None:
        config = {'OS_PLACEMENT_CONFIG_DIR': str(self.cloud.directory / self.name)}
        self.cloud.spawn_wsgi(self.name, self.port, 'pwsgi', config)

    def is_ready(self, session: Any) -> bool:
        session.get(f'{self.endpoint}/resource_providers')
        return True
