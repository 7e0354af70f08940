"""The backups of an engine that makes one for each resource, under one backup name."""

from collections.abc import Sequence

from freezer.common.config import AgentConfig
from freezer.exceptions import RestoreError
from freezer.job.job import Job, shortened
from freezer.storage.backup import Owner
from freezer.storage.levels import fetch_markers, readable_marker


def config_of_one(job: Job) -> AgentConfig:
    """The configuration with the ID of the resource, if the options have only its name,
    or neither and there is one backup.

    :raises RestoreError: there are several, or none of that name
    """
    config = job.config
    if not config.selectors or config.resource:
        return config
    name = config.engine_options[config.selectors[1]]
    names = _stored(job)
    chosen = [each for each in names if not name or names[each] == name]
    flag = f'--{config.selectors[0].replace("_", "-")}'
    if len(chosen) > 1:
        listed = shortened(f'{each} ({names[each]})' for each in sorted(chosen))
        raise RestoreError(f'pass {flag} with one of {listed}')
    if name and not chosen:
        raise RestoreError(
            f'no backup of {name!r} in {config.backup_name!r} of host '
            f'{config.hostname}: pass {flag}; --action info lists the backups'
        )
    return config.of_resource(chosen[0]) if chosen else config


def owners(job: Job) -> Sequence[Owner]:
    """Host and backup name of all backups that the options select."""
    config = job.config
    if not config.selectors or config.resource:
        return config.owners
    below = [
        owner
        for resource in sorted(_stored(job))
        for owner in config.of_resource(resource).owners
    ]
    return [*config.owners, *below]


def _stored(job: Job) -> dict[str, str | None]:
    """ID -> last name, of the resources that have a backup; None if no marker that can
    be read has one."""
    config = job.config
    levels = {
        stored: stored.backup.hostname_backup_name.removeprefix(f'{identity}/')
        for stored in job.repository.committed()
        for identity in config.identities
        if stored.backup.engine == config.engine_name
        and stored.backup.hostname_backup_name.startswith(f'{identity}/')
    }
    fetch_markers(levels)
    names: dict[str, str | None] = {}
    for stored in sorted(levels, key=lambda stored: stored.timestamp):
        names.setdefault(levels[stored], None)
        if (marker := readable_marker(stored)) is not None:
            names[levels[stored]] = job.engine.resource_name(marker)
    return names
