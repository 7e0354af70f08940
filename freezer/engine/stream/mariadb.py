"""Increments of mariadb-backup: the pages that changed since a log sequence number."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from freezer.engine.stream.presets import Preset
from freezer.engine.stream.processes import first_line
from freezer.exceptions import EngineError

LOG = logging.getLogger(__name__)

_CHECKPOINTS: Final = 'xtrabackup_checkpoints'
_LOG_FILE: Final = 'ib_logfile0'
# Creator of the log and where it begins: they stay as they are until it is made anew.
_LOG_HEADER: Final = 512
_STATUS: Final = (
    '(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS '
    "WHERE VARIABLE_NAME = '{}')"
)
_QUERY: Final = (
    f"SELECT CONCAT_WS('\\t', {_STATUS.format('INNODB_LSN_CURRENT')}, "
    f'{_STATUS.format("INNODB_LSN_LAST_CHECKPOINT")}, '
    f'@@datadir, @@innodb_log_group_home_dir)'
)

# Keys of a position.
_LSN: Final = 'lsn'
_SERVER: Final = 'server'
_ARGUMENTS: Final = 'arguments'


class _Server(NamedTuple):
    """What identifies the log of a server, and where it is.

    :ivar log: a digest
    :ivar lsn: log sequence number
    :ivar checkpoint: that of the last checkpoint
    """

    log: str
    lsn: int
    checkpoint: int


class Increments:
    """Those of one server."""

    def __init__(self, preset: Preset, arguments: Sequence[str]) -> None:
        self._preset = preset
        self._arguments = arguments
        self._before: _Server | None = None

    def problem(self, position: dict[str, str]) -> str | None:
        """Why no increment can be made from a position; None if one can."""
        lsn = position.get(_LSN, '')
        if not _is_number(lsn):
            return 'the level below has no log sequence number'
        if position.get(_ARGUMENTS) != self._digest:
            return 'the level below was made with other stream-arguments'
        server = self._server()
        if server is None or server.log != position.get(_SERVER):
            return (
                'the log of this server was made anew, or cannot be read: it is '
                'another server, or it was restored since the level below'
            )
        if server.lsn < int(lsn):
            return (
                f'the log of this server ends at {server.lsn}, before {lsn} of the '
                f'level below: it was restored'
            )
        return None

    @property
    def _digest(self) -> str:
        """Of the arguments: with others, the program may back up other tables."""
        return hashlib.sha256('\0'.join(self._arguments).encode()).hexdigest()

    def options(self, position: dict[str, str] | None, folder: Path) -> list[str]:
        """Options that make a level.

        :param position: of the level below; None for level 0
        :param folder: an empty one for files of the program
        """
        self._before = self._server()
        lsn = [f'--incremental-lsn={position[_LSN]}'] if position else []
        return [f'--target-dir={folder}/data', f'--extra-lsndir={folder}', *lsn]

    def position(self, position: dict[str, str] | None, folder: Path) -> dict[str, str]:
        """Where the level ends that was made with :meth:`options`, with the same
        parameters.

        :raises EngineError: the program did not say, or made another level
        """
        path = folder / _CHECKPOINTS
        try:
            lines = path.read_text().splitlines()
        except (OSError, ValueError) as error:
            raise EngineError(
                f'{self._preset.name} did not write {_CHECKPOINTS}: {error}'
            ) from error
        values = dict(line.split(' = ', 1) for line in lines if ' = ' in line)
        begin, end = values.get('from_lsn', ''), values.get('to_lsn', '')
        asked = position[_LSN] if position else '0'
        if not _is_number(end) or begin != asked or int(end) < int(begin):
            raise EngineError(
                f'{self._preset.name} backed up the changes from {begin!r} to {end!r}, '
                f'not those since {asked}: check its option files'
            )
        log = self._log(int(end))
        return {_LSN: end, _SERVER: log, _ARGUMENTS: self._digest}

    def _log(self, end: int) -> str:
        """The log of the server that was backed up to ``end``; empty if that is not
        known: the next level is level 0."""
        before, after = self._before, self._server()
        if (
            before is None
            or after is None
            or before.log != after.log
            # Of a server with other numbers: the client found another one.
            or not before.checkpoint <= end <= after.lsn
        ):
            LOG.warning(
                'the server that was backed up to %d cannot be identified: the next '
                'backup will be level 0',
                end,
            )
            return ''
        return after.log

    def _server(self) -> _Server | None:
        """None if the log cannot be read."""
        query = ['mariadb', '--batch', '--skip-column-names', f'--execute={_QUERY}']
        line = first_line(self._preset.client(query, self._arguments))
        if line is None:
            return None
        # The client writes a tab of a value as \t.
        parts = line.replace('\\t', '\t').split('\t')
        if len(parts) != 4 or not all(map(_is_number, parts[:2])):
            LOG.warning('mariadb: unexpected answer')
            return None
        lsn, checkpoint, data, logs = parts
        path = os.path.join(data, logs, _LOG_FILE)
        try:
            with open(path, 'rb') as file:
                inode = os.fstat(file.fileno()).st_ino
                header = file.read(_LOG_HEADER)
        except OSError as error:
            LOG.warning('%s: %s', path, error.strerror)
            return None
        log = hashlib.sha256(b'%d ' % inode + header).hexdigest()
        return _Server(log, int(lsn), int(checkpoint))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 21
