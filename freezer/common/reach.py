"""How another command leads to the same storage, and opens its backups."""

import shlex
from collections.abc import Container, Mapping
from typing import Any

from oslo_config import cfg

from freezer.common import jobfile
from freezer.common.opts import declared_options, driver_options

# Of the main ones, those that a restore needs to be told as the backup was.
_REACH = (
    *('storage', 'container', 'engine_name', 'encrypt_pass_file', 'proxy'),
    'insecure',
)


def reach(
    conf: cfg.ConfigOpts,
    values: Mapping[str, Any],
    job: jobfile.JobFile | None,
    pinned: Container[tuple[str | None, str]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``reach`` and ``reach_keys`` of :class:`freezer.common.config.AgentConfig`.

    What is in a job file is not repeated, but for one that is gone with its process.
    """
    if not values['storages']:
        return (), ()
    kept = job is not None and not job.path.startswith(('/dev/', '/proc/'))
    if values['storage'] == 'multiple' and not kept:
        return (), ()
    words = [f'--config {shlex.quote(job.path)}'] if job is not None and kept else []
    for name in ('config_file', 'config_dir'):
        location = conf.get_location(name)
        if location and location.location is cfg.Locations.command_line:
            flag = f'--{name.replace("_", "-")}'
            words += [f'{flag} {shlex.quote(path)}' for path in conf[name]]
    given: list[tuple[str | None, Any, Any]] = [
        (None, option, values[option.dest])
        for option in declared_options()[None]
        if option.dest in _REACH
    ]
    if values['storage'] != 'multiple':
        ((driver, settings),) = values['storages']
        given += [
            (group, option, settings.options[key])
            for key, group, option in driver_options(driver)
        ]
    keys = []
    for group, option, value in given:
        if kept and (group, option.dest) not in pinned:
            continue
        if not value and not isinstance(option, cfg.BoolOpt):
            continue
        if value == option.default:
            continue
        name = f'{group}-{option.name}' if group else option.name
        # The URL of a proxy may hold a password.
        if option.secret or (option.dest == 'proxy' and '@' in value):
            keys.append(name)
        else:
            words.append(_argument(group, option, value))
    return tuple(words), tuple(keys)


def _argument(group: str | None, option: Any, value: Any) -> str:
    """An option as it is written on the command line, for a shell."""
    prefix = f'--{group}-' if group else '--'
    if isinstance(option, cfg.BoolOpt):
        return f'{prefix}{"" if value else "no"}{option.name}'
    text = ','.join(value) if isinstance(value, list) else str(value)
    return f'{prefix}{option.name} {shlex.quote(text)}'
