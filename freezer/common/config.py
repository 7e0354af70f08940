"""The agent's configuration, made from all sources of options.

The first source that sets an option wins: command line, job file (``--config``),
environment (``OS_DEFAULT__<OPTION>``; then what plugins declare, as ACCESS_KEY),
configuration files of oslo.config, defaults. Freezer 19 documented this order, but let
the job file win.
"""

import argparse
import datetime
import math
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlsplit

from oslo_config import cfg

from freezer.common import (
    config_files,
    job_options,
    jobfile,
    logs,
    opts,
    own_files,
    parsing,
    plugins,
    restore_command,
    secret_files,
    storages,
    upstream,
    usage,
)
from freezer.exceptions import ConfigError
from freezer.storage.backup import Owner
from freezer.storage.base import StorageSettings
from freezer.stream import compression
from freezer.utils import streams, surroundings, trusted
from freezer.utils.text import control_character


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What the agent has to do. Sizes in bytes, ages in days; 0 is unset.

    :ivar engine_options: key -> value, of what the chosen engine declares; the same for
        mode and snapshot. A plugin that is not installed has none.
    :ivar storages: driver class and settings of each; none for action exec
    :ivar given: which of backup_name and hostname were set
    :ivar own_files: files that this run uses on this machine: configuration, keys, log
    :ivar warnings: a line for each file with secrets that others can read, and for each
        key of a configuration file that has no effect
    :ivar restore_args: arguments, quoted for a shell, with which another action finds
        the same storage and opens its backups; none where no command line can do that
    :ivar restore_secrets: the secret options that have to be given with them
    """

    action: str
    mode: str
    engine_name: str
    snapshot: str | None
    storage: str
    container: str
    path_to_backup: str | None
    backup_name: str
    hostname: str
    restore_abs_path: str | None
    restore_from_date: datetime.datetime | None
    from_date: datetime.datetime | None
    to_date: datetime.datetime | None
    include: tuple[str, ...]
    overwrite: bool
    keep_extra: bool
    max_restore_size: int
    untrusted: bool
    incremental: bool
    max_level: int
    always_level: int
    restart_always_level: float
    remove_older_than: float
    remove_before_date: datetime.datetime | None
    compression: str
    encrypt_pass_file: str | None
    encryption: str | None
    max_segment_size: int
    consistency_check: bool
    consistency_checksum: str | None
    verify_data: bool
    rebuild_index: bool
    long: bool
    dry_run: bool
    sync: bool
    allow_incomplete: bool
    metadata_out: str | None
    metrics_file: str | None
    quiet: bool
    max_priority: str | None
    proxy: str | None
    insecure: bool
    upload_limit: int
    download_limit: int
    command: str | None
    log_file: str
    engine_options: Mapping[str, Any] = field(repr=False)
    mode_options: Mapping[str, Any] = field(repr=False)
    snapshot_options: Mapping[str, Any] = field(repr=False)
    storages: tuple[tuple[Any, StorageSettings], ...]
    given: frozenset[str]
    own_files: tuple[str, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = ()
    restore_args: tuple[str, ...] = field(default=(), compare=False)
    restore_secrets: tuple[str, ...] = field(default=(), compare=False)

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Host and backup name as backups have them: the one to write, then older ones.

        Freezer 19 did not replace the variables in paths.
        """
        filled = self.fill_in(self.backup_name)
        names = dict.fromkeys((filled, self.backup_name))
        return tuple(Owner(self.hostname, name) for name in names)

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(owner.identity for owner in self.owners)

    def name_on(self, hostname: str) -> str:
        """The backup name on another host: the host name may be a part of it."""
        return replace(self, hostname=hostname).fill_in(self.backup_name)

    def other_hosts(self, identities: Iterable[str]) -> list[str]:
        """The hosts that have a backup of the same name, sorted."""
        found = set()
        for identity in identities:
            # Where a host name has an underscore, nothing says where it ends.
            parts = identity.split('_')
            for end in range(1, len(parts)):
                host = '_'.join(parts[:end])
                if '_'.join(parts[end:]) == self.name_on(host):
                    found.add(host)
        return sorted(found - {self.hostname})

    def fill_in(self, template: str) -> str:
        """A name with its variables replaced; slashes in a value would be folders."""
        values = {
            'mode': self.mode,
            'backup_media': 'fs',
            'storage': self.storage,
            'container': self.container,
            'project_id': '',
            'resource_id': self.hostname,
        }
        return re.sub(
            '{(' + '|'.join(values) + ')}',
            lambda match: values[match[1]].replace('/', '_'),
            template,
        )


def load(argv: Sequence[str], environ: Mapping[str, str]) -> AgentConfig:
    """Read every source, set up logging, and check what can be checked without work.

    :raises ConfigError: an option is unknown, malformed, missing, or not available
    :raises SystemExit: --help was given (0), no argument (1), or an unknown one (2)
    """
    if usage.wanted(argv) or not argv:
        streams.show(usage.text(opts.help_usage()))
        raise SystemExit(0 if argv else 1)
    return _load(argv, environ, None, lambda conf: logs.set_up(conf, 'freezer.log'))


def load_job(
    job: jobfile.JobFile, argv: Sequence[str], environ: Mapping[str, str]
) -> AgentConfig:
    """As :func:`load`, with this job file; nothing is written, and there is no log."""
    return _load(argv, environ, job, lambda _conf: None)


def _load(
    argv: Sequence[str],
    environ: Mapping[str, str],
    job: jobfile.JobFile | None,
    set_up_log: Callable[[cfg.ConfigOpts], object],
) -> AgentConfig:
    conf = opts.declare()
    parsing.parse(conf, argv, opts.help_usage(), opts.declared_options(), use_env=True)
    pinned = _pin_command_line(conf, argv)
    if job is None and conf.config:
        job = jobfile.read(conf.config)
    if job is not None:
        job_options.apply(conf, job, pinned)
    _apply_environment(conf, environ)
    parsing.refuse_control_characters(conf, opts.every_option())
    opts.refuse_unavailable(conf)
    values = _values(conf)
    values['log_file'] = logs.location(conf, 'freezer.log')
    values['storages'] = storages.chosen(conf, values, job)
    for driver, settings in values['storages']:
        if getattr(driver, 'needs_utf8', False):
            _check_utf8(settings, values)
    if job is not None and job.storages:
        values['storage'] = 'multiple'
    values['restore_args'], values['restore_secrets'] = restore_command.arguments(
        conf, values, job, pinned
    )
    secrets = tuple(secret_files.find(conf, values, job))
    values['warnings'] = (
        *secret_files.warnings(secrets),
        *config_files.warnings(conf, opts.every_option()),
    )
    named = (job.path if job else '', *config_files.paths(conf), *secrets)
    read = [os.path.abspath(os.path.expanduser(path)) for path in named if path]
    own_files.check(values, read)
    set_up_log(conf)
    written = (values['log_file'], values['metrics_file'] or '')
    values['own_files'] = (
        *read,
        *(os.path.abspath(os.path.expanduser(path)) for path in written if path),
    )
    return AgentConfig(**values)


def _pin_command_line(
    conf: cfg.ConfigOpts, argv: Sequence[str]
) -> set[tuple[str | None, str]]:
    """Give the command line precedence; returns (group, dest) of each option on it.

    For oslo.config, an option in a configuration file comes from there even if the
    command line has it too, and the environment would override both.
    """
    alone = conf
    if conf.config_file or conf.config_dir:
        alone = _without_files(argv)
    pinned = set()
    for key in job_options.keys_of(conf).values():
        try:
            source = parsing.source(alone, key.dest, key.group)
        except (cfg.Error, ValueError):
            # Malformed in the environment: reading the value reports it.
            continue
        if source is cfg.Locations.command_line:
            pinned.add((key.group, key.dest))
            if alone is not conf:
                value = alone[key.group][key.dest] if key.group else alone[key.dest]
                conf.set_override(key.dest, _literal(value), key.group)
    return pinned


def _without_files(argv: Sequence[str]) -> cfg.ConfigOpts:
    """The command line, parsed again without the files it names."""
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument('--config-file', action='append')
    files.add_argument('--config-dir', action='append')
    _files, others = files.parse_known_args(list(argv))
    return opts.parse_alone(others)


def _literal(value: Any) -> Any:
    """parsing.literal of a value of any type."""
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return parsing.literal(value) if isinstance(value, str) else value


def _apply_environment(conf: cfg.ConfigOpts, environ: Mapping[str, str]) -> None:
    """Apply the variables of the chosen plugins; they override configuration files."""
    weaker = (cfg.Locations.opt_default, cfg.Locations.user, cfg.Locations.set_default)
    for kind, dest in _CHOSEN_BY.items():
        declared = plugins.options(kind).get(conf[dest])
        if declared is None:
            continue
        for key, group, option in declared:
            variable = declared.environment.get(key, '')
            text = environ.get(variable)
            if text and parsing.source(conf, option.dest, group) in weaker:
                target = job_options.Key(
                    option.dest, group, secret=option.secret, option=option
                )
                job_options.override(conf, target, text, variable)


# The option that chooses each plugin.
_CHOSEN_BY = {
    plugins.STORAGES: 'storage',
    plugins.ENGINES: 'engine_name',
    plugins.MODES: 'mode',
    plugins.SNAPSHOTS: 'snapshot',
}


def _values(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Every field of AgentConfig that is an option, checked."""
    names = {field.name for field in fields(AgentConfig)} & set(conf)
    values = {name: parsing.value(conf, name) for name in names}
    old_date = parsing.value(conf, 'remove_from_date')
    if old_date and values['remove_before_date']:
        raise ConfigError(
            'remove-from-date is the old name of remove-before-date: pass one of them'
        )
    values['remove_before_date'] = values['remove_before_date'] or old_date
    if parsing.value(conf, 'json'):
        if values['metadata_out'] not in (None, '-'):
            raise ConfigError('json and metadata-out: pass one of them')
        values['metadata_out'] = '-'
    if values['overwrite'] and values['keep_extra']:
        raise ConfigError('overwrite and keep-extra: pass one of them')
    values['storage'] = values['storage'] or ''
    if upstream.is_unset(False, str(values['snapshot'])):
        values['snapshot'] = None
    for kind, dest in _CHOSEN_BY.items():
        if kind != plugins.STORAGES:
            values[f'{plugins.KINDS[kind]}_options'] = storages.plugin_options(
                conf, kind, values[dest]
            )
    values['include'] = tuple(values['include'])
    values['given'] = frozenset(
        name
        for name in ('backup_name', 'hostname')
        if values[name] and parsing.source(conf, name) is not cfg.Locations.opt_default
    )
    values['hostname'] = values['hostname'] or socket.gethostname()
    for name in ('max_level', 'always_level', 'restart_always_level'):
        values[name] = values[name] or 0
    values['remove_older_than'] = values['remove_older_than'] or 0.0
    for name in ('restart_always_level', 'remove_older_than'):
        if not math.isfinite(values[name]):
            raise ConfigError(
                f'{name.replace("_", "-")}: not a number of days: write 30, or 0.5'
            )
    for name in ('hostname', 'backup_name'):
        _check_path_part(name, values[name])
    compression.check_available(values['compression'])
    if values['encryption'] and not values['encrypt_pass_file']:
        raise ConfigError(
            '--encryption needs a passphrase: add --encrypt-pass-file FILE (job file: '
            'encrypt_pass_file)'
        )
    if values['proxy']:
        _check_proxy(values['proxy'])
    if values['metadata_out'] not in (None, '', '-') and surroundings.is_checked():
        _check_metadata_out(values['metadata_out'])
    return values


def _check_path_part(name: str, value: str) -> None:
    if found := control_character(value):
        # The host name of the machine, which is no option.
        raise ConfigError(f'{name.replace("_", "-")}: contains {found}: set another')
    parts = value.split('/')
    if '..' in parts or '.' in parts or '' in parts:
        raise ConfigError(
            f'{name.replace("_", "-")} {value!r}: becomes part of a path: remove empty '
            f'parts, "." and ".."'
        )


def _check_utf8(settings: StorageSettings, values: Mapping[str, Any]) -> None:
    """:raises ConfigError: a name is not UTF-8, and its storage has no other names"""
    where = f'{settings.section}: ' if settings.name else ''
    names = {
        f'{where}container': settings.container,
        **{
            name.replace('_', '-'): values[name] for name in ('hostname', 'backup_name')
        },
    }
    for name, value in names.items():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f'{name} {value!r}: not UTF-8, which names on this storage must be: '
                f'choose another'
            ) from error


def _check_proxy(proxy: str) -> None:
    try:
        parts = urlsplit(proxy)
        parts.port  # noqa: B018 - raises where it is not a number
        good = parts.scheme in ('http', 'https') and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        # Neither the value nor the reason: they may contain a password.
        raise ConfigError(
            'proxy: must be a URL that starts with http:// or https://, as in '
            'http://proxy.example.com:3128'
        )


def _check_metadata_out(path: str) -> None:
    """Check whether the file can be written, without writing it."""
    folder = os.path.dirname(path) or '.'
    if os.path.isdir(path):
        reason = 'is a directory'
    elif not os.path.isdir(folder):
        reason = f'there is no directory {folder}'
    elif not os.access(path if os.path.lexists(path) else folder, os.W_OK):
        reason = 'cannot be written'
    else:
        try:
            trusted.check(path)
            return
        except OSError as error:
            reason = error.strerror or str(error)
    raise ConfigError(f'metadata-out {path}: {reason}')
