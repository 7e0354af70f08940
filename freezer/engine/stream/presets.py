"""The programs of ``--stream``: one row each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from freezer.engine.stream.options import PRESETS as NAMES
from freezer.exceptions import ConfigError

#: stands for the directory that a restore makes
TARGET: Final = '{target}'
# Of MariaDB's client; options of other programs with these names mean the same.
_MARIADB_CONNECTION: Final = (
    *('defaults-file', 'defaults-extra-file', 'defaults-group-suffix', 'no-defaults'),
    *('host', 'port', 'socket', 'user', 'protocol'),
    *('ssl', 'ssl-ca', 'ssl-capath', 'ssl-cert', 'ssl-key', 'ssl-verify-server-cert'),
)
_PG_CONNECTION: Final = ('host', 'port', 'username')
# Those of both that have no value.
_FLAGS: Final = ('no-defaults', 'ssl', 'ssl-verify-server-cert')
# --password and its abbreviations; and a URI.
_PASSWORD: Final = re.compile(r'--pass(w(o(r(d)?)?)?)?=|.*://[^/@\s]*:[^/@\s]+@')


@dataclass(frozen=True)
class Preset:
    """How a program is run. The arguments of the user come first, as MariaDB's
    programs want their option files.

    :param program: and its arguments
    :param file: the name of the file that a restore makes
    :param server: a client that prints the version of the server
    :param connection: options of that client, which it takes from the user's arguments
    :param short: the same, of one letter
    :param restore: a program that restores into a server from its standard input; the
        arguments of the user follow
    :param unpack: makes a data directory from its standard input
    :param prepare: makes it fit for a server
    :param short_password: whether ``-pTEXT`` is a password
    """

    program: Sequence[str]
    file: str
    server: Sequence[str] = ()
    connection: Sequence[str] = ()
    short: Sequence[str] = ()
    restore: Sequence[str] = ()
    unpack: Sequence[str] = ()
    prepare: Sequence[str] = ()
    short_password: bool = False
    has_increments: bool = False

    @property
    def name(self) -> str:
        return self.program[0]

    def argv(self, arguments: Sequence[str]) -> list[str]:
        return [self.program[0], *arguments, *self.program[1:]]

    def client(self, program: Sequence[str], arguments: Sequence[str]) -> list[str]:
        """A client's command, connected as the user's arguments say."""
        taken = []
        words = iter(arguments)
        for each in words:
            name, equals, _value = each.removeprefix('--').partition('=')
            is_long = each.startswith('--') and name in self.connection
            if not is_long and each[:2] not in self.short:
                continue
            taken.append(each)
            if name not in _FLAGS and not equals if is_long else len(each) == 2:
                # The next word is its value.
                taken += [next(words, '')]
        return [program[0], *taken, *program[1:]]

    def check_arguments(self, arguments: Sequence[str]) -> None:
        """:raises ConfigError: they have a password"""
        for each in arguments:
            if _PASSWORD.match(each) or (self.short_password and re.match('-p.', each)):
                raise ConfigError(
                    'stream-arguments: a password: every user can see the arguments '
                    'of a process; put it into an option file, or into the variable '
                    'that the program reads'
                )


_PSQL: Final = (
    *('psql', '--no-psqlrc', '--no-password', '--tuples-only', '--no-align'),
    *('--command=SHOW server_version', '--dbname=postgres'),
)
_MARIADB: Final = (
    *('mariadb', '--batch', '--skip-column-names'),
    '--execute=SELECT VERSION()',
)

PRESETS: Final = {
    preset.name: preset
    for preset in (
        Preset(
            ('mariadb-backup', '--backup', '--stream=mbstream'),
            'mariadb.mbstream',
            server=_MARIADB,
            connection=_MARIADB_CONNECTION,
            short=('-h', '-P', '-S', '-u'),
            unpack=('mbstream', '--extract', f'--directory={TARGET}'),
            prepare=('mariadb-backup', '--prepare', f'--target-dir={TARGET}'),
            short_password=True,
            has_increments=True,
        ),
        Preset(
            (
                *('mariadb-dump', '--single-transaction', '--quick', '--hex-blob'),
                *('--routines', '--events', '--triggers', '--flush-privileges'),
                '--all-databases',
            ),
            'mariadb.sql',
            server=_MARIADB,
            connection=_MARIADB_CONNECTION,
            short=('-h', '-P', '-S', '-u'),
            restore=('mariadb', '--binary-mode'),
            short_password=True,
        ),
        Preset(
            (
                *('pg_basebackup', '--no-password', '--pgdata=-', '--format=tar'),
                *('--wal-method=fetch', '--checkpoint=fast'),
            ),
            'postgres.tar',
            server=_PSQL,
            connection=_PG_CONNECTION,
            short=('-h', '-p', '-U'),
            unpack=('tar', '--extract', f'--directory={TARGET}'),
        ),
        Preset(
            ('pg_dump', '--no-password', '--format=custom', '--compress=0'),
            'postgres.dump',
            server=_PSQL,
            connection=_PG_CONNECTION,
            short=('-h', '-p', '-U'),
            restore=(
                *('pg_restore', '--no-password', '--exit-on-error', '--clean'),
                *('--if-exists', '--create', '--dbname=postgres'),
            ),
        ),
        Preset(
            ('pg_dumpall', '--no-password'),
            'postgres.sql',
            server=_PSQL,
            connection=_PG_CONNECTION,
            short=('-h', '-p', '-U'),
        ),
        Preset(
            ('mongodump', '--archive'),
            'mongodb.archive',
            restore=('mongorestore', '--archive', '--drop'),
        ),
    )
}
assert tuple(PRESETS) == NAMES
