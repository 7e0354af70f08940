"""The arguments with which another command finds the same storage and its backups."""

import shlex
from collections.abc import Container, Mapping
from typing import Any

from oslo_config import cfg

from freezer.common import jobfile, opts, parsing, plugins

# The agent's options that a restore needs as the backup had them.
_NEEDED = (
    *('storage', 'container', 'engine_name', 'encrypt_pass_file', 'proxy'),
    *('encrypt_pass_command', 'encrypt_pass_fd', 'insecure'),
)


def arguments(
    conf: cfg.ConfigOpts,
    values: Mapping[str, Any],
    job: jobfile.JobFile | None,
    pinned: Container[tuple[str | None, str]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``restore_args`` and ``restore_secrets`` of AgentConfig.

    Options in a job file are not repeated, unless the file disappears with its process.
    """
    if not values['storages']:
        return (), ()
    kept = job is not None and not job.path.startswith(('/dev/', '/proc/'))
    several = values['storage'] == 'multiple'
    if several and not kept:
        return (), ()
    words = [f'--config {shlex.quote(job.path)}'] if job is not None and kept else []
    for name in ('config_file', 'config_dir'):
        if parsing.source(conf, name) is cfg.Locations.command_line:
            flag = f'--{name.replace("_", "-")}'
            words += [f'{flag} {shlex.quote(path)}' for path in conf[name]]
    given: list[tuple[str | None, Any, Any]] = [
        (None, option, values[option.dest])
        for option in opts.AGENT_OPTS
        if option.dest in _NEEDED
    ]
    if not several:
        ((_driver, settings),) = values['storages']
        given += [
            (group, option, settings.options[key])
            for key, group, option in plugins.options(plugins.STORAGES)[
                values['storage']
            ]
        ]
    secrets = []
    for group, option, value in given:
        if kept and (group, option.dest) not in pinned:
            continue
        # 0 is standard input, not no descriptor.
        is_number = option.dest == 'encrypt_pass_fd' and value is not None
        if not value and not isinstance(option, cfg.BoolOpt) and not is_number:
            continue
        if value == option.default:
            continue
        name = f'{group}-{option.name}' if group else option.name
        # A descriptor is of this run, and the URL of a proxy may hold a password.
        if option.secret or is_number or (option.dest == 'proxy' and '@' in value):
            secrets.append(name)
        else:
            words.append(_argument(group, option, value))
    return tuple(words), tuple(secrets)


def _argument(group: str | None, option: Any, value: Any) -> str:
    """An option as it is written on the command line, for a shell."""
    prefix = f'--{group}-' if group else '--'
    if isinstance(option, cfg.BoolOpt):
        return f'{prefix}{"" if value else "no"}{option.name}'
    text = ','.join(value) if isinstance(value, list) else str(value)
    return f'{prefix}{option.name} {shlex.quote(text)}'
