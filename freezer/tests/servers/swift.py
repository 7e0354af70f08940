"""OpenStack Swift, in five processes."""

import json
import os
import pwd
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from freezer.tests.servers.base import (
    DOMAIN,
    REGION,
    ProcessServer,
    Properties,
    StartError,
    free_ports,
    is_free,
)

# Not ours: Swift is a package of the system.
_PYTHON = '/usr/bin/python3'
_STORES = ('account', 'container', 'object')


class Account:
    """An account, as any client of Swift sees it.

    :param url: of the account
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token

    def ask(
        self,
        method: str,
        path: str = '',
        query: str = '',
        body: bytes | None = None,
        headers: Mapping[str, str] = {},
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of an answer.

        :param path: below the account, not quoted
        """
        url = f'{self.url}/{urllib.parse.quote(path)}'.rstrip('/')
        url += f'?{query}' if query else ''
        given = {'X-Auth-Token': self.token, **headers}
        request = urllib.request.Request(url, body, given, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers, answer.read()

    def keys(self, container: str, prefix: str = '') -> dict[str, int]:
        """Return the size of every object, by key."""
        found: dict[str, int] = {}
        marker = ''
        while True:
            query = {'format': 'json', 'prefix': prefix, 'marker': marker}
            page = json.loads(
                self.ask('GET', container, urllib.parse.urlencode(query))[1]
            )
            if not page:
                return found
            found |= {item['name']: item['bytes'] for item in page}
            marker = page[-1]['name']

    def get(self, container: str, key: str) -> bytes:
        return self.ask('GET', f'{container}/{key}')[1]

    def put(
        self, container: str, key: str, data: bytes, headers: Mapping[str, str] = {}
    ) -> None:
        typed = {'Content-Type': 'application/octet-stream', **headers}
        self.ask('PUT', f'{container}/{key}', body=data, headers=typed)

    def delete(self, container: str, key: str) -> None:
        self.ask('DELETE', f'{container}/{key}')

    def make(self, container: str) -> None:
        self.ask('PUT', container, body=b'')

    def remove(self, container: str) -> None:
        """Remove a container with its objects."""
        try:
            for key in self.keys(container):
                self.delete(container, key)
            self.ask('DELETE', container)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise


class SwiftS3(ProcessServer):
    """OpenStack Swift on one disk, with its S3 API.

    Without the daemons that replicate and repair: there is one copy of everything.
    Ready in about 5 s.
    """

    name = 'swift'
    title = 'Swift s3api'
    source = 'Debian: swift-proxy swift-account swift-container swift-object memcached'
    properties = Properties(
        unknown_key='SignatureDoesNotMatch',
        conditional_put=False,
        part_limit=1000,
        object_lock=False,
        # Less than the 1,000 it has: it takes 20 ms for each object that is written.
        page=100,
    )
    access_key = 'test:tester'
    secret_key = 'testing'
    readonly_access_key = 'test:reader'
    readonly_secret_key = 'reading'
    programs = (
        'memcached',
        'swift-account-server',
        'swift-container-server',
        'swift-object-server',
        'swift-proxy-server',
    )
    version_command = (_PYTHON, '-c', 'import swift; print(swift.__version__)')
    #: filters of the proxy that look at who asks
    logins = 's3api tempauth'

    def _prepare(self) -> None:
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        names = ('memcached', *_STORES, 'proxy')
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.endpoint = f'http://127.0.0.1:{self._ports["proxy"]}'
        disk = self.directory / 'disks' / 'd1'
        disk.mkdir(parents=True)
        try:
            # Swift keeps what it knows of an object there.
            os.setxattr(disk, 'user.freezer', b'')
        except OSError as error:
            raise StartError(f'{disk}: no extended attributes: {error}') from error
        (self.directory / 'swift.conf').write_text(_CONF)
        for server in names[1:]:
            self._configure(server)
        self._fresh = True

    def _configure(self, server: str) -> None:
        common = _SERVER_CONF.format(
            port=self._ports[server], user=self._user, directory=self.directory
        )
        if server == 'proxy':
            own = _PROXY_CONF.format(
                memcached=self._ports['memcached'],
                region=REGION,
                domain=DOMAIN,
                page=self.properties.page,
                logins=self.logins,
                tester=self.secret_key,
                reader=self.readonly_secret_key,
            )
        else:
            own = _STORE_CONF.format(server=server)
        (self.directory / f'{server}.conf').write_text(common + own)

    def _launch(self) -> None:
        if self._fresh:
            rings = [f'{name}={self._ports[name]}' for name in _STORES]
            self._run([_PYTHON, '-c', _RINGS, *rings])
        address = ('-l', '127.0.0.1', '-p', str(self._ports['memcached']), '-U', '0')
        # It takes a user when it is started by root.
        self._spawn('memcached', ['memcached', '-u', self._user, *address])
        for server in (*_STORES, 'proxy'):
            # -v: what it logs goes to the standard output, and not to syslog alone.
            program = [f'swift-{server}-server', f'{server}.conf', '-v']
            self._spawn(server, program)
        self._fresh = False

    def _answers(self) -> bool:
        # The proxy says 503 when one of the others does not listen yet.
        ports = (self._ports[server] for server in _STORES)
        return not any(map(is_free, ports)) and super()._answers()

    @property
    def account(self) -> Account:
        """The account of the S3 keys, through Swift's own API."""
        keys = {'X-Auth-User': self.access_key, 'X-Auth-Key': self.secret_key}
        login = urllib.request.Request(f'{self.endpoint}/auth/v1.0', headers=keys)
        with urllib.request.urlopen(login, timeout=60) as answer:
            found = answer.headers
            return Account(found['X-Storage-Url'], found['X-Auth-Token'])

    def options(self, **changes: Any) -> dict[str, Any]:
        """Options of storage swift, by key."""
        return {
            'swift_auth_url': f'{self.endpoint}/auth/v1.0',
            'swift_username': self.access_key,
            'swift_password': self.secret_key,
            **changes,
        }

    def used(self, container: str) -> int:
        """Return the bytes in a container, as Swift knows it: not only in buckets."""
        headers, _body = self.account.ask('HEAD', container)
        return int(headers['X-Container-Bytes-Used'])


# One process: swift-ring-builder is started nine times for it, and takes 7 s.
_RINGS = """
import sys
from swift.common.ring import RingBuilder

for argument in sys.argv[1:]:
    name, port = argument.split('=')
    where = {'region': 1, 'zone': 1, 'ip': '127.0.0.1', 'port': int(port)}
    builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
    builder.add_dev({'id': 0, 'weight': 1, 'device': 'd1', **where})
    builder.rebalance()
    builder.get_ring().save(name + '.ring.gz')
"""

_CONF = """\
[swift-hash]
swift_hash_path_suffix = freezer
[storage-policy:0]
name = default
default = yes
"""

_SERVER_CONF = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {directory}
devices = {directory}/disks
recon_cache_path = {directory}
mount_check = false
# In the process itself: children would be left by a SIGKILL.
workers = 0
log_level = WARNING
"""

_STORE_CONF = """\
[pipeline:main]
pipeline = {server}-server
[app:{server}-server]
use = egg:swift#{server}
"""

_PROXY_CONF = """\
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats {logins} slo dlo \
 versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# On a busy machine a server that is slow would not be asked for a minute.
conn_timeout = 10
node_timeout = 60
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
storage_domain = {domain}
max_bucket_listing = {page}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {tester} .admin
user_test_reader = {reader} .reseller_reader
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""
