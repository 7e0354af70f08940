"""The scheduler's settings, from command line, environment and ``scheduler.conf``."""

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from oslo_config import cfg

from freezer.common import arguments, config_files, parsing, usage
from freezer.exceptions import ConfigError
from freezer.scheduler import options
from freezer.scheduler.documents.check import SECONDS, check
from freezer.scheduler.documents.document import Document, DocumentError
from freezer.scheduler.options import COMMANDS, FILE_COMMANDS, PROG
from freezer.scheduler.policy import Policy
from freezer.utils import streams

# memcached allows 250, with the prefix of its driver.
_LONGEST_NAME = 200
_JOBS_DIR = '/etc/freezer/scheduler/conf.d'
# Settings that are the value of the option.
_UNCHANGED = (
    *('client_id', 'no_api', 'interval', 'no_daemon', 'insecure', 'disable_exec'),
    *('concurrent_jobs', 'stop_grace'),
)
# The commands that use freezer-api.
_API_COMMANDS = ('start', 'restart')
# The scheduler's credentials: agents and their commands do not get them.
_OWN_PREFIX = f'OS_{options.SERVICE_AUTH.upper()}__'
_OWN = {
    *(f'OS_{each.dest.upper()}' for each in options.SERVICE_AUTH_OPTS),
    *('OS_TRUST_ID', 'OS_DOMAIN_ID', 'OS_DOMAIN_NAME', 'OS_TENANT_ID'),
    *('OS_TENANT_NAME', 'OS_AUTH_METHOD', 'OS_AUTH_TYPE', 'OS_INTERFACE'),
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """Credentials for Keystone, and where freezer-api is. Unset values are empty."""

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
        """:raises ConfigError: the credentials are incomplete"""
        if not (self.auth_url and (self.token or (self.username and self.password))):
            raise ConfigError(
                'freezer-api needs credentials: set OS_AUTH_URL, OS_USERNAME, '
                'OS_PASSWORD, OS_PROJECT_NAME and their domains in the environment, or '
                '[service_auth] in scheduler.conf; or use --no-api with job files in '
                '--scheduler-jobs-dir'
            )

    @property
    def owner_key(self) -> tuple[str, ...]:
        """Identifies the API account; cached jobs of another account are dropped."""
        return (
            *(self.auth_url, self.backup_url, self.region_name, self.username),
            *(self.project_id, self.project_name),
            *(self.project_domain_id, self.project_domain_name),
        )


@dataclass(frozen=True, kw_only=True)
class Coordination:
    """With which schedulers jobs are shared, and by which server."""

    backend_url: str = field(repr=False)
    prefix: str
    client_id: str

    def name(self, job_id: str = '') -> str:
        """Of the lock of a job, or of the group of the schedulers."""
        parts = (self.prefix, self.client_id, *filter(None, (job_id,)))
        name = ':'.join(quote(part, safe='') for part in parts)
        # Drivers and file systems limit the length, and give % a meaning.
        if len(name) <= _LONGEST_NAME and '%' not in name:
            return name
        return hashlib.sha256('\0'.join(parts).encode()).hexdigest()


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
    #: None if no page is written
    status_page: Path | None
    runtime_dir: Path
    state_dir: Path
    supported: Mapping[str, frozenset[str]]
    policy: Policy
    centralized: bool
    #: None if freezer-api is not used
    service: Service | None
    #: reads ``scheduler.conf`` again for it; raises as :func:`load` does
    reload_service: Callable[[], Service | None] = field(repr=False)
    #: None if the jobs are not shared
    coordination: Coordination | None
    #: for the agents
    environ: Mapping[str, str] = field(repr=False)
    #: oslo.config's object, for the options of the log
    conf: Any

    def skip_reason(self, document: Document) -> str:
        """Why the job is not for this scheduler; empty if it is."""
        if self.client_id and document.client_id not in ('', self.client_id):
            return f'it belongs to client {document.client_id}'
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
                        return f'it needs {name}, which is not in supported-{what}'
        return ''

    def check(
        self,
        documents: Sequence[Document],
        same_environ: bool = True,
        seconds: float | None = SECONDS,
    ) -> list[Document | DocumentError]:
        """Check whether the jobs can run, except those that are skipped; see
        :func:`freezer.scheduler.documents.check.check`."""
        ours = [each for each in documents if not self.skip_reason(each)]
        checked = check(ours, self.environ, same_environ, seconds)
        found = dict(zip(map(id, ours), checked, strict=True))
        return [found.get(id(each), each) for each in documents]

    def reject_reason(self, document: Document) -> str:
        """Why the job must not run; empty if it may."""
        for action in document.actions if self.disable_exec else ():
            if name := action.own_command:
                return f'it has {name}, and --scheduler-disable-exec is set'
        return self.policy.problem(document)


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """:raises ConfigError: an option is malformed or unsupported

    :raises SystemExit: 0: --help; 2: an argument is unknown, or there is no command
    """
    if usage.wanted(argv):
        streams.show(usage.text(options.help_usage()))
        raise SystemExit(0)
    conf = _parse(argv)
    given = _group(conf, options.GROUP)
    runtime_dir, state_dir = '/run/freezer-scheduler', '/var/lib/freezer-scheduler'
    if os.geteuid() != 0:
        runtime_dir, state_dir = _runtime_dir(environ), '~/.freezer/scheduler'
    policy = Policy(**_group(conf, options.POLICY))
    policy.check()
    service = None
    if conf.command in _API_COMMANDS and not given['no_api']:
        service = _service(_group(conf, options.SERVICE_AUTH), environ)

    def reload_service() -> Service | None:
        if service is None:
            return None
        again = _group(_parse(argv, warn=False), options.SERVICE_AUTH)
        found = _service(again, environ)
        found.check()
        return found

    return Settings(
        command=conf.command,
        files=tuple(conf.files),
        json=conf.json,
        **{name: given[name] for name in _UNCHANGED},
        jobs_dir=_absolute(
            given['jobs_dir'] or environ.get('FREEZER_SCHEDULER_CONF_D') or _JOBS_DIR
        ),
        status_page=(_absolute(given['status_page']) if given['status_page'] else None),
        runtime_dir=_absolute(given['runtime_dir'] or runtime_dir),
        state_dir=_absolute(given['state_dir'] or state_dir),
        supported={
            name.removeprefix('supported_'): frozenset(names)
            for name, names in _group(conf, options.CAPABILITIES).items()
        },
        policy=policy,
        centralized=given['centralized_scheduler'],
        service=service,
        reload_service=reload_service,
        coordination=_coordination(_group(conf, options.COORDINATION), given),
        environ=_agent_environ(environ, given['insecure'], service),
        conf=conf,
    )


def _group(conf: cfg.ConfigOpts, name: str) -> dict[str, Any]:
    return {dest: parsing.value(conf, dest, name) for dest in conf[name]}


def _service(given: Mapping[str, Any], environ: Mapping[str, str]) -> Service:
    values = {
        each.dest: given[each.dest] or environ.get(f'OS_{each.dest.upper()}') or ''
        for each in options.SERVICE_AUTH_OPTS
    }
    for each in options.SERVICE_AUTH_OPTS:
        parsing.check_text(options.SERVICE_AUTH, each, values[each.dest])
    # The legacy spelling is publicURL.
    kind = (values['endpoint_type'] or 'public').removesuffix('URL')
    if kind not in ('public', 'internal', 'admin'):
        raise ConfigError('endpoint-type must be public, internal or admin')
    return Service(**values | {'endpoint_type': kind})


def _coordination(
    given: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> Coordination | None:
    url = given['backend_url']
    if not url:
        return None
    if not scheduler['client_id']:
        raise ConfigError(
            '[coordination] backend-url needs --scheduler-client-id: the same on all '
            'schedulers that share jobs'
        )
    if not given['prefix']:
        raise ConfigError('[coordination] prefix must not be empty')
    return Coordination(
        backend_url=url, prefix=given['prefix'], client_id=scheduler['client_id']
    )


def _agent_environ(
    environ: Mapping[str, str], insecure: bool, service: Service | None
) -> dict[str, str]:
    """Without the credentials for Keystone: no storage here needs them, and anyone who
    can create jobs in freezer-api could print them."""
    kept = {
        name: value
        for name, value in environ.items()
        if service is None or not (name in _OWN or name.startswith(_OWN_PREFIX))
    }
    # The job file takes precedence over the environment.
    return kept | ({'OS_DEFAULT__INSECURE': 'true'} if insecure else {})


def _runtime_dir(environ: Mapping[str, str]) -> str:
    if environ.get('XDG_RUNTIME_DIR'):
        return environ['XDG_RUNTIME_DIR'] + '/freezer-scheduler'
    return '~/.freezer/run'


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _parse(argv: Sequence[str], warn: bool = True) -> cfg.ConfigOpts:
    conf = options.declare()
    files = cfg.find_config_files('freezer', 'scheduler')
    parsing.parse(
        conf,
        _positional_last(conf, argv),
        options.help_usage(),
        dict(options.list_opts()),
        # It finds freezer.conf as well, which is the agent's.
        default_config_files=[
            path for path in files if Path(path).name == 'scheduler.conf'
        ],
        default_config_dirs=[],
        use_env=True,
    )
    declared: dict[str | None, list[Any]] = dict(options.list_opts())
    for group, unsupported in options.UNSUPPORTED_OPTS.items():
        declared[group] = [*declared.get(group, ()), *unsupported]
    for line in config_files.warnings(conf, declared) if warn else ():
        streams.say(f'Warning: {line}')
    parsing.refuse_control_characters(conf, dict(options.list_opts()))
    problems = [
        f'[{group}] {option.dest} is not supported by this scheduler yet'
        for group, unsupported in options.UNSUPPORTED_OPTS.items()
        for option in unsupported
        if parsing.value(conf, option.dest, group)
    ]
    if problems:
        raise ConfigError('; '.join(problems))
    command = conf.command
    if command not in COMMANDS:
        close = arguments.suggestion(command, COMMANDS)
        raise ConfigError(f'{command} is not one of {", ".join(COMMANDS)}{close}')
    if conf.files and command not in FILE_COMMANDS:
        raise ConfigError(f'{command} takes no file; only validate and run do')
    if command in FILE_COMMANDS and not conf.files:
        raise ConfigError(f'{command} needs a job file: {PROG} {command} FILE')
    if command == 'run' and len(conf.files) > 1:
        raise ConfigError('run takes only one job file')
    for dest in ('log_dir', 'log_file', 'log_config_append'):
        # Absolute, because a daemon changes its directory.
        if conf[dest] and not (dest == 'log_file' and conf.log_dir):
            path = str(_absolute(conf[dest]))
            conf.set_override(dest, parsing.literal(path))
    return conf


def _positional_last(conf: cfg.ConfigOpts, argv: Sequence[str]) -> list[str]:
    """Options first: otherwise argparse loses files that follow them."""
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
            # A short option may include its value: -i5.
            with_value = '=' in word or (not word.startswith('--') and len(word) > 2)
            if not with_value and word.lstrip('-').replace('-', '_') not in flags:
                first += itertools.islice(words, 1)
    return [*first, *last]


def _flags(conf: cfg.ConfigOpts) -> set[str]:
    """Options that take no value, with ``_`` for ``-``."""
    flags = [each.dest for each in options.SCHEDULER_OPTS if type(each) is cfg.BoolOpt]
    # oslo.log has no public list of its options.
    flags += [dest for dest in conf if isinstance(conf[dest], bool)]
    prefixes = ('', 'no', 'scheduler_', 'scheduler_no')
    return {'h', 'help', 'version', 'd', 'n'} | {
        prefix + flag for prefix in prefixes for flag in flags
    }
