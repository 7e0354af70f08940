"""Prepares what is backed up: mode and snapshot."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from freezer.common import plugins
from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError, FreezerError
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings
from freezer.utils import signals

LOG = logging.getLogger(__name__)


def mode_of(config: AgentConfig) -> Mode:
    """:raises ConfigError: it is not available, or its options are wrong"""
    mode: type[Mode] = plugins.load(plugins.MODES, 'mode', config.mode)
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
        if not config.path_to_backup:
            raise ConfigError('--snapshot needs --path-to-backup')
        snapshot.validate(config.path_to_backup)


@contextlib.contextmanager
def at_rest(
    mode: Mode, snapshot: Snapshot | None, path: str | None
) -> Iterator[tuple[str | None, int]]:
    """A block that reads the source.

    Whatever is raised, also by a signal: ``release`` follows an attempt to prepare,
    ``remove`` one to create, once each, and in this order.

    :yields: the path to read, and the time of the data in epoch nanoseconds; without a
        snapshot ``path`` itself, and now
    """
    with contextlib.ExitStack() as removal, contextlib.ExitStack() as release:
        release.callback(_undo, mode.release)
        mode.prepare()
        view, taken = path, time.time_ns()
        if snapshot is not None:
            assert path is not None
            for name in snapshot.remove_leftovers(path):
                LOG.warning('removed the snapshot %s of a run that died', name)
            removal.callback(_undo, snapshot.remove)
            view, taken = snapshot.create(path)
            if mode.release_when is Release.AFTER_SNAPSHOT:
                release.close()
        yield view, taken


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
