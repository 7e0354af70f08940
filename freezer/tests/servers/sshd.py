"""OpenSSH's server, for storage ssh. Ready in less than a second.

As root it serves root; else the user who runs the tests.
"""

import getpass
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from freezer.tests.servers.base import ProcessServer, free_ports, which

#: anything that is no option of OpenSSH is a fault of the test
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
PidFile {directory}/sshd.pid
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding local
MaxStartups 100
MaxSessions 50
LogLevel VERBOSE
"""


class Sshd(ProcessServer):
    """An SSH server with SFTP, and no shell.

    :param sftp: arguments of internal-sftp
    :param shell: any command may be run
    """

    name = 'sshd'
    title = 'OpenSSH sshd'
    source = "Debian's package openssh-server"
    programs = ('/usr/sbin/sshd', 'ssh-keygen')
    version_command = ('ssh', '-V')

    def __init__(
        self, parent: Path | None = None, sftp: str = '', shell: bool = False
    ) -> None:
        super().__init__(parent)
        self._sftp = f'internal-sftp {sftp}'.strip()
        self._shell = shell
        self.port = 0
        self.user = getpass.getuser()

    @classmethod
    def available(cls) -> bool:
        return all(which(program) for program in cls.programs)

    @property
    def key(self) -> Path:
        """A private key that may log in."""
        return self.directory / 'id'

    @property
    def root(self) -> Path:
        """A directory for backups."""
        return self.directory / 'data'

    @property
    def known_hosts(self) -> Path:
        return self.directory / 'known_hosts'

    def fingerprint(self, kind: str = 'ed25519') -> str:
        said = subprocess.run(
            ['ssh-keygen', '-lf', self.directory / f'host_{kind}.pub'],
            capture_output=True,
            text=True,
            check=True,
        )
        return said.stdout.split()[1]

    def options(self, **changes: object) -> dict[str, object]:
        """Options of the storage, by key."""
        return {
            'ssh_host': '127.0.0.1',
            'ssh_port': self.port,
            'ssh_username': self.user,
            'ssh_key': str(self.key),
            'ssh_known_hosts': str(self.known_hosts),
            **changes,
        }

    def arguments(self, options: Mapping[str, object] | None = None) -> tuple[str, ...]:
        """The same on a command line."""
        given = self.options() if options is None else options
        return tuple(
            text
            for key, value in given.items()
            for text in (f'--{key.replace("_", "-")}', str(value))
        )

    def make_host_key(self, kind: str = 'ed25519') -> None:
        """A host key, in place of one of its kind; and the known hosts."""
        path = self.directory / f'host_{kind}'
        path.unlink(missing_ok=True)
        make_key(path, kind)
        self.trust(f'[127.0.0.1]:{self.port}', kind)

    def trust(self, name: str, kind: str = 'ed25519') -> None:
        public = (self.directory / f'host_{kind}.pub').read_text().split()[:2]
        self.known_hosts.write_text(f'{name} {" ".join(public)}\n')

    def allow(self, public: Path) -> None:
        """Let one more key log in."""
        with (self.directory / 'authorized_keys').open('a') as keys:
            keys.write(public.read_text())

    def sessions(self) -> int:
        """How many logins there were."""
        log = self.directory / 'log' / 'sshd.out'
        return len(re.findall('Accepted publickey', log.read_text(errors='replace')))

    def _prepare(self) -> None:
        (self.port,) = free_ports(1)
        self.make_host_key()
        make_key(self.key)
        self.allow(self.key.with_suffix('.pub'))
        self.root.mkdir()
        if os.geteuid() == 0:
            # Where the unprivileged half of sshd is confined.
            Path('/run/sshd').mkdir(exist_ok=True)

    def _launch(self) -> None:
        config = _CONFIG.format(port=self.port, directory=self.directory)
        for key in sorted(self.directory.glob('host_*.pub')):
            config += f'HostKey {key.with_suffix("")}\n'
        config += f'Subsystem sftp {self._sftp}\n'
        if not self._shell:
            config += f'ForceCommand {self._sftp}\n'
        (self.directory / 'sshd_config').write_text(config)
        program = which('/usr/sbin/sshd') or '/usr/sbin/sshd'
        self._spawn(
            'sshd', [program, '-D', '-e', '-f', str(self.directory / 'sshd_config')]
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection(('127.0.0.1', self.port), 5) as connection:
                return connection.recv(4) == b'SSH-'
        except OSError:
            return False


def make_key(path: Path, kind: str = 'ed25519', passphrase: str = '') -> None:
    """A private key, and the public one beside it."""
    command = ['ssh-keygen', '-q', '-t', kind, '-N', passphrase, '-f', str(path)]
    if kind == 'rsa':
        # A long one takes seconds.
        command += ['-b', '2048']
    # One round instead of 16, which make guessing passphrases slow.
    subprocess.run([*command, '-a', '1'], check=True)
