"""Backends of [coordination]. They keep nothing in memory over a restart, but etcd."""

import socket
from typing import ClassVar

from freezer.tests.servers.base import ProcessServer, free_ports


class Backend(ProcessServer):
    """:ivar url: for tooz, without options"""

    port = 0
    scheme: ClassVar[str]

    @property
    def url(self) -> str:
        return f'{self.scheme}://127.0.0.1:{self.port}'

    def _prepare(self) -> None:
        (self.port,) = free_ports(1)

    def _answers(self) -> bool:
        try:
            socket.create_connection(('127.0.0.1', self.port), 5).close()
        except OSError:
            return False
        return True


class Redis(Backend):
    name = 'redis'
    title = 'Redis'
    source = "Debian's package redis-server"
    programs = ('redis-server',)
    version_command = ('redis-server', '--version')
    scheme = 'redis'

    def _launch(self) -> None:
        where = ('--bind', '127.0.0.1', '--port', str(self.port))
        self._spawn('redis', ['redis-server', *where, '--save', ''])


class Memcached(Backend):
    name = 'memcached'
    title = 'memcached'
    source = "Debian's package memcached"
    programs = ('memcached',)
    version_command = ('memcached', '--version')
    scheme = 'memcached'

    def _launch(self) -> None:
        where = ['-l', '127.0.0.1', '-p', str(self.port)]
        self._spawn('memcached', ['memcached', '-u', 'nobody', *where])


class Etcd(Backend):
    name = 'etcd'
    title = 'etcd'
    source = "Debian's package etcd-server"
    programs = ('etcd',)
    version_command = ('etcd', '--version')
    scheme = 'etcd3+http'

    def _prepare(self) -> None:
        self.port, self._peer = free_ports(2)

    def _launch(self) -> None:
        here, peer = (f'http://127.0.0.1:{port}' for port in (self.port, self._peer))
        self._spawn(
            'etcd',
            [
                *('etcd', '--data-dir', str(self.directory / 'data')),
                *('--listen-client-urls', here, '--advertise-client-urls', here),
                *('--listen-peer-urls', peer, '--initial-cluster', f'default={peer}'),
                *('--initial-advertise-peer-urls', peer),
            ],
        )
