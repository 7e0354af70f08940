"""MariaDB and MySQL: writes wait while the snapshot is made."""

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.mode.data_files import (
    AtRest,
    check_holds,
    check_one_device,
    check_used,
    check_whole,
    is_locked,
)
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.mode.mysql_options import MysqlOptions
from freezer.utils.text import NOTICES
from freezer.utils.tree import is_within

if TYPE_CHECKING:
    from freezer.mode.mysql_server import MysqlServer

# A running server has a lock on these.
_LOCKED = ('ibdata1', 'aria_log_control', 'mysql.ibd')


class MysqlMode(Mode):
    """Holds a lock until the snapshot exists, or the source was read.

    InnoDB writes into its files under any lock. A snapshot is as after a crash, and it
    recovers. Without one, a file may be older in the archive than the redo log assumes.
    Then the mode waits until no file is written, and at the end compares.

    :param path: of the backup
    :param snapshot: whether a snapshot of it is read
    """

    name = 'mysql'
    release_when = Release.AFTER_SNAPSHOT

    def __init__(self, path: str, options: MysqlOptions, *, snapshot: bool) -> None:
        self._path = path
        self._options = options
        self._snapshot = snapshot
        self._server: MysqlServer | None = None
        self._locked = False
        self._at_rest: AtRest | None = None
        self._facts: dict[str, str | int] = {}

    @classmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        if settings.path is None:
            raise ConfigError(
                'mode mysql needs one --path-to-backup: the data directory of the '
                'server'
            )
        check_whole(settings)
        options = MysqlOptions.parse(settings.options)
        if not settings.snapshot and not options.lock_during_backup:
            raise ConfigError(
                'mode mysql needs --snapshot; or add --mysql-lock-during-backup, which '
                'blocks all writes until the backup has been read'
            )
        if settings.snapshot and options.lock_during_backup:
            raise ConfigError(
                'mysql-lock-during-backup is for backups without --snapshot: pass one '
                'of them'
            )
        if importlib.util.find_spec('pymysql') is None:
            raise ConfigError(
                "mode mysql needs the package PyMySQL: pip install 'freezer[mysql]'"
            )
        return cls(settings.path, options, snapshot=settings.snapshot)

    @classmethod
    def check_target(cls, target: str) -> None:
        # The target may be a database of a server, or hold the data of one.
        folders = [target, *map(str, Path(os.path.abspath(target)).parents)]
        with contextlib.suppress(OSError), os.scandir(target) as entries:
            folders += [each.path for each in entries if each.is_dir()]
        for folder in folders:
            if any(is_locked(os.path.join(folder, name)) for name in _LOCKED):
                raise RestoreError(
                    f'a running server uses {folder}: stop it before the restore, or '
                    f'restore into another directory'
                )

    def _connect(self) -> 'MysqlServer':
        from freezer.mode.mysql_server import MysqlServer

        return MysqlServer(self._options)

    def validate(self) -> None:
        with contextlib.closing(self._connect()) as server:
            label = str(self._options)
            data = server.data_directory()
            check_holds(self._path, data, label)
            folders = {data}
            for variable, folder in server.directories():
                if not is_within(folder, self._path):
                    raise ConfigError(
                        f'{variable} of {label} is {folder}, which path-to-backup '
                        f'{self._path} does not hold: back up a directory that holds '
                        f'both'
                    )
                folders.add(folder)
            check_one_device(folders, self._path, snapshot=self._snapshot)
            holders = (data, *folders)
            check_used(
                [os.path.join(d, name) for d in holders for name in _LOCKED], label
            )
            server.check_privilege()
            logs = server.binary_logs()
            if logs is not None and not is_within(logs, self._path):
                NOTICES.warning(
                    'The binary logs of %s in %s are not in the backup', label, logs
                )
            if logs is not None and not server.may_see_logs():
                NOTICES.warning(
                    'The backup does not record the position of the binary log: user '
                    '%r lacks the privilege BINLOG MONITOR (MySQL: REPLICATION CLIENT)',
                    self._options.user,
                )

    def prepare(self) -> None:
        self._server = server = self._connect()
        server.lock(files_rest=not self._snapshot)
        self._locked = True
        if not self._snapshot:
            NOTICES.warning(
                'Writes to %s are blocked until the backup has been read and sent',
                self._options,
            )
        self._facts = server.facts(with_position=server.may_see_logs())
        if not self._snapshot:
            folder = os.path.realpath(server.data_directory())
            self._at_rest = AtRest(folder, server.own_logs())
            timeout = self._options.rest_timeout
            if changed := self._at_rest.wait(timeout):
                raise FreezerError(
                    f'{changed[0]} was still written {timeout} s after the lock: use '
                    f'--snapshot, or raise --mysql-rest-timeout'
                )

    def facts(self) -> Mapping[str, str | int]:
        return self._facts

    def release(self) -> None:
        if self._server is None:
            return
        try:
            if self._locked:
                changed = self._at_rest.changed() if self._at_rest else ()
                self._server.unlock()
                if changed:
                    raise FreezerError(
                        f'{changed[0]} was written while the backup read it, in spite '
                        f'of the lock: use --snapshot'
                    )
        finally:
            # That releases the lock, whatever happened.
            self._server.close()
            self._server, self._locked, self._at_rest = None, False, None
