"""The agent's configuration, made from all sources of options.

The first source that sets an option wins: command line, job file (``--config``),
environment (``OS_DEFAULT__<OPTION>``; then what plugins declare, as ACCESS_KEY),
configuration files of oslo.config, defaults. Freezer 19 documented this order, but let
the job file win.
"""

import argparse
import datetime
import math
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from oslo_config import cfg

from freezer.common import (
    checks,
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
from freezer.storage.keep import Rules
from freezer.stream import compression
from freezer.stream.encryption import Passphrase, check_descriptor
from freezer.utils import commands, streams, surroundings
from freezer.utils.paths import absolute

# These actions need no backup name: without one they are about the whole container.
_NAMELESS = ('info', 'check', 'verify', 'exec', 'copy')
# Where the passphrase may come from.
_PASSPHRASES = ('encrypt_pass_file', 'encrypt_pass_command', 'encrypt_pass_fd')
# Commands that run beside an action.
_COMMANDS = (
    *('on_success_command', 'on_failure_command', 'encrypt_pass_command'),
    *('pre_command', 'post_command'),
)


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What the agent has to do. Sizes in bytes, ages in days; 0 is unset.

    :ivar resource: the ID of the resource to back up or restore, of an engine that
        makes one backup for each; empty if it is not known, or if there is none
    :ivar engine_options: key -> value, of what the chosen engine declares; the same for
        mode and snapshot. A plugin that is not installed has none.
    :ivar storages: driver class and settings of each; none for action exec, and in a
        mode whose backups another service stores
    :ivar copy_target: those of the storage that action copy writes to
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
    path_to_backup: tuple[str, ...]
    files_from: tuple[str, ...]
    files_from0: tuple[str, ...]
    backup_name: str
    hostname: str
    restore_abs_path: str | None
    restore_from_date: datetime.datetime | None
    from_date: datetime.datetime | None
    to_date: datetime.datetime | None
    include: tuple[str, ...]
    tag: tuple[str, ...]
    note: str | None
    overwrite: bool
    keep_extra: bool
    mount_point: str | None
    allow_other: bool
    max_restore_size: int
    untrusted: bool
    incremental: bool
    max_level: int
    always_level: int
    restart_always_level: float
    remove_older_than: float
    remove_before_date: datetime.datetime | None
    keep: Rules
    pin: datetime.datetime | None
    unpin: datetime.datetime | None
    compression: str
    encrypt_pass_file: str | None
    encrypt_pass_command: str | None
    encrypt_pass_fd: int | None
    encryption: str | None
    max_segment_size: int
    consistency_check: bool
    consistency_checksum: str | None
    verify_data: bool
    rebuild_index: bool
    long: bool
    last: int | None
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
    on_success_command: str | None
    on_failure_command: str | None
    pre_command: str | None
    post_command: str | None
    hook_timeout: float
    log_file: str
    resource: str
    engine_options: Mapping[str, Any] = field(repr=False)
    mode_options: Mapping[str, Any] = field(repr=False)
    snapshot_options: Mapping[str, Any] = field(repr=False)
    storages: tuple[tuple[Any, StorageSettings], ...]
    copy_to: str | None
    copy_target: tuple[Any, StorageSettings] | None
    copy_parallel: int
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
        below = f'/{self.resource}' if self.resource else ''
        return tuple(Owner(self.hostname, f'{name}{below}') for name in names)

    @property
    def selectors(self) -> Sequence[str]:
        """Keys of the engine's options that select resources; empty if it has none."""
        declared = plugins.options(plugins.ENGINES).get(self.engine_name)
        return declared.selectors if declared else ()

    def names(self, owner: Owner) -> bool:
        """Whether a backup has the name; or that of one of its resources, if the
        options do not choose one."""
        below = bool(self.selectors and not self.resource)
        return owner in self.owners or (
            below
            and any(
                owner.hostname == each.hostname
                and owner.backup_name.startswith(f'{each.backup_name}/')
                for each in self.owners
            )
        )

    def names_identity(self, identity: str) -> bool:
        """The same by the name of the folder."""
        below = bool(self.selectors and not self.resource)
        return identity in self.identities or (
            below and any(identity.startswith(f'{each}/') for each in self.identities)
        )

    @property
    def selects_one(self) -> bool:
        """Whether the options select one source, and not any number of resources."""
        by_name = self.selectors and self.engine_options[self.selectors[1]]
        return not self.selectors or bool(self.resource or by_name)

    def of_resource(self, resource: str) -> 'AgentConfig':
        """The same for one of the resources that the options select."""
        return replace(self, resource=resource)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the mode is one whose backups another service makes and stores."""
        declared = plugins.options(plugins.MODES).get(self.mode)
        return bool(declared and declared.elsewhere)

    @property
    def backup_media(self) -> str:
        """A word of Freezer 19 for the kind of source."""
        kind, name = plugins.ENGINES, self.engine_name
        if self.is_elsewhere:
            kind, name = plugins.MODES, self.mode
        declared = plugins.options(kind).get(name)
        return declared.media if declared else 'fs'

    @property
    def one_path(self) -> str | None:
        """``path_to_backup``, if that is one path."""
        paths = self.path_to_backup
        return paths[0] if len(paths) == 1 else None

    @property
    def lists_paths(self) -> bool:
        """Whether files list the paths to back up."""
        return bool(self.files_from or self.files_from0)

    @property
    def passphrase(self) -> Passphrase | None:
        given = Passphrase(
            self.encrypt_pass_file or None,
            self.encrypt_pass_command or None,
            self.encrypt_pass_fd,
        )
        return given if given != Passphrase() else None

    @property
    def reported_name(self) -> str:
        """The backup name, for reports; empty if the action covers all backups."""
        if self.action in _NAMELESS and 'backup_name' not in self.given:
            return ''
        return self.fill_in(self.backup_name)

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
            'backup_media': self.backup_media,
            'storage': self.storage,
            'container': self.container,
            'project_id': self.engine_options.get('project_id') or '',
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
    _choose_engine(conf)
    _apply_environment(conf, environ)
    parsing.refuse_control_characters(conf, opts.every_option())
    opts.refuse_unavailable(conf)
    values = _values(conf)
    values['log_file'] = logs.location(conf, 'freezer.log')
    values['storages'] = storages.chosen(conf, values, job)
    values['copy_target'] = storages.copy_target(values, job)
    for driver, settings in storages.all_of(values):
        if getattr(driver, 'needs_utf8', False):
            checks.check_utf8(settings, values)
    if any(settings.name for _driver, settings in values['storages']):
        values['storage'] = 'multiple'
    values['restore_args'], values['restore_secrets'] = restore_command.arguments(
        conf, values, job, pinned
    )
    secrets = tuple(secret_files.find(conf, values, job))
    values['warnings'] = (
        *secret_files.warnings(secrets),
        *config_files.warnings(conf, opts.every_option()),
        *_without_effect(conf, values),
    )
    named = (job.path if job else '', *config_files.paths(conf), *secrets)
    read = [absolute(path) for path in named if path]
    own_files.check(values, read)
    set_up_log(conf)
    written = (values['log_file'], values['metrics_file'] or '')
    values['own_files'] = (
        *read,
        *(absolute(path) for path in written if path),
    )
    return AgentConfig(**values)


def _without_effect(conf: cfg.ConfigOpts, values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each option of this run that only another engine, mode or snapshot
    than the chosen ones knows. Configuration files may serve several jobs."""
    of_run = (cfg.Locations.command_line, cfg.Locations.set_override)
    known = {
        (group, option.dest)
        for kind, dest in _CHOSEN_BY.items()
        for _key, group, option in plugins.options(kind).get(values[dest], ())
    }
    for kind, dest in _CHOSEN_BY.items():
        chosen = values[dest]
        if kind == plugins.STORAGES or chosen == upstream.AUTO:
            # Each section of a job file has a storage of its own.
            continue
        for name, declared in plugins.options(kind).items():
            for _key, group, option in declared:
                source = parsing.source(conf, option.dest, group)
                if (group, option.dest) in known or source not in of_run:
                    continue
                if parsing.value(conf, option.dest, group) != option.default:
                    word = plugins.KINDS[kind]
                    yield (
                        f'{parsing.shown(group, option.name)} has no effect with '
                        f'{word} {chosen or "none"}: it belongs to {word} {name}'
                    )


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


def _choose_engine(conf: cfg.ConfigOpts) -> None:
    """Replace the engine of a job of Freezer 19 by the one that does its work here."""
    if conf.engine_name == upstream.OSBRICK:
        # Freezer 19 needs one, and ignores it.
        conf.set_override('path_to_backup', [])
    engine = plugins.engine_of(conf.mode, conf.engine_name)
    if engine != conf.engine_name:
        conf.set_override('engine_name', engine)


def _apply_environment(conf: cfg.ConfigOpts, environ: Mapping[str, str]) -> None:
    """Apply the variables of the chosen plugins; they override configuration files. And
    those of oslo.config for options with several values, one a line: it would take each
    character for a value."""
    for each in job_options.keys_of(conf).values():
        variable = f'OS_{(each.group or "default").upper()}__{each.dest.upper()}'
        lines = environ.get(variable) if each.many else None
        if lines and (
            parsing.source(conf, each.dest, each.group) is cfg.Locations.environment
        ):
            job_options.override(conf, each, lines, variable)
    weaker = (
        # Of an option without a default.
        None,
        *(cfg.Locations.opt_default, cfg.Locations.user, cfg.Locations.set_default),
    )
    for kind, dest in _CHOSEN_BY.items():
        name = (
            conf[dest] if kind != plugins.SNAPSHOTS else opts.snapshot_name(conf[dest])
        )
        for declared in plugins.chosen(kind, name).values():
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
    values['keep'] = _keep_rules(conf)
    if values['pin'] and values['unpin']:
        raise ConfigError('pin and unpin: pass one of them')
    if parsing.value(conf, 'json'):
        if values['metadata_out'] not in (None, '-'):
            raise ConfigError('json and metadata-out: pass one of them')
        values['metadata_out'] = '-'
    if values['overwrite'] and values['keep_extra']:
        raise ConfigError('overwrite and keep-extra: pass one of them')
    values['storage'] = values['storage'] or ''
    values['snapshot'] = _snapshot(conf)
    declared = plugins.options(plugins.ENGINES).get(values['engine_name'])
    if declared and declared.stored_as:
        values['engine_name'] = declared.stored_as
    for kind, dest in _CHOSEN_BY.items():
        if kind != plugins.STORAGES:
            values[f'{plugins.KINDS[kind]}_options'] = storages.plugin_options(
                conf, kind, values[dest]
            )
    values['resource'] = _resource(conf, values)
    _check_mode_options(conf, values['mode'])
    values['include'] = tuple(values['include'])
    for name in ('path_to_backup', 'files_from', 'files_from0'):
        values[name] = tuple(dict.fromkeys(filter(None, values[name])))
    values['tag'] = tuple(dict.fromkeys(values['tag']))
    checks.check_labels(values['tag'], values['note'] or '')
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
        checks.check_path_part(name, values[name])
    compression.check_available(values['compression'])
    _check_passphrase(values)
    for name in _COMMANDS:
        if values[name]:
            commands.split(name.replace('_', '-'), values[name])
    if values['proxy']:
        checks.check_proxy(values['proxy'])
    if values['metadata_out'] not in (None, '', '-') and surroundings.is_checked():
        checks.check_metadata_out(values['metadata_out'])
    return values


def _snapshot(conf: cfg.ConfigOpts) -> str | None:
    """The snapshot that is chosen: by name, or by an option that only one has.

    :raises ConfigError: an option belongs to one that is not chosen
    """
    chosen = opts.snapshot_name(conf.snapshot)
    for name, declared in plugins.options(plugins.SNAPSHOTS).items():
        given = [key for key in declared.exclusive if parsing.value(conf, key)]
        if not given or chosen == name or conf.action != 'backup':
            continue
        if chosen != upstream.AUTO:
            raise ConfigError(
                f'{given[0].replace("_", "-")} belongs to snapshot {name}: add '
                f'--snapshot {name}'
            )
        chosen = name
    return chosen


def _resource(conf: cfg.ConfigOpts, values: Mapping[str, Any]) -> str:
    """:raises ConfigError: an option is for an engine that is not the chosen one; or
    several options select a resource; or its ID cannot be a part of a path"""
    engine, resource = values['engine_name'], ''
    for name, declared in plugins.options(plugins.ENGINES).items():
        given = [key for key in declared.selectors if parsing.value(conf, key)]
        flags = [key.replace('_', '-') for key in given]
        others = [key for key in declared.exclusive if parsing.value(conf, key)]
        if (given or others) and name != engine:
            first = next(iter((*given, *others))).replace('_', '-')
            raise ConfigError(f'{first} belongs to engine {name}: add --engine {name}')
        if len(given) > 1:
            raise ConfigError(f'{flags[0]} and {flags[1]}: pass one of them')
        if given and given[0] == declared.selectors[0]:
            resource = str(values['engine_options'][given[0]])
            checks.check_path_part(given[0], resource)
    return resource


def _check_mode_options(conf: cfg.ConfigOpts, mode: str) -> None:
    """:raises ConfigError: an option is for a mode that is not the chosen one"""
    for name, declared in plugins.options(plugins.MODES).items():
        given = [key for key in declared.exclusive if parsing.value(conf, key)]
        if given and name != mode:
            raise ConfigError(
                f'{given[0].replace("_", "-")} belongs to mode {name}: add --mode '
                f'{name}'
            )


def _check_passphrase(values: Mapping[str, Any]) -> None:
    """:raises ConfigError: there are several passphrases, or encryption has none"""
    given = [
        name.replace('_', '-')
        for name in _PASSPHRASES
        if values[name] not in (None, '')
    ]
    if len(given) > 1:
        raise ConfigError(f'{given[0]} and {given[1]}: pass one of them')
    if values['encryption'] and not given:
        raise ConfigError(
            '--encryption needs a passphrase: add --encrypt-pass-file FILE (job file: '
            'encrypt_pass_file)'
        )
    if values['encrypt_pass_fd'] is not None and surroundings.is_checked():
        check_descriptor(values['encrypt_pass_fd'])


def _keep_rules(conf: cfg.ConfigOpts) -> Rules:
    """:raises ConfigError: keep options are given, and all are 0"""
    given = {
        each.name: parsing.value(conf, f'keep_{each.name}') for each in fields(Rules)
    }
    rules = Rules(**{name: value or 0 for name, value in given.items()})
    named = [f'keep-{name}' for name, value in given.items() if value is not None]
    if named and not rules:
        raise ConfigError(
            f'{", ".join(named)}: 0 would keep nothing: give one keep option more '
            f'than 0'
        )
    return rules
