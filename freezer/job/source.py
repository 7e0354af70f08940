"""Mode and snapshot around the reading of a source."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from freezer.common import plugins, upstream
from freezer.common.config import AgentConfig
from freezer.exceptions import FreezerError
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView
from freezer.utils import signals

LOG = logging.getLogger(__name__)


def load_mode(config: AgentConfig) -> Mode:
    """:raises ConfigError: it is not available, or its options are wrong"""
    mode: type[Mode] = plugins.load(plugins.MODES, 'mode', config.mode)
    return mode.from_settings(
        ModeSettings(
            config.one_path,
            config.mode_options,
            config.snapshot is not None,
            _leaves_out(config),
        )
    )


def _leaves_out(config: AgentConfig) -> str:
    if config.lists_paths:
        return 'files-from'
    # The engines' options with this prefix.
    given = [k for k, value in config.engine_options.items() if value]
    return next((k.replace('_', '-') for k in given if k.startswith('exclude')), '')


def check_target(config: AgentConfig, target: str) -> None:
    """:raises RestoreError: the application of the mode uses the files of a target"""
    mode: type[Mode] = plugins.load(plugins.MODES, 'mode', config.mode)
    mode.check_target(target)


def load_snapshots(config: AgentConfig) -> list[Snapshot]:
    """The snapshot of ``--snapshot``; with ``auto``, one of each kind; none without.

    :raises ConfigError: it is not available, or its options are wrong
    """
    if config.snapshot is None:
        return []
    settings = SnapshotSettings(config.snapshot_options)
    names = (
        plugins.names(plugins.SNAPSHOTS)
        if config.snapshot == upstream.AUTO
        else [config.snapshot]
    )
    kinds: list[type[Snapshot]] = [
        plugins.load(plugins.SNAPSHOTS, 'snapshot', name) for name in names
    ]
    return [kind.from_settings(settings) for kind in kinds]


def choose_snapshot(snapshots: Sequence[Snapshot], path: str) -> Snapshot:
    """The one that fits a path.

    :param snapshots: of :func:`load_snapshots`, at least one
    :raises FreezerError: none does
    """
    if len(snapshots) == 1:
        return snapshots[0]
    problems = []
    for each in snapshots:
        problem = each.path_problem(path)
        if problem is None:
            LOG.info('--snapshot auto: %s for %s', each.name, path)
            return each
        problems.append(f'{each.name}: {problem}')
    raise FreezerError(
        f'--snapshot auto: none can be made of {path} ({"; ".join(problems)}): choose '
        f'--snapshot none to back up the files as they are'
    )


class AtRest(NamedTuple):
    """A source that does not change.

    :ivar view: of the snapshot; None without one
    :ivar taken: the time of the data in epoch nanoseconds
    :ivar was_read: to be called when the source was read, before the commit: the
        snapshot is checked, and the application goes on. It raises a FreezerError if
        the source may have changed.
    """

    view: SnapshotView | None
    taken: int
    was_read: Callable[[], None]


@contextlib.contextmanager
def at_rest(
    mode: Mode, snapshot: Snapshot | None, path: str | None
) -> Iterator[AtRest]:
    """A block that reads the source while it does not change.

    Whatever is raised, also by a signal: ``release`` is called once after ``prepare``,
    and ``remove`` once after ``create``, in this order.

    An error in the block that the snapshot explains, because it became invalid, is
    raised as that of its ``check``.
    """
    with contextlib.ExitStack() as removal, contextlib.ExitStack() as release:
        release.callback(_undo, mode.release)
        mode.prepare()
        view: SnapshotView | None = None
        taken = time.time_ns()
        if snapshot is not None:
            assert path is not None
            for name in snapshot.remove_leftovers(path):
                LOG.warning('removed the snapshot %s of a run that was killed', name)
            removal.callback(_undo, snapshot.remove)
            view = snapshot.create(path)
            taken = view.time_ns
            if mode.release_when is Release.AFTER_SNAPSHOT:
                release.close()

        def was_read() -> None:
            if snapshot is not None:
                snapshot.check()
            release.close()

        try:
            yield AtRest(view, taken, was_read)
        except FreezerError as error:
            if snapshot is not None:
                _explain(snapshot, error)
            raise


def _explain(snapshot: Snapshot, error: FreezerError) -> None:
    try:
        snapshot.check()
    except FreezerError as reason:
        raise reason from error


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
