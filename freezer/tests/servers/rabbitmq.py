"""RabbitMQ, with a port mapper of its own. Ready in three to six seconds."""

import contextlib
import glob
import socket

from freezer.tests.servers.base import ProcessServer, Properties, free_ports

_LIB = '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server'


class RabbitMq(ProcessServer):
    """The message queue of a cloud; user and password are ``guest``."""

    name = 'rabbitmq'
    title = 'RabbitMQ'
    source = "Debian's package rabbitmq-server"
    properties = Properties()
    programs = ('rabbitmq-server', 'erl', 'epmd')
    version_command = ()

    @property
    def url(self) -> str:
        return f'rabbit://guest:guest@127.0.0.1:{self._port}/'

    def _prepare(self) -> None:
        self._port, self._distribution, self._mapper = free_ports(3)
        self.endpoint = self.url
        for name, lines in (
            (
                'rabbitmq.conf',
                f'listeners.tcp.1 = 127.0.0.1:{self._port}\n'
                f'log.file.level = warning\n'
                f'vm_memory_high_watermark.absolute = 512MB\n'
                f'disk_free_limit.absolute = 50MB\n',
            ),
            (
                'advanced.config',
                '[{kernel, [{inet_dist_use_interface, {127, 0, 0, 1}}]}].\n',
            ),
            ('plugins', '[].\n'),
            ('env', ''),
        ):
            (self.directory / name).write_text(lines)

    def _launch(self) -> None:
        self._spawn(
            'epmd', ['epmd', '-address', '127.0.0.1', '-port', str(self._mapper)]
        )
        here = self.directory
        one_thread = '+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none'
        settings = {
            'ERL_EPMD_PORT': self._mapper,
            'ERL_EPMD_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODENAME': f'r{self._port}@localhost',
            'RABBITMQ_DIST_PORT': self._distribution,
            'RABBITMQ_NODE_PORT': self._port,
            'RABBITMQ_CONF_ENV_FILE': here / 'env',
            'RABBITMQ_CONFIG_FILE': here / 'rabbitmq',
            'RABBITMQ_ADVANCED_CONFIG_FILE': here / 'advanced.config',
            'RABBITMQ_MNESIA_BASE': here / 'mnesia',
            'RABBITMQ_LOG_BASE': here / 'log',
            'RABBITMQ_ENABLED_PLUGINS_FILE': here / 'plugins',
            # Otherwise it would not run in the foreground.
            'RABBITMQ_ALLOW_INPUT': 1,
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': f'-noinput {one_thread}',
        }
        # The program in PATH changes to a user of its own.
        (program,) = glob.glob(_LIB)
        environment = [f'{key}={value}' for key, value in settings.items()]
        self._spawn('rabbitmq', ['env', *environment, program])

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            with socket.create_connection(('127.0.0.1', self._port), 5) as connection:
                connection.settimeout(5)
                connection.sendall(b'AMQP\0\0\x09\x01')
                return bool(connection.recv(1))
        return False
