"""What the scheduler was asked to do: command line, environment, ``scheduler.conf``."""

import contextlib
import io
import itertools
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oslo_config import cfg, types
from oslo_log import log

from freezer.common import usage
from freezer.exceptions import ConfigError
from freezer.scheduler import options
from freezer.scheduler.document import Document

PROG = 'freezer-scheduler'
COMMANDS = ('start', 'stop', 'restart', 'reload', 'status', 'validate', 'run')
_OF_FILES = ('validate', 'run')
_RUNNING = ('start', 'restart')
_JOBS_DIR = '/etc/freezer/scheduler/conf.d'
_USAGE = """\
%(prog)s [options] start|stop|restart|reload|status
       %(prog)s [options] validate|run FILE…

start     run the jobs of freezer-api, or with --no-api those in
          --scheduler-jobs-dir, when they are due
stop      end; jobs that run have --scheduler-stop-grace seconds to do so too
reload    look at freezer-api, or the job files, now: before the next interval
status    what runs, what came of it, what comes next; ends with 3 if none runs
validate  check job files, and say what will run when
run       run one job file now, here, and end with the exit code of the agent
"""


# What is for the scheduler alone, and not for the commands that jobs run.
_OWN_PREFIX = f'OS_{options.SERVICE_AUTH.upper()}__'
_OWN = {
    *(f'OS_{each.dest.upper()}' for each in options.SERVICE_AUTH_OPTS),
    *('OS_TRUST_ID', 'OS_DOMAIN_ID', 'OS_DOMAIN_NAME', 'OS_TENANT_ID'),
    *('OS_TENANT_NAME', 'OS_AUTH_METHOD', 'OS_AUTH_TYPE', 'OS_INTERFACE'),
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """How to be known to Keystone, and where freezer-api is. What is not given is
    empty."""

    auth_url: str
    username: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    project_id: str
    project_name: str
    project_domain_id: str
    project_domain_name: str
    user_domain_id: str
    user_domain_name: str
    backup_url: str
    region_name: str
    endpoint_type: str
    cert: str
    cacert: str

    def check(self) -> None:
        """:raises ConfigError: Keystone could not be asked"""
        if not (self.auth_url and (self.token or (self.username and self.password))):
            raise ConfigError(
                'freezer-api needs credentials: give OS_AUTH_URL, OS_USERNAME, '
                'OS_PASSWORD and OS_PROJECT_NAME with their domains, in the '
                'environment or as [service_auth] in scheduler.conf; or give --no-api, '
                'and have job files in --scheduler-jobs-dir'
            )

    @property
    def whose(self) -> tuple[str, ...]:
        """Another one for other jobs."""
        return (
            *(self.auth_url, self.backup_url, self.region_name, self.username),
            *(self.project_id, self.project_name),
            *(self.project_domain_id, self.project_domain_name),
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    command: str
    files: tuple[str, ...]
    json: bool
    client_id: str | None
    no_api: bool
    jobs_dir: Path
    interval: int
    no_daemon: bool
    insecure: bool
    disable_exec: bool
    concurrent_jobs: int
    stop_grace: int
    runtime_dir: Path
    state_dir: Path
    supported: Mapping[str, frozenset[str]]
    centralized: bool
    #: None if freezer-api is not asked
    service: Service | None
    #: of the agents
    environ: Mapping[str, str] = field(repr=False)
    #: the options of the log are read from it
    conf: Any

    def leaves_out(self, document: Document) -> str:
        """Why a job is none of this scheduler's; empty if it is."""
        if self.client_id and document.client_id not in ('', self.client_id):
            return f'is for client {document.client_id}'
        for action in document.actions:
            needed = {
                'actions': (action.name,),
                'modes': (action.mode,),
                'engines': (action.engine,),
                'storages': action.storage_kinds,
            }
            for what, names in needed.items():
                for name in names:
                    if self.supported[what] and name not in self.supported[what]:
                        return f'needs {name}, which is not of supported-{what}'
        return ''

    def refuses(self, document: Document) -> str:
        """Why a job must not be run; empty if it may."""
        if self.disable_exec and any(a.name == 'exec' for a in document.actions):
            return 'has an action exec, and --scheduler-disable-exec is set'
        return ''


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """:raises ConfigError: an option is malformed, or not to be had

    :raises SystemExit: --help was asked for (0), an argument is unknown or there is no
        command (2)
    """
    if usage.wanted(argv):
        sys.stdout.write(usage.text(help_usage()))
        raise SystemExit(0)
    conf = _declare()
    _parse(conf, argv)
    _refuse_absent(conf)
    given = conf[options.GROUP]
    _keep_paths_of_log(conf)
    command, files = conf.command, tuple(conf.files)
    if files and command not in _OF_FILES:
        raise ConfigError(f'{command} takes no file; validate and run do')
    if command in _OF_FILES and (not files or (command == 'run' and len(files) > 1)):
        raise ConfigError(
            f'{command} needs {"one" if command == "run" else "a"} file: '
            f'{PROG} {command} FILE'
        )
    root = os.geteuid() == 0
    home = Path('~/.freezer').expanduser()
    service = None
    if command in _RUNNING and not given.no_api:
        service = _service(conf[options.SERVICE_AUTH], environ)
    return Settings(
        command=command,
        files=files,
        json=conf.json,
        client_id=given.client_id,
        no_api=given.no_api,
        jobs_dir=_absolute(
            given.jobs_dir or environ.get('FREEZER_SCHEDULER_CONF_D') or _JOBS_DIR
        ),
        interval=given.interval,
        no_daemon=given.no_daemon,
        insecure=given.insecure,
        disable_exec=given.disable_exec,
        concurrent_jobs=given.concurrent_jobs,
        stop_grace=given.stop_grace,
        runtime_dir=_absolute(given.runtime_dir or runtime_dir(root, home, environ)),
        state_dir=_absolute(given.state_dir or state_dir(root, home)),
        supported={
            what: frozenset(conf[options.CAPABILITIES][f'supported_{what}'])
            for what in ('actions', 'modes', 'storages', 'engines')
        },
        centralized=given.centralized_scheduler,
        service=service,
        environ=_of_agents(environ, given.insecure, service),
        conf=conf,
    )


def _service(given: Any, environ: Mapping[str, str]) -> Service:
    values = {
        each.dest: given[each.dest] or environ.get(f'OS_{each.dest.upper()}') or ''
        for each in options.SERVICE_AUTH_OPTS
    }
    # Of old it was publicURL.
    kind = (values['endpoint_type'] or 'public').removesuffix('URL')
    if kind not in ('public', 'internal', 'admin'):
        raise ConfigError('endpoint-type is none of public, internal and admin')
    return Service(**values | {'endpoint_type': kind})


def _of_agents(
    environ: Mapping[str, str], insecure: bool, service: Service | None
) -> dict[str, str]:
    """Ours, but for what is to be known by to Keystone: no storage here needs it, and
    who can make jobs in freezer-api could have it printed."""
    kept = {
        name: value
        for name, value in environ.items()
        if service is None or not (name in _OWN or name.startswith(_OWN_PREFIX))
    }
    # Weaker than what a job says.
    return kept | ({'OS_DEFAULT__INSECURE': 'true'} if insecure else {})


def runtime_dir(root: bool, home: Path, environ: Mapping[str, str]) -> Path:
    """Of root, or of the user whose ``~/.freezer`` it is."""
    if root:
        return Path('/run/freezer-scheduler')
    if environ.get('XDG_RUNTIME_DIR'):
        return Path(environ['XDG_RUNTIME_DIR']) / 'freezer-scheduler'
    return home / 'run'


def state_dir(root: bool, home: Path) -> Path:
    return Path('/var/lib/freezer-scheduler') if root else home / 'scheduler'


def set_up_log(settings: Settings, foreground: bool) -> None:
    """As asked; else standard error, or ``~/.freezer/scheduler.log`` of a daemon.

    :raises ConfigError: it cannot be written
    """
    conf = settings.conf
    elsewhere = (
        *(conf.log_file, conf.log_dir, conf.use_syslog, conf.use_journal),
        conf.log_config_append,
    )
    if not any(elsewhere):
        if foreground:
            conf.set_override('use_stderr', True)
        else:
            folder = Path('~/.freezer').expanduser()
            path = str(folder / 'scheduler.log')
            conf.set_override('log_file', path.replace('$', '$$'))
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
    try:
        log.setup(conf, 'freezer')
    except (OSError, log.LogConfigError) as error:
        raise ConfigError(f'the log cannot be written: {error}') from error
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream:
            # Names of files are not always text.
            handler.stream.reconfigure(errors='backslashreplace')


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _keep_paths_of_log(conf: cfg.ConfigOpts) -> None:
    """A daemon is in another directory."""
    for dest in ('log_dir', 'log_file', 'log_config_append'):
        if conf[dest] and not (dest == 'log_file' and conf.log_dir):
            conf.set_override(dest, str(_absolute(conf[dest])).replace('$', '$$'))


_EPILOG = """\
Options whose names begin with scheduler or capabilities are known by the rest
of the name as well: --no-api. In scheduler.conf they stand in sections of these
names. Flags have an inverse: --scheduler-nodisable-exec.

Examples:
  Try job files out; run the jobs of a directory; see what came of them:

    freezer-scheduler validate /etc/freezer/scheduler/conf.d/*.conf
    freezer-scheduler start --no-daemon --no-api
    freezer-scheduler status

  Run one job, now:

    freezer-scheduler run /etc/freezer/scheduler/conf.d/home.conf"""

_HEADINGS = {
    options.GROUP: 'Scheduler',
    options.CAPABILITIES: 'Which jobs it takes',
    options.SERVICE_AUTH: 'Keystone and freezer-api',
}


def help_usage() -> usage.Usage:
    """What ``freezer-scheduler --help`` says."""
    synopsis, _, commands = _USAGE.partition('\n\n')
    return usage.Usage(
        PROG,
        synopsis,
        commands,
        (
            *(
                usage.of_group(_HEADINGS.get(group, group), {group: declared})
                for group, declared in options.list_opts()
            ),
            usage.of_group('What is said', {None: [_JSON]}),
            usage.common('scheduler.conf'),
            usage.OTHERS,
        ),
        _EPILOG,
    )


_JSON = cfg.BoolOpt('json', default=False, help='With status and validate: JSON.')


def _declare() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf.register_cli_opts(
        [
            cfg.StrOpt('command', positional=True, choices=COMMANDS, required=True),
            cfg.MultiOpt(
                'files', positional=True, default=[], item_type=types.String()
            ),
            _JSON,
        ]
    )
    for group, declared in options.list_opts():
        conf.register_cli_opts(declared, group=group)
    for group, absent in options.ABSENT_OPTS.items():
        conf.register_opts(absent, group=group)
    return conf


def _parse(conf: cfg.ConfigOpts, argv: Sequence[str]) -> None:
    """oslo.config's parser, with its usage of a hundred lines turned into one."""
    said = io.StringIO()
    files = cfg.find_config_files('freezer', 'scheduler')
    try:
        with contextlib.redirect_stderr(said):
            conf(
                # oslo.config would fill in $name.
                [each.replace('$', '$$') for each in _commands_last(conf, argv)],
                project='freezer',
                prog=PROG,
                default_config_files=[
                    path for path in files if Path(path).name == 'scheduler.conf'
                ],
                default_config_dirs=[],
                use_env=True,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        text = said.getvalue().strip().rpartition('error: ')[2]
        sys.stderr.write(f'{PROG}: {" ".join(text.split())}; see --help\n')
        # oslo.config 9 ends with None, which is 0, where a value is malformed.
        raise SystemExit(stop.code or 1) from stop
    except (cfg.Error, ValueError) as error:
        raise ConfigError(' '.join(str(error).split())) from error


def _commands_last(conf: cfg.ConfigOpts, argv: Sequence[str]) -> list[str]:
    """Options first, as argparse loses files that stand behind them otherwise."""
    flags = _flags(conf)
    first: list[str] = []
    last: list[str] = []
    words = iter(argv)
    for word in words:
        if word == '--':
            last += words
        elif not word.startswith('-') or word == '-':
            last.append(word)
        else:
            first.append(word)
            if '=' not in word and word not in flags and not _is_short(word):
                first += itertools.islice(words, 1)
    return [*first, *last]


def _is_short(word: str) -> bool:
    """Whether it is a short option with its value, as ``-i5``."""
    return not word.startswith('--') and len(word) > 2


def _flags(conf: cfg.ConfigOpts) -> set[str]:
    """Arguments that take no value."""
    flags: set[str] = {'-h', '--help', '--version', '-d', '-n', '--json', '--nojson'}
    for group, declared in options.list_opts():
        for option in declared:
            if not isinstance(option, cfg.BoolOpt):
                continue
            names = [f'{group}-{option.name}', f'{group}-no{option.name}']
            for old in option.deprecated_opts:
                names += [str(old.name), f'no{old.name}']
            flags.update(f'--{name}' for name in names)
    for dest in conf:
        # oslo.log's own: it does not say publicly which they are.
        if dest not in ('command', 'files') and isinstance(conf[dest], bool):
            name = dest.replace('_', '-')
            flags |= {f'--{name}', f'--no{name}'}
    return flags


def _refuse_absent(conf: cfg.ConfigOpts) -> None:
    for group, absent in options.ABSENT_OPTS.items():
        for option in absent:
            if conf[group][option.dest]:
                raise ConfigError(
                    f'[{group}] {option.dest} is set, and this scheduler does not have '
                    f"that option of Freezer's yet"
                )
