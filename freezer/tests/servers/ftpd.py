"""FTP servers for storages ftp and ftps. Ready in less than a second.

Their root is that of this machine: paths on the server are paths here.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme

from freezer.tests.servers.base import ProcessServer, free_ports, is_free, which

_DATA_PORTS = 40
USER, PASSWORD = 'freezer', 'right-secret'

_VSFTPD = """\
listen=YES
listen_address={address}
listen_port={port}
pasv_min_port={first}
pasv_max_port={last}
background=NO
run_as_launching_user=YES
secure_chroot_dir={directory}/empty
anonymous_enable=YES
local_enable=NO
anon_root={root}
allow_writeable_chroot=YES
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=077
seccomp_sandbox=NO
xferlog_enable=YES
vsftpd_log_file={directory}/log/vsftpd.log
dual_log_enable=NO
log_ftp_protocol=YES
ssl_enable={tls}
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
rsa_cert_file={directory}/cert.pem
rsa_private_key_file={directory}/key.pem
require_ssl_reuse=YES
"""


class _FtpServer(ProcessServer):
    """:param tls: it is demanded, for commands and data"""

    user, password = USER, PASSWORD

    def __init__(
        self,
        parent: Path | None = None,
        tls: bool = False,
        address: str = '127.0.0.1',
        **settings: Any,
    ) -> None:
        super().__init__(parent)
        self.tls = tls
        self.port = 0
        #: of data connections
        self.data_ports = range(0)
        self._address = address
        self._settings = settings

    @property
    def storage(self) -> str:
        return 'ftps' if self.tls else 'ftp'

    @property
    def ca(self) -> Path:
        return self.directory / 'ca.pem'

    @property
    def root(self) -> Path:
        """A directory for backups."""
        return self.directory / 'data'

    def options(self, **changes: object) -> dict[str, object]:
        """Options of the storage, by key."""
        given: dict[str, object] = {
            'ftp_host': self._address,
            'ftp_port': self.port,
            'ftp_username': self.user,
            'ftp_password': self.password,
        }
        if self.tls:
            given['ftp_ca_bundle'] = str(self.ca)
        return {**given, **changes}

    def arguments(self, options: Mapping[str, object] | None = None) -> tuple[str, ...]:
        """The same on a command line."""
        given = self.options() if options is None else options
        return tuple(
            text
            for key, value in given.items()
            for text in (f'--{key.replace("_", "-")}', str(value))
        )

    def log(self) -> str:
        """Commands and replies."""
        return '\n'.join(
            path.read_text(errors='replace')
            for path in sorted((self.directory / 'log').iterdir())
        )

    def _prepare(self) -> None:
        (self.port,) = free_ports(1)
        self.data_ports = _neighbours(_DATA_PORTS)
        self.root.mkdir()
        (self.directory / 'empty').mkdir()
        self.make_certificate('localhost', '127.0.0.1', '127.0.0.2', '::1')

    def make_certificate(self, *names: str) -> None:
        """A certificate for these names, of an authority of its own."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        certificate = authority.issue_cert(*names)
        certificate.private_key_pem.write_to_path(self.directory / 'key.pem')
        certificate.cert_chain_pems[0].write_to_path(self.directory / 'cert.pem')

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self._address, self.port), 5) as connection:
                return connection.recv(4) == b'220 '
        except OSError:
            return False


class Pyftpd(_FtpServer):
    """pyftpdlib, with MLSD; see ``pyftpd.py`` for its settings."""

    name = 'pyftpd'
    title = 'pyftpdlib'
    source = 'pip install pyftpdlib pyopenssl'
    programs = ()
    version_command = ('python3', '-c', 'import pyftpdlib; print(pyftpdlib.__ver__)')

    def _launch(self) -> None:
        settings = {
            'address': self._address,
            'port': self.port,
            'data_ports': list(self.data_ports),
            'user': self.user,
            'password': self.password,
            'certificate': str(self.directory) if self.tls else '',
            **self._settings,
        }
        program = str(Path(__file__).with_name('pyftpd.py'))
        self._spawn('pyftpd', [sys.executable, '-B', program, json.dumps(settings)])


class Vsftpd(_FtpServer):
    """vsftpd: no MLSD; with TLS it demands that data connections resume the session.

    Each setting is a line of its configuration.
    """

    name = 'vsftpd'
    title = 'vsftpd'
    source = "Debian's package vsftpd"
    programs = ('/usr/sbin/vsftpd',)
    version_command = ('/usr/sbin/vsftpd', '-v')
    user = 'anonymous'

    @classmethod
    def available(cls) -> bool:
        return os.geteuid() == 0 and which('/usr/sbin/vsftpd') is not None

    def _launch(self) -> None:
        settings = dict(self._settings)
        text = _VSFTPD.format(
            address=self._address,
            port=self.port,
            first=self.data_ports[0],
            last=self.data_ports[-1],
            directory=self.directory,
            root=settings.pop('root', '/'),
            tls='YES' if self.tls else 'NO',
        )
        text += ''.join(f'{name}={value}\n' for name, value in settings.items())
        config = self.directory / 'vsftpd.conf'
        config.write_text(text)
        self._spawn('vsftpd', ['/usr/sbin/vsftpd', str(config)])


def _neighbours(count: int) -> range:
    """Ports in a row that nobody has."""
    while True:
        (first,) = free_ports(1)
        found = range(first, first + count)
        if all(map(is_free, found)):
            return found
