"""What is backed up: files at rest, in a mode, and perhaps in a snapshot."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from freezer.common import plugins
from freezer.common.config import AgentConfig
from freezer.exceptions import FreezerError
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView
from freezer.utils import signals

LOG = logging.getLogger(__name__)


def mode_of(config: AgentConfig) -> Mode:
    """:raises ConfigError: it is not available, or its options are wrong"""
    mode: type[Mode] = plugins.load(plugins.MODES, 'mode', config.mode)
    assert config.path_to_backup is not None
    return mode.from_settings(ModeSettings(config.path_to_backup, config.mode_options))


def snapshot_of(config: AgentConfig) -> Snapshot | None:
    """:raises ConfigError: it is not available, or its options are wrong"""
    if config.snapshot is None:
        return None
    snapshot: type[Snapshot] = plugins.load(
        plugins.SNAPSHOTS, 'snapshot', config.snapshot
    )
    return snapshot.from_settings(SnapshotSettings(config.snapshot_options))


def validate(config: AgentConfig) -> None:
    """:raises FreezerError: mode or snapshot cannot do their part"""
    mode_of(config).validate()
    snapshot = snapshot_of(config)
    if snapshot is not None:
        assert config.path_to_backup is not None
        snapshot.validate(config.path_to_backup)


@contextlib.contextmanager
def at_rest(mode: Mode, snapshot: Snapshot | None, path: str) -> Iterator[SnapshotView]:
    """A block that reads the files.

    Whatever is raised, also by a signal: ``release`` follows an attempt to prepare,
    ``remove`` one to create, once each, and in this order.

    :yields: where to read, and the time of the data; without a snapshot the path itself
    """
    with contextlib.ExitStack() as removal, contextlib.ExitStack() as release:
        release.callback(_undo, mode.release)
        mode.prepare()
        view = SnapshotView(path, time.time_ns())
        if snapshot is not None:
            for name in snapshot.remove_leftovers(path):
                LOG.warning('removed the snapshot %s of a run that died', name)
            removal.callback(_undo, snapshot.remove)
            view = snapshot.create(path)
            if mode.release_when is Release.AFTER_SNAPSHOT:
                release.close()
        yield view


def _undo(step: Callable[[], None]) -> None:
    failed = sys.exception() is not None
    try:
        step()
    except signals.Interrupted:
        # Later signals are ignored, so this time it ends.
        step()
        raise
    except FreezerError as error:
        if not failed:
            raise
        # The first error is the one to report.
        LOG.error('%s', error)
