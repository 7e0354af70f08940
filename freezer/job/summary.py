"""The summary of a backup or restore: lines for people, figures for programs."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from freezer.common.config import AgentConfig
from freezer.engine.engine import LeftOut, Source
from freezer.job.job import MAX_LISTED, iso
from freezer.storage.backup import Backup
from freezer.utils import human
from freezer.utils.progress import Progress

# Paths that are not in the backup and are shown; the log has all.
_FEW = 5
#: the directory, below the current one, that the suggested command restores into
TARGET = 'restored'


def figures(progress: Progress) -> dict[str, Any]:
    """The figures of a finished run. Bytes, and seconds.

    ``bytes_read``: the archive, uncompressed; ``bytes_stored``: the same archive on the
    storage, without the small files beside it.
    """
    return {
        'bytes_read': progress.archive_bytes,
        'bytes_stored': progress.stored_bytes,
        'files': progress.files,
        'duration_seconds': round(progress.seconds, 3),
        'retries': progress.retries,
        'warnings': progress.warnings,
        'incomplete': progress.incomplete,
    }


def of_backup(
    config: AgentConfig,
    source: Source,
    progress: Progress,
    backup: Backup,
    warnings: Sequence[str],
    left_out: LeftOut,
    restores_to_path: bool,
) -> list[str]:
    """The lines about a committed backup.

    :param warnings: the engine's first ones
    :param restores_to_path: whether a restore needs a directory
    """
    return [
        f'Backed up {source.label} as level {backup.level} of '
        f'{backup.hostname_backup_name}, {iso(backup.timestamp)}',
        *([f'  Paths:     relative to {source.top}'] if source.top else []),
        *(f'  To:        {place}' for place in _places(config)),
        f'  Read:      {_content(progress)}, {_speed(progress)}',
        f'  Stored:    {_stored(progress)}',
        *_left_out(config, left_out),
        *_incomplete(progress),
        *_rest(config, progress, warnings),
        *_how_to_restore(config, backup, restores_to_path),
    ]


def of_restore(
    config: AgentConfig, progress: Progress, head: str, warnings: Sequence[str]
) -> list[str]:
    """The lines about a finished restore.

    :param head: the first line
    """
    return [
        head,
        *(f'  From:      {place}' for place in _places(config)),
        f'  Received:  {human.size(progress.stored_bytes)}',
        f'  Written:   {_content(progress)}, {_speed(progress)}',
        *_rest(config, progress, warnings),
    ]


def _places(config: AgentConfig) -> Iterator[str]:
    for driver, settings in config.storages:
        name = f'[storage:{settings.name}] ' if settings.name else ''
        endpoint = settings.options.get('endpoint')
        yield (
            f'{name}{driver._type} {settings.container}'
            + (f' at {endpoint}' if endpoint else '')
        )


def _content(progress: Progress) -> str:
    size = human.size(progress.archive_bytes)
    if progress.files is None:
        return size
    return f'{size}, {human.number(progress.files, "file")}'


def _speed(progress: Progress) -> str:
    seconds = progress.seconds
    return f'{human.duration(seconds)}, {human.speed(progress.archive_bytes, seconds)}'


def _stored(progress: Progress) -> str:
    size = human.size(progress.stored_bytes)
    if not progress.stored_bytes:
        return size
    return f'{size}, ratio {progress.archive_bytes / progress.stored_bytes:.2f}'


def _left_out(config: AgentConfig, left_out: LeftOut) -> Iterator[str]:
    """How many paths are not in the backup, and the first of them."""
    total = sum(left_out.counts.values())
    if not total:
        return
    counts = ', '.join(f'{count} {why}' for why, count in left_out.counts.items())
    yield f'  Left out:  {human.number(total, "path")} ({counts})'
    for _reason, path in left_out.kept[:_FEW]:
        yield f'    {path}'
    if total > _FEW:
        yield f'    … see {config.log_file}'


def _incomplete(progress: Progress) -> Iterator[str]:
    if progress.incomplete:
        count = human.number(progress.incomplete, 'read error')
        yield f'  Incomplete: {count}, see below; the next backup tries again'


def _rest(
    config: AgentConfig, progress: Progress, warnings: Sequence[str]
) -> Iterator[str]:
    if progress.retries:
        yield f'  Retries:   {human.number(progress.retries, "request")} repeated'
    if progress.warnings:
        yield f'  Warnings:  {progress.warnings}'
    shown = [*progress.notices, *warnings][:MAX_LISTED]
    yield from (f'Warning: {text}' for text in shown)
    if progress.warnings > MAX_LISTED:
        yield f'Warning: {progress.warnings} warnings in total; see {config.log_file}'


def _how_to_restore(
    config: AgentConfig, backup: Backup, restores_to_path: bool
) -> Iterator[str]:
    """The command that restores this state on any machine, ready to copy: one line,
    however long."""
    if not config.restore_args:
        return
    keys = ' and '.join(config.restore_secrets)
    words = [
        *('freezer-agent', '--action restore'),
        *((f'--restore-abs-path {TARGET}',) if restores_to_path else ()),
        *config.restore_args,
        f'--hostname {shlex.quote(config.hostname)}',
        f'--backup-name {shlex.quote(config.owners[0].backup_name)}',
        f'--restore-from-date {iso(backup.timestamp)}',
    ]
    title = f'Restore, with the same {keys}: ' if keys else 'Restore:   '
    yield f'  {title}{" ".join(words)}'
