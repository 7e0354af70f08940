"""Action check of an FTP server."""

import ftplib

from freezer.storage import remote_probes
from freezer.storage.check import (
    CheckReport,
    CheckRow,
    Finding,
    Probe,
    note,
    ok,
    problem,
)
from freezer.storage.ftp import errors
from freezer.storage.ftp.client import Client
from freezer.storage.ftp.server import FtpServer
from freezer.storage.path_probes import PATH_PROBES
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.remote_probes import LATENCY, RENAME, SPEED, RemoteScratch

# FTP has nothing to synchronize with.
_NOT_HERE = ('sync',)


Scratch = RemoteScratch[FtpServer]


def check(storage: RemotePathStorage[FtpServer]) -> CheckReport:
    """:raises StorageException: there is no login, or nothing can be written"""
    return remote_probes.check(storage, _connection, PROBES)


def _connection(scratch: Scratch) -> CheckRow:
    return CheckRow('encryption', _encryption(scratch))


def _encryption(scratch: Scratch) -> Finding:
    connections = scratch.server.connections
    with connections.use(scratch.storage.location(scratch.folder)) as client:
        if version := client.tls_version:
            return ok(f'{version} for commands and data', version)
    return note(
        'none: anyone between this machine and the server can read the password and '
        'the backups, and change them',
        '--storage ftps',
    )


def _names(scratch: Scratch) -> Finding:
    """Hosts and backups are found by the names of folders."""
    names = 'A b', 'ü'
    for name in names:
        scratch.storage.write_file(scratch.path(f'names/{name}/file'), b'')
    tree = scratch.storage.list_tree(scratch.path('names'))
    found = [path.removesuffix('/file') for path, _size in tree]
    other = ', '.join(set(found).difference(names))
    if names[0] not in found:
        return problem(f'the server changes names: {", ".join(names)} became {other}')
    if names[1] not in found:
        return note(
            f'the server changes names that are not ASCII: {names[1]} became {other}',
            'names of hosts and backups in ASCII',
        )
    return ok('names are listed as they were written')


def _resume(scratch: Scratch) -> Finding:
    """An upload that is continued, as after a broken connection."""
    path = scratch.path('resumed')
    with scratch.server.connections.use(scratch.storage.location(path)) as client:
        wire = scratch.server.wire(path)
        _send(client, f'STOR {wire}', b'0123', 0)
        try:
            way = _continued(client, wire)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            return note(
                f'the server cannot continue a file: {errors.reply(error)}; a backup '
                f'whose connection breaks fails',
            )
    if scratch.storage.read_file(path) != b'01234567':
        return problem('a continued file has the wrong content')
    return ok(f'a file is continued after a broken connection ({way})')


def _continued(client: Client, wire: str) -> str:
    try:
        _send(client, f'STOR {wire}', b'4567', 4)
    except ftplib.error_perm as error:
        if errors.code(error) not in errors.UNKNOWN_CODES:
            raise
        _send(client, f'APPE {wire}', b'4567', 0)
        return 'APPE'
    return 'REST'


def _send(client: Client, command: str, content: bytes, start: int) -> None:
    data = client.transfer(command, start)
    data.send(memoryview(content))
    data.finish()


def _listings(scratch: Scratch) -> Finding:
    if scratch.server.connections.features().machine_lists:
        return ok('MLSD')
    return ok('LIST: sizes and names are read from text for people')


def _durable(_scratch: Scratch) -> Finding:
    return note(
        'FTP cannot synchronize files to disk: what the server confirmed may be lost '
        'if its machine fails soon after the backup',
        '--action verify after such a failure',
    )


#: these need the file of PathScratch.write
PROBES: tuple[Probe[Scratch], ...] = (
    *(probe for probe in PATH_PROBES if probe.name not in _NOT_HERE),
    Probe('names', _names),
    RENAME,
    Probe('resume', _resume, needed=False),
    Probe('listings', _listings, needed=False),
    LATENCY,
    SPEED,
    Probe('durable', _durable, needed=False),
)
