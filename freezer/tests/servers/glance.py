"""The real Glance, which keeps images in a directory."""

from typing import Any

from freezer.tests.servers.cloud import Service

# Otherwise oslo.config would read gunicorn's arguments.
_WSGI = """
import sys
sys.argv = ['glance-api']
from glance.common import wsgi_app
application = wsgi_app.init_app()
"""
#: bytes of all images of one user together
QUOTA = 1200 << 20


class Glance(Service):
    """Starts in about five seconds, and takes 200 MB of memory."""

    name = 'glance'
    kind = 'image'

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory / 'glance'
        for each in ('store', 'staging', 'tasks', 'cache', 'lock'):
            (folder / each).mkdir(parents=True)
        (cloud.directory / 'gwsgi.py').write_text(_WSGI)
        cloud.write(
            'glance/glance-api.conf',
            {
                'DEFAULT': {
                    'enabled_backends': 'files:file',
                    'workers': 1,
                    'image_cache_dir': folder / 'cache',
                    'user_storage_quota': QUOTA,
                },
                'database': {'connection': f'sqlite:///{cloud.directory}/glance.db'},
                'keystone_authtoken': cloud.credentials(),
                'paste_deploy': {
                    'flavor': 'keystone',
                    'config_file': cloud.folder / 'etc/glance/glance-api-paste.ini',
                },
                'oslo_concurrency': {'lock_path': folder / 'lock'},
                'glance_store': {'default_backend': 'files'},
                'files': {'filesystem_store_datadir': folder / 'store'},
                'os_glance_staging_store': {
                    'filesystem_store_datadir': folder / 'staging'
                },
                'os_glance_tasks_store': {'filesystem_store_datadir': folder / 'tasks'},
            },
        )
        config = ('--config-file', 'glance/glance-api.conf')
        cloud.create_sqlite('glance', 'glance-manage', *config, 'db_sync')

    def launch(self) -> None:
        config = {'OS_GLANCE_CONFIG_DIR': str(self.cloud.directory / 'glance')}
        self.cloud.spawn_wsgi(self.name, self.port, 'gwsgi', config)

    def is_ready(self, session: Any) -> bool:
        session.get(f'{self.endpoint}/v2/images')
        return True
