"""Mode and snapshot around the reading of a source."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from freezer.common import plugins
from freezer.common.config import AgentConfig
from freezer.exceptions import FreezerError
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings
from freezer.utils import signals

LOG = logging.getLogger(__name__)


def load_mode(config: AgentConfig) -> Mode:
    """:raises ConfigError: it is not available, or its options are wrong"""
    mode: type[Mode] = plugins.load(plugins.MODES, 'mode', config.mode)
    return mode.from_settings(ModeSettings(config.path_to_backup, config.mode_options))


def load_snapshot(config: AgentConfig) -> Snapshot | None:
    """:raises ConfigError: it is not available, or its options are wrong"""
    if config.snapshot is None:
        return None
    snapshot: type[Snapshot] = plugins.load(
        plugins.SNAPSHOTS, 'snapshot', config.snapshot
    )
    return snapshot.from_settings(SnapshotSettings(config.snapshot_options))


@contextlib.contextmanager
def at_rest(
    mode: Mode, snapshot: Snapshot | None, path: str | None
) -> Iterator[tuple[str | None, int]]:
    """A block that reads the source while it does not change.

    Whatever is raised, also by a signal: ``release`` is called once after ``prepare``,
    and ``remove`` once after ``create``, in this order.

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
                LOG.warning('removed the snapshot %s of a run that was killed', name)
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
        # Later signals are ignored, so this attempt is not interrupted.
        step()
        raise
    except FreezerError as error:
        if not failed:
            raise
        # The first error is the one to report.
        LOG.error('%s', error)
