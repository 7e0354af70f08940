"""Rejects a run that would overwrite what it reads."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from freezer.common import storages
from freezer.exceptions import ConfigError
from freezer.storage import layout
from freezer.utils.paths import absolute
from freezer.utils.tree import is_within


def check(values: Mapping[str, Any], read: Iterable[str]) -> None:
    """Check the files that a run writes. Must precede the first line of the log.

    :param values: fields of AgentConfig
    :param read: files that the run reads
    :raises ConfigError: one is a file that the run reads, is among the backups, or is
        written twice; or the run backs up or overwrites its own container
    """
    written = dict(_written(values))
    sources = _sources(values)
    kept = [*read, *sources]
    for what, path in written.items():
        if any(_is_same(path, file) for file in kept):
            raise ConfigError(f'{what} {path}: this run reads that file: give another')
    _refuse_twice(written)
    _refuse_beside_restored(values, written)
    for driver, settings in storages.all_of(values):
        for container in driver.local_paths(settings):
            for source in sources:
                if _is_same(source, container):
                    raise ConfigError(
                        f'path-to-backup {source}: is the container itself: back up '
                        f'another directory, or into another container'
                    )
                _refuse_among_backups('path-to-backup', source, container)
            for what, path in written.items():
                _refuse_among_backups(what, path, container)


def _written(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The option and the path of each file that the run writes."""
    if values['log_file']:
        yield 'log-file', os.path.abspath(values['log_file'])
    if values['metadata_out'] not in (None, '', '-'):
        yield 'metadata-out', os.path.abspath(values['metadata_out'])
    if values['metrics_file']:
        yield 'metrics-file', absolute(values['metrics_file'])
    try:
        if stat.S_ISREG(os.fstat(1).st_mode):
            yield 'standard output', os.readlink('/proc/self/fd/1')
    except OSError:
        # It is closed, or there is no /proc.
        return


def _sources(values: Mapping[str, Any]) -> list[str]:
    """The paths that are backed up."""
    if values['action'] != 'backup':
        return []
    return [absolute(path) for path in values['path_to_backup']]


def _refuse_twice(written: Mapping[str, str]) -> None:
    # Standard output and the log may be one file: lines are appended to both.
    named = [each for each in written.items() if each[0] != 'standard output']
    for number, (what, path) in enumerate(named):
        for other, same in named[:number]:
            if _is_same(path, same):
                raise ConfigError(f'{what} and {other} are one file: {path}')


def _refuse_beside_restored(
    values: Mapping[str, Any], written: Mapping[str, str]
) -> None:
    if values['action'] != 'restore' or not values['restore_abs_path']:
        return
    target = absolute(values['restore_abs_path'])
    # Everything is below the root directory.
    if os.path.realpath(target) == '/':
        return
    # Not the metrics, which a configuration file may place below /var.
    out = written.get('metadata-out')
    if out is not None and is_within(out, target):
        raise ConfigError(
            f'metadata-out {out}: is in restore-abs-path {target}, and could overwrite '
            f'a restored file: write it elsewhere'
        )


def _refuse_among_backups(what: str, path: str, container: str) -> None:
    for folder in _folders(container):
        # Or a directory of the container that has backups.
        holds = is_within(path, container) and is_within(folder, path)
        if holds or is_within(path, folder):
            raise ConfigError(
                f'{what} {path}: is among the backups in container {container}: give '
                f'another path'
            )


def _folders(container: str) -> Iterator[str]:
    """The directories of a container that hold backups. The container may have other
    files, in a directory ``data``, too."""
    with contextlib.suppress(OSError):
        for engine in os.listdir(os.path.join(container, layout.METADATA)):
            for kind in (layout.DATA, layout.METADATA):
                yield os.path.join(container, kind, engine)


def _is_same(one: str, other: str) -> bool:
    """Whether two paths are one file or directory, also under another name. A terminal,
    a pipe or ``/dev/null`` may be used for several things."""
    try:
        kind = os.stat(one).st_mode
        same = os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
    return same and (stat.S_ISREG(kind) or stat.S_ISDIR(kind))
