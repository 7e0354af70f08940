"""Freezer 19.0.0 and this agent on one directory of an FTP server."""

import os
from pathlib import Path

from freezer.tests.agent import Agent, FtpStore
from freezer.tests.compat.upstream import Upstream, lost_by_upstream
from freezer.tests.servers.ftpd import Pyftpd


def test_we_restore_what_freezer_19_stored(
    freezer19: Path, pyftpd: Pyftpd, tmp_path: Path
) -> None:
    """It makes backups of level 0 only, and its restores do not end."""
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('a', 'b c'):
        (source / name).write_bytes(os.urandom(100_000))
    store = FtpStore(pyftpd, tmp_path / 'backups')
    Upstream(freezer19, store).backup(source).check()
    target = tmp_path / 'target'
    Agent(store).restore(target).check()
    assert lost_by_upstream(source, target) == []
