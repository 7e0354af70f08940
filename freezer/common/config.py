"""The one configuration object, made from all sources of options.

Sources, the first one wins: command line, job file (``--config``), environment
(``OS_DEFAULT__<OPTION>``, and ACCESS_KEY, SECRET_KEY and ENDPOINT), oslo configuration
files, defaults. Freezer 19 promised this order, and let the job file win.
"""

import argparse
import contextlib
import datetime
import io
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from oslo_config import cfg
from oslo_log import log

from freezer.common import exposed, jobfile, plugins, reach, upstream, usage
from freezer.common.opts import declared_options, driver_options, help_usage
from freezer.exceptions import ConfigError
from freezer.storage.base import StorageSettings
from freezer.stream import compression
from freezer.utils.text import NOTICES

PROG = 'freezer-agent'
WORK_DIR = '~/.freezer'
_TEMPLATE = re.compile(
    r'\{(mode|backup_media|storage|container|project_id|resource_id)\}'
)
# Environment variables of Freezer's own, for the options of storage s3.
_ENVIRONMENT = {
    'access_key': 'ACCESS_KEY',
    'secret_key': 'SECRET_KEY',
    'endpoint': 'ENDPOINT',
}


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What the agent was asked to do. Sizes in bytes, ages in days; 0 is unset."""

    action: str
    mode: str
    engine_name: str
    storage: str
    container: str
    path_to_backup: str | None
    backup_name: str
    hostname: str
    restore_abs_path: str | None
    restore_from_date: datetime.datetime | None
    include: tuple[str, ...]
    overwrite: bool
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
    dereference_symlink: str
    exclude: tuple[str, ...]
    max_segment_size: int
    consistency_check: bool
    consistency_checksum: str | None
    verify_data: bool
    long: bool
    dry_run: bool
    sync: bool
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
    storages: tuple[tuple[Any, StorageSettings], ...]
    #: of backup_name and hostname, those that were not left to their defaults
    given: frozenset[str]
    #: a line for each file with secrets that others can read
    exposed: tuple[str, ...] = ()
    #: arguments, quoted for a shell, that lead another action to the same storage, and
    #: open its backups; none where no command line can do that
    reach: tuple[str, ...] = field(default=(), compare=False)
    #: the secret options that have to be given beside them
    reach_keys: tuple[str, ...] = field(default=(), compare=False)

    @property
    def identities(self) -> tuple[str, ...]:
        """What backups are found by: the one to write, then older spellings.

        Freezer 19 did not fill in the template in paths.
        """
        filled = self.fill_in(self.backup_name)
        names = dict.fromkeys((filled, self.backup_name))
        return tuple(f'{self.hostname}_{name}' for name in names)

    def fill_in(self, template: str) -> str:
        """A name with its variables; a value's slashes would be folders."""
        values = {
            'mode': self.mode,
            'backup_media': 'fs',
            'storage': self.storage,
            'container': self.container,
            'project_id': '',
            'resource_id': self.hostname,
        }
        return _TEMPLATE.sub(lambda m: values[m[1]].replace('/', '_'), template)


def load(argv: Sequence[str], environ: Mapping[str, str]) -> AgentConfig:
    """Read every source, set up logging, and check what can be checked without work.

    :raises ConfigError: an option is unknown, malformed, missing, or not to be had
    :raises SystemExit: --help was asked for (0), no argument (1), or an unknown one (2)
    """
    if usage.wanted(argv) or not argv:
        sys.stdout.write(usage.text(help_usage()))
        raise SystemExit(0 if argv else 1)
    conf = _declare()
    _parse(conf, argv)
    pinned = _pin_command_line(conf, argv)
    job = jobfile.read(conf.config) if conf.config else None
    if job is not None:
        _apply_job_file(conf, job, pinned)
    _apply_environment(conf, environ)
    _refuse_unavailable(conf)
    values = _values(conf)
    values['log_file'] = _set_up_logging(conf)
    values['storage'] = values['storage'] or ''
    values['storages'] = _storages(conf, values, job)
    if job is not None and job.storages:
        values['storage'] = 'multiple'
    values['reach'], values['reach_keys'] = reach.reach(conf, values, job, pinned)
    values['exposed'] = tuple(exposed.warnings(_secret_files(conf, values, job)))
    return AgentConfig(**values)


def _declare() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    for group, options in declared_options().items():
        conf.register_cli_opts(options, group=group)
    conf.register_cli_opts(upstream.OPTIONS)
    return conf


def _parse(conf: cfg.ConfigOpts, argv: Sequence[str]) -> None:
    """oslo.config's parser, with its usage of a hundred lines turned into one."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            conf(
                [_literal(argument) for argument in argv],
                project='freezer',
                prog=PROG,
                use_env=True,
            )
    except SystemExit as stop:
        text = said.getvalue().strip().rpartition('error: ')[2]
        if stop.code == 2:
            sys.stderr.write(f'{PROG}: {_without_values(text)}; see --help\n')
        elif stop.code != 0:  # oslo.config 9 ends with None, which is 0
            raise ConfigError(_plainly(text)) from stop
        raise
    except cfg.Error as error:
        raise ConfigError(_one_line(error)) from error


def _pin_command_line(
    conf: cfg.ConfigOpts, argv: Sequence[str]
) -> set[tuple[str | None, str]]:
    """Make what the command line sets win; (group, dest) of each.

    An option that is in a configuration file as well oslo.config takes for one of the
    file, and the environment would win over the command line.
    """
    alone = conf
    if conf.config_file or conf.config_dir:
        alone = _without_files(argv)
    pinned = set()
    for key in _job_keys(conf).values():
        try:
            source = _source(alone, key.dest, key.group)
        except (cfg.Error, ValueError):
            # Malformed in the environment; who asks for the value will say so.
            continue
        if source is cfg.Locations.command_line:
            pinned.add((key.group, key.dest))
            if alone is not conf:
                value = alone[key.group][key.dest] if key.group else alone[key.dest]
                conf.set_override(key.dest, _as_it_is(value), key.group)
    return pinned


def _without_files(argv: Sequence[str]) -> cfg.ConfigOpts:
    """The command line, read once more, and nothing else."""
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument('--config-file', action='append')
    files.add_argument('--config-dir', action='append')
    _files, others = files.parse_known_args(list(argv))
    alone = _declare()
    alone(
        [_literal(argument) for argument in others],
        project='freezer',
        prog=PROG,
        default_config_files=[],
        default_config_dirs=[],
        use_env=False,
    )
    return alone


def _literal(value: str) -> str:
    """A value in which oslo.config, which fills in ``$option``, finds nothing to do."""
    return value.replace('$', '$$')


def _as_it_is(value: Any) -> Any:
    """The same of a value that has been read."""
    if isinstance(value, list):
        return [_as_it_is(item) for item in value]
    return _literal(value) if isinstance(value, str) else value


_RAW_NAME = re.compile(r'^argument (--\w+)')


def _plainly(text: str) -> str:
    """``argument --max_level: Invalid Integer value: q``, in words.

    oslo.config names an option by its dest, and shows its types as they are built.
    """
    name, _, problem = _RAW_NAME.sub(_option_name, text).partition(': ')
    choices = re.match(r'Invalid String\(choices=\[(.*)\]\) value: (.*)', problem)
    if choices:
        return f'{name}: {choices[2]} is not one of {choices[1].replace(chr(39), "")}'
    return f'{name}: {problem}'


def _option_name(match: re.Match[str]) -> str:
    """As it is written on the command line: with its group."""
    dest = match[1].removeprefix('--')
    for group, options in declared_options().items():
        if group and any(option.dest == dest for option in options):
            dest = f'{group}-{dest}'
    return f'--{dest.replace("_", "-")}'


def _without_values(text: str) -> str:
    """argparse repeats what it does not know, and that may be a secret."""
    _said, found, rest = text.partition('unrecognized arguments: ')
    if not found:
        return text
    names = [word.partition('=')[0] for word in rest.split() if word.startswith('-')]
    if not names:
        return 'an argument belongs to no option'
    return f'unknown argument {" ".join(names)}'


_FILES = {'config', 'config_file', 'config_dir'}


class _Key(NamedTuple):
    """What a key of a job file stands for."""

    dest: str
    group: str | None
    flag: bool = False
    many: bool = False
    secret: bool = False


def _apply_job_file(
    conf: cfg.ConfigOpts, job: jobfile.JobFile, pinned: set[tuple[str | None, str]]
) -> None:
    """Override all that the command line did not set."""
    known = _job_keys(conf)
    for section in job.main:
        for name, value in section.values.items():
            where = f'config {job.path}, [{section.name}]'
            if name not in known:
                raise ConfigError(f'{where}: {name} is not an option of this agent')
            key = known[name]
            if _is_unset(key.flag, value) or (key.group, key.dest) in pinned:
                continue
            _override(conf, key, value, f'{where}, {name}')


def _job_keys(conf: cfg.ConfigOpts) -> dict[str, _Key]:
    """By the option's name and, where it differs, by its dest (engine, engine_name)."""
    keys: dict[str, _Key] = {}
    declared = declared_options()
    declared[None] += upstream.OPTIONS
    for group, options in declared.items():
        prefix = f'{group}_' if group else ''
        for option in options:
            keys[prefix + option.name.replace('-', '_')] = keys[
                prefix + option.dest
            ] = _Key(
                option.dest,
                group,
                isinstance(option, cfg.BoolOpt),
                isinstance(option, cfg.MultiStrOpt),
                option.secret,
            )
    # oslo.log's own: it does not say publicly which they are. Which files are read is
    # settled when this one is.
    for name in _FILES:
        keys.pop(name, None)
    for dest in set(conf) - set(keys) - _FILES:
        keys[dest] = _Key(dest, None, isinstance(conf[dest], bool))
    return keys


class JobKeys:
    """What may stand in a job file, for one who writes it.

    Looks at each key by itself: what is wrong only in company (an option that needs
    another) the agent says when it runs.
    """

    def __init__(self) -> None:
        self._conf = _without_files([])
        self._keys = _job_keys(self._conf)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def is_secret(self, key: str) -> bool:
        return key in self._keys and self._keys[key].secret

    def takes_lines(self, key: str) -> bool:
        """Whether its value may be several, one a line."""
        return key in self._keys and self._keys[key].many

    def check(self, name: str, value: str) -> None:
        """:raises ConfigError: the agent would refuse this, in its main part"""
        if name not in self._keys:
            raise ConfigError('not an option of the agent')
        key = self._keys[name]
        if _is_unset(key.flag, value):
            return
        _override(self._conf, key, value, 'agent')
        try:
            _refuse_unavailable(self._conf)
        finally:
            self._conf.clear_override(key.dest, key.group)

    def check_storage(self, name: str, values: Mapping[str, str]) -> None:
        """:raises ConfigError: the agent would refuse this ``[storage:NAME]``"""
        section = jobfile.Section(jobfile.STORAGE_PREFIX + name, dict(values))
        for_all = {'max_segment_size': 1, 'insecure': False, 'proxy': None}
        _section_storage('job', section, for_all)


def _is_unset(flag: bool, value: str) -> bool:
    """False and None on an option that is no flag once became the number 0, or the text
    'False' (and a backup of nothing, or the deletion of everything)."""
    return value in ('', 'None') if flag else value in upstream.UNSET


def _source(conf: cfg.ConfigOpts, dest: str, group: str | None = None) -> Any:
    location = conf.get_location(dest, group)
    return location.location if location else None


def _override(conf: cfg.ConfigOpts, key: _Key, value: str, where: str) -> None:
    value = _literal(value)
    given: Any = [line for line in value.splitlines() if line] if key.many else value
    try:
        conf.set_override(key.dest, given, key.group)
    except ValueError as error:
        reason = 'not of the right form' if key.secret else str(error)
        raise ConfigError(f'{where}: {reason}') from error


def _apply_environment(conf: cfg.ConfigOpts, environ: Mapping[str, str]) -> None:
    """Freezer's own variables count as environment: above configuration files."""
    weaker = (cfg.Locations.opt_default, cfg.Locations.user, cfg.Locations.set_default)
    if conf.storage != 's3':
        return
    for dest, variable in _ENVIRONMENT.items():
        if environ.get(variable) and _source(conf, dest) in weaker:
            conf.set_override(dest, _literal(environ[variable]))


def _refuse_unavailable(conf: cfg.ConfigOpts) -> None:
    for option in upstream.OPTIONS:
        if upstream.is_set(option, conf[option.dest], conf.container):
            raise ConfigError(
                f'--{option.name} is set, and this agent does not have that option of '
                f"Freezer's yet"
            )


def _values(conf: cfg.ConfigOpts) -> dict[str, Any]:
    """Every field of AgentConfig that is an option, checked."""
    names = {field.name for field in fields(AgentConfig)} & set(conf)
    values = {name: _value(conf, name) for name in names}
    old_date = _value(conf, 'remove_from_date')
    if old_date and values['remove_before_date']:
        raise ConfigError(
            'remove-from-date is the old name of remove-before-date: give one of them'
        )
    values['remove_before_date'] = values['remove_before_date'] or old_date
    if _value(conf, 'json'):
        if values['metadata_out'] not in (None, '-'):
            raise ConfigError('json and metadata-out: give one of them')
        values['metadata_out'] = '-'
    values['exclude'] = tuple(values['exclude'])
    values['include'] = tuple(values['include'])
    values['given'] = frozenset(
        name
        for name in ('backup_name', 'hostname')
        if values[name] and _source(conf, name) is not cfg.Locations.opt_default
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
            'encryption: says how, and needs the passphrase: give --encrypt-pass-file, '
            'or encrypt_pass_file in the job file'
        )
    if values['proxy']:
        _check_proxy(values['proxy'])
    if values['metadata_out'] not in (None, '', '-'):
        _check_metadata_out(values['metadata_out'])
    return values


def _value(conf: cfg.ConfigOpts, name: str, group: str | None = None) -> Any:
    """One option's value; a malformed one in the environment shows only here."""
    shown = (f'{group}-{name}' if group else name).replace('_', '-')
    try:
        return conf[group][name] if group else conf[name]
    except (cfg.TemplateSubstitutionError, cfg.NoSuchOptError) as error:
        raise ConfigError(
            f'{shown}: in the environment and in configuration files '
            f'$ stands for the value of another option: write $$ for a $'
        ) from error
    except (cfg.Error, ValueError) as error:
        # oslo.config: "Value for option X from LocationInfo(…, detail='Y') is not
        # valid: Z"; asking it for the location raises the same again.
        text = _one_line(error)
        source = re.search(r"detail='([^']*)'", text)
        reason = text.rpartition('is not valid: ')[2]
        where = f'{source[1]}: ' if source else ''
        raise ConfigError(f'{where}{shown}: {reason}') from error


def _check_path_part(name: str, value: str) -> None:
    parts = value.split('/')
    if '..' in parts or '.' in parts or '' in parts or '\0' in value:
        raise ConfigError(
            f'{name.replace("_", "-")} {value!r}: becomes part of a path, and must not '
            f'have empty parts, "." or ".."'
        )


def _check_proxy(proxy: str) -> None:
    try:
        parts = urlsplit(proxy)
        parts.port  # noqa: B018 - raises where it is not a number
        good = parts.scheme in ('http', 'https') and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        # Not repeated, nor why: it may hold a password.
        raise ConfigError(
            'proxy: must be a URL that starts with http:// or https://, as in '
            'http://proxy.example.com:3128'
        )


def _check_metadata_out(path: str) -> None:
    """Before the work, not after it, as far as can be told without writing."""
    folder = os.path.dirname(path) or '.'
    if os.path.isdir(path):
        reason = 'is a directory'
    elif not os.path.isdir(folder):
        reason = f'there is no directory {folder}'
    elif not os.access(path if os.path.lexists(path) else folder, os.W_OK):
        reason = 'cannot be written'
    else:
        return
    raise ConfigError(f'metadata-out {path}: {reason}')


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())


def _storages(
    conf: cfg.ConfigOpts, values: Mapping[str, Any], job: jobfile.JobFile | None
) -> tuple[tuple[Any, StorageSettings], ...]:
    """Driver and settings of each storage; none for action exec."""
    if values['action'] == 'exec':
        return ()
    if job is not None and job.storages:
        found = tuple(_section_storage(job.path, s, values) for s in job.storages)
        _refuse_equal(job.path, found)
        return found
    if not values['storage']:
        raise ConfigError(
            'no storage is named: give --storage s3 or --storage local, or storage = … '
            'in the job file (the default of Freezer 19, swift, is not available)'
        )
    driver = plugins.load(plugins.STORAGES, 'storage', values['storage'])
    options = {
        key: _value(conf, option.dest, group)
        for key, group, option in driver_options(driver)
    }
    settings = StorageSettings(
        container=values['container'], options=options, **_for_every_storage(values)
    )
    return ((driver, settings),)


# Options that name a file which is a secret itself.
_SECRET_FILES = ('encrypt_pass_file', 's3_sse_customer_key_file')


def _secret_files(
    conf: cfg.ConfigOpts, values: Mapping[str, Any], job: jobfile.JobFile | None
) -> Iterator[str]:
    """The files that hold a secret: configuration that has one, and key files."""
    given = [values, *(settings.options for _driver, settings in values['storages'])]
    for options in given:
        yield from (str(options[key]) for key in _SECRET_FILES if options.get(key))
    files = _configuration_files(conf)
    if job is None and not files:
        return
    secret = {name for name, key in _job_keys(conf).items() if key.secret}
    if job is not None and any(
        _holds_secret(section.values.items(), secret)
        for section in (*job.main, *job.storages)
    ):
        yield job.path
    for path in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(path, sections).parse()
        found = (
            (name if group == 'DEFAULT' else f'{group.lower()}_{name}', value)
            for group, options in sections.items()
            for name, lines in options.items()
            for value in lines
        )
        if _holds_secret(found, secret):
            yield path


def _holds_secret(found: Iterable[tuple[str, str]], secret: Container[str]) -> bool:
    for name, value in found:
        if not value:
            continue
        name = name.replace('-', '_')
        # The URL of a proxy may hold a password.
        if name in secret or (name == 'proxy' and '@' in value):
            return True
    return False


def _configuration_files(conf: cfg.ConfigOpts) -> list[str]:
    """Those that oslo.config has read: named ones, and those it finds by itself."""
    folders = (Path(folder) for folder in conf.config_dir or ())
    return [
        *(conf.config_file or ()),
        *(str(path) for folder in folders for path in sorted(folder.glob('*.conf'))),
    ]


def _for_every_storage(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ('max_segment_size', 'insecure', 'proxy')}


def _section_storage(
    path: str, section: jobfile.Section, values: Mapping[str, Any]
) -> tuple[Any, StorageSettings]:
    """One ``[storage:NAME]``: literal, with no defaults from elsewhere."""
    where = f'config {path}, [{section.name}]'
    given = dict(section.values)
    name = given.pop('storage', '')
    if not name:
        raise ConfigError(f'{where}: storage = … is missing')
    driver = plugins.load(plugins.STORAGES, f'{where}: storage', name)
    container = given.pop('container', '')
    options: dict[str, Any] = {}
    for key, _group, option in driver_options(driver):
        text = given.pop(key, '')
        try:
            unset = _is_unset(isinstance(option, cfg.BoolOpt), text)
            options[key] = option.default if unset else option.type(text)
        except ValueError as error:
            reason = 'not of the right form' if option.secret else str(error)
            raise ConfigError(f'{where}, {key}: {reason}') from error
    if given:
        raise ConfigError(
            f'{where}: {", ".join(sorted(given))}: not an option of storage {name}'
        )
    settings = StorageSettings(
        container=container,
        options=options,
        **_for_every_storage(values),
        section=f'[{section.name}] of {path}',
        name=section.name.removeprefix(jobfile.STORAGE_PREFIX),
    )
    return driver, settings


def _refuse_equal(path: str, found: Iterable[tuple[Any, StorageSettings]]) -> None:
    """:raises ConfigError: what was meant to be two copies would be one"""
    names: dict[tuple[Any, ...], str] = {}
    for driver, settings in found:
        place = (driver, settings.container, settings.options.get('endpoint'))
        first = names.setdefault(place, settings.name)
        if first != settings.name:
            raise ConfigError(
                f'config {path}: [storage:{first}] and [storage:{settings.name}] are '
                f'the same container: give each its own'
            )


def _say_once() -> Callable[[logging.LogRecord], None]:
    """What to do when a line cannot be logged: the work goes on, and that is said.

    logging's own way is a traceback on standard error for each line.
    """
    said: list[str] = []

    def failed(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not said:
            said.append(str(error))
            NOTICES.warning('the log cannot be written: %s', error)

    return failed


def _set_up_logging(conf: cfg.ConfigOpts) -> str:
    """oslo.log as asked, or ~/.freezer/freezer.log; its path, or ''."""
    elsewhere = (
        conf.log_file,
        conf.log_dir,
        conf.use_syslog,
        conf.use_journal,
        conf.log_config_append,
    )
    if not any(elsewhere):
        folder = os.path.expanduser(WORK_DIR)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f'log directory {folder}: {error.strerror}; give another with --log-dir'
            ) from error
        conf.set_override('log_file', _literal(os.path.join(folder, 'freezer.log')))
    try:
        log.setup(conf, 'freezer')
    except (OSError, log.LogConfigError) as error:
        raise ConfigError(f'the log cannot be written: {error}') from error
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            # Names of files are not always text.
            handler.errors = 'backslashreplace'
            handler.handleError = _say_once()  # type: ignore[assignment,method-assign]
            handler.stream.reconfigure(errors=handler.errors)
    if conf.log_file and conf.log_dir:
        return os.path.join(str(conf.log_dir), str(conf.log_file))
    return str(conf.log_file or '')
