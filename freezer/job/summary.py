"""The summary of a backup or restore: lines for people, figures for programs."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from freezer.common.config import AgentConfig
from freezer.engine.engine import LeftOut
from freezer.job.job import MAX_LISTED, iso
from freezer.storage.backup import Backup
from freezer.utils import human
from freezer.utils.progress import Progress

_WIDTH = 80
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
    progress: Progress,
    backup: Backup,
    warnings: Sequence[str],
    left_out: LeftOut,
) -> list[str]:
    """The lines about a committed backup.

    :param warnings: the engine's first ones
    """
    return [
        f'Backed up {config.path_to_backup} as level {backup.level} of '
        f'{backup.hostname_backup_name}, {iso(backup.timestamp)}',
        *(f'  To:        {place}' for place in _places(config)),
        f'  Read:      {_content(progress)}',
        f'  Stored:    {_stored(progress)}',
        *_left_out(config, left_out),
        *_incomplete(progress),
        *_rest(config, progress, warnings),
        # A chain is restored in the same way at each level.
        *(_how_to_restore(config, backup) if config.long or not backup.level else ()),
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
        f'  Written:   {_content(progress)}',
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
    seconds = progress.seconds
    yield (
        f'  Took:      {human.duration(seconds)}, '
        f'{human.speed(progress.archive_bytes, seconds)}'
    )
    if progress.retries:
        yield f'  Retries:   {human.number(progress.retries, "request")} repeated'
    if progress.warnings:
        yield f'  Warnings:  {progress.warnings}'
    shown = [*progress.notices, *warnings][:MAX_LISTED]
    yield from (f'Warning: {text}' for text in shown)
    if progress.warnings > MAX_LISTED:
        yield f'Warning: {progress.warnings} warnings in total; see {config.log_file}'


def _how_to_restore(config: AgentConfig, backup: Backup) -> Iterator[str]:
    """The command that restores this state on any machine, ready to copy."""
    if not config.restore_args:
        return
    keys = ' and '.join(config.restore_secrets)
    yield (
        f'To restore it into ./{TARGET}'
        + (f', with the same {keys}' if keys else '')
        + ':'
    )
    words = [
        *('freezer-agent', '--action restore', f'--restore-abs-path {TARGET}'),
        *config.restore_args,
        f'--hostname {shlex.quote(config.hostname)}',
        f'--backup-name {shlex.quote(config.fill_in(config.backup_name))}',
        f'--restore-from-date {iso(backup.timestamp)}',
    ]
    line = '  '
    for word in words:
        if len(line) + len(word) > _WIDTH - 2 and line.strip():
            yield f'{line}\\'
            line = '      '
        line += f'{word} '
    yield line.rstrip()
