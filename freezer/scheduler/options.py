"""The scheduler's options and ``--help``. Old names without the group still work."""

import copy
from typing import Any

from oslo_config import cfg, types
from oslo_log import log

from freezer.common import usage

PROG = 'freezer-scheduler'
COMMANDS = ('start', 'stop', 'restart', 'reload', 'status', 'validate', 'run')
FILE_COMMANDS = ('validate', 'run')

GROUP = 'scheduler'
CAPABILITIES = 'capabilities'
COORDINATION = 'coordination'
POLICY = 'policy'
SERVICE_AUTH = 'service_auth'


def _names(name: str, *groups: str) -> list[Any]:
    """``na-me`` and ``na_me`` in these groups, for configuration files as well."""
    spellings = dict.fromkeys((name, name.replace('-', '_')))
    return [
        cfg.DeprecatedOpt(spelling, group=group)
        for group in groups
        for spelling in spellings
    ]


SCHEDULER_OPTS = (
    cfg.StrOpt(
        'client-id',
        short='c',
        help='Skip jobs with another client_id. With freezer-api, the name under which '
        'this machine is registered; default: <project id>_<host name>.',
    ),
    cfg.BoolOpt(
        'no-api',
        short='n',
        default=False,
        help='Read jobs from the files in --scheduler-jobs-dir, and use neither '
        'freezer-api nor Keystone.',
    ),
    cfg.StrOpt(
        'jobs-dir',
        metavar=usage.PATH,
        short='f',
        deprecated_opts=[cfg.DeprecatedOpt('conf', group='DEFAULT')],
        help='Directory with the job files, whose names end in .conf; or a single job '
        'file. With freezer-api, its jobs are cached there as job_<id>.conf; other '
        'files are left alone and not run. Default: FREEZER_SCHEDULER_CONF_D in the '
        'environment, or /etc/freezer/scheduler/conf.d.',
    ),
    cfg.IntOpt(
        'interval',
        metavar='SECONDS',
        short='i',
        min=1,
        default=60,
        help='Seconds between two checks of the job files, or of freezer-api.',
    ),
    cfg.BoolOpt(
        'no-daemon',
        default=False,
        help='Stay in the foreground, for example under systemd. The log goes to '
        'standard error, unless another option sends it elsewhere.',
    ),
    cfg.BoolOpt(
        'insecure',
        default=False,
        deprecated_opts=_names('insecure', SERVICE_AUTH),
        help='Do not check the TLS certificates of Keystone and freezer-api, nor those '
        'of storages, except in jobs with insecure: false.',
    ),
    cfg.BoolOpt(
        'disable-exec',
        default=False,
        help='Fail jobs that have an exec action, or an option that runs a command, '
        'such as on_success_command, pre_command and stream, without running any of '
        'it.',
    ),
    cfg.IntOpt(
        'concurrent-jobs',
        min=1,
        default=1,
        help='Number of jobs that may run at the same time; further jobs wait.',
    ),
    cfg.BoolOpt(
        'centralized-scheduler',
        default=False,
        help='Register as a client of all projects, and run their jobs that have a '
        'trust; status updates for each job are sent using its trust.',
    ),
    cfg.IntOpt(
        'stop-grace',
        metavar='SECONDS',
        min=0,
        default=60,
        help='Seconds that running jobs get to finish after SIGTERM, before they are '
        'aborted.',
    ),
    cfg.StrOpt(
        'status-page',
        metavar='FILE',
        help='Write the state of the jobs to this HTML file: results, the last 30 '
        'runs, sizes of backups, overdue jobs. It is replaced atomically, and readable '
        'by everyone.',
    ),
    cfg.StrOpt(
        'runtime-dir',
        help='Directory for the pid file; must belong to this user. Default: '
        '/run/freezer-scheduler for root; otherwise freezer-scheduler in '
        'XDG_RUNTIME_DIR, or ~/.freezer/run.',
    ),
    cfg.StrOpt(
        'state-dir',
        help='Directory for job results and history. Default: '
        '/var/lib/freezer-scheduler for root; otherwise ~/.freezer/scheduler.',
    ),
)


def _capability(what: str, example: str) -> Any:
    return cfg.ListOpt(
        f'supported-{what}',
        default=[],
        help=f'Skip jobs that need {what} other than these, separated by commas: '
        f'{example}. Default: all.',
    )


CAPABILITIES_OPTS = (
    _capability('actions', 'backup,info'),
    _capability('modes', 'fs'),
    _capability('storages', 's3,local'),
    _capability('engines', 'tar'),
)
for _option in (*SCHEDULER_OPTS, *CAPABILITIES_OPTS):
    _option.deprecated_opts = _names(_option.name, 'DEFAULT') + _option.deprecated_opts

# Jobs that the policy applies to.
UNTRUSTED, ALL, NONE = 'untrusted', 'all', 'none'
POLICY_OPTS = (
    cfg.StrOpt(
        'apply-to',
        choices=[UNTRUSTED, ALL, NONE],
        default=UNTRUSTED,
        help='Jobs that the policy applies to. untrusted: those of freezer-api, and of '
        "files that others than root and the scheduler's user can write to.",
    ),
    cfg.ListOpt(
        'actions',
        default=[],
        help='Actions that these jobs may have, separated by commas: backup,info. '
        'Default: all.',
    ),
    cfg.ListOpt(
        'storages',
        default=[],
        help='Storages that these jobs may use, separated by commas: s3,local. '
        'Default: all.',
    ),
    cfg.ListOpt(
        'engines',
        default=['tar', 'blocks'],
        help='Engines that these jobs may use, separated by commas. read-roots and '
        'write-roots do not bound others: glance, cinder and nova read and create '
        'images, volumes and servers, with the credentials of --os-cloud. For mode '
        'cindernative, its name is needed here.',
    ),
    cfg.ListOpt(
        'endpoints',
        metavar='URL,…',
        default=[],
        help='Servers that these jobs may name in endpoint, proxy, ssh-host and the '
        'like: https://s3.example.com. A host name alone allows every scheme, user and '
        'port. Default: all.',
    ),
    cfg.ListOpt(
        'read-roots',
        metavar=f'{usage.DIRECTORY},…',
        default=['/'],
        help='Directories below which these jobs may read: sources of backups, and '
        'files that options name. Without / in it, files-from, files-from0 and '
        'dereference-symlink soft and all are refused.',
    ),
    cfg.ListOpt(
        'write-roots',
        metavar=f'{usage.DIRECTORY},…',
        default=[],
        help='Directories below which these jobs may write: restored files, containers '
        'of storage local, and files that options name. Default: none.',
    ),
    cfg.MultiStrOpt(
        'command',
        metavar='COMMAND',
        default=[],
        help='Command that these jobs may run, exactly as jobs write it, in an exec '
        'action or in an option such as on_failure_command; may be repeated. Default: '
        'none.',
    ),
    cfg.ListOpt(
        'refused-options',
        metavar='NAME,…',
        default=[],
        help='Options that these jobs must not have, separated by commas: '
        'insecure,overwrite.',
    ),
)


def _service(name: str, what: str, secret: bool = False) -> Any:
    variable = f'OS_{name.replace("-", "_").upper()}'
    return cfg.StrOpt(
        name,
        secret=secret,
        # openstack-ansible writes os_auth_url = … into the group.
        deprecated_opts=[
            *_names(f'os-{name}', 'DEFAULT'),
            cfg.DeprecatedOpt(variable.lower(), group=SERVICE_AUTH),
        ],
        help=f'{what} Default: {variable} in the environment.',
    )


SERVICE_AUTH_OPTS = (
    _service('auth-url', 'URL of Keystone.'),
    _service('username', 'User name for Keystone.'),
    _service(
        'password',
        'Password of that user. Set it in a file or the environment: every user of the '
        'machine can see command line arguments.',
        secret=True,
    ),
    _service('token', 'Token to use instead of user name and password.', secret=True),
    _service('project-id', 'ID of the project that the scheduler works for.'),
    _service('project-name', 'Name of that project.'),
    _service('project-domain-id', 'ID of the domain of the project.'),
    _service('project-domain-name', 'Name of the domain of the project.'),
    _service('user-domain-id', 'ID of the domain of the user.'),
    _service('user-domain-name', 'Name of the domain of the user.'),
    _service('backup-url', 'URL of freezer-api, to replace the one in the catalog.'),
    _service('region-name', 'Region, if the catalog has several.'),
    _service(
        'endpoint-type',
        'Which endpoint of the catalog to use: public, internal or admin; public if '
        'unset.',
    ),
    _service('cert', 'File with a client certificate and its key.'),
    _service('cacert', 'File with the trusted certificate authorities.'),
)

COORDINATION_OPTS = (
    cfg.StrOpt(
        'backend-url',
        metavar='URL',
        secret=True,
        help='Share the jobs of one client with other schedulers, by this server or '
        'directory: redis://HOST:6379, etcd3+http://HOST:2379, memcached://HOST:11211, '
        'zookeeper://HOST:2181, or file:///DIR for schedulers of one machine. Each due '
        'run happens on one of them. Needs --scheduler-client-id.',
    ),
    cfg.StrOpt(
        'prefix',
        default='freezer',
        help='First part of the names of locks and groups. Schedulers of different '
        'clouds that use the same server need different ones.',
    ),
)

# Options of Freezer 19 that are not supported: declared, to reject them.
_UNSUPPORTED = 'Not supported yet.'
UNSUPPORTED_OPTS: dict[str, tuple[Any, ...]] = {
    GROUP: (
        cfg.BoolOpt(
            'enable-v1-api',
            default=False,
            help=_UNSUPPORTED,
            deprecated_opts=_names('enable-v1-api', 'DEFAULT', GROUP, SERVICE_AUTH),
        ),
    ),
}

JSON_OPT = cfg.BoolOpt(
    'json', default=False, help='Print JSON (status and validate only).'
)


def list_opts() -> list[tuple[str, list[Any]]]:
    """(group, options), for oslo-config-generator."""
    return [
        (GROUP, list(SCHEDULER_OPTS)),
        (CAPABILITIES, list(CAPABILITIES_OPTS)),
        (POLICY, list(POLICY_OPTS)),
        (COORDINATION, list(COORDINATION_OPTS)),
        (SERVICE_AUTH, list(SERVICE_AUTH_OPTS)),
    ]


def _with_hyphens(option: Any, group: str) -> Any:
    """A copy that configuration files may spell as the command line does."""
    own = [each.name for each in option.deprecated_opts if each.group == group]
    spelled = copy.copy(option)
    spelled.deprecated_opts = option.deprecated_opts + [
        spelling
        for name in (option.name, *own)
        for spelling in _names(name.replace('_', '-'), group)
        # Its values would be read twice.
        if spelling.name != option.dest
    ]
    return spelled


def declare() -> cfg.ConfigOpts:
    """oslo.config's object, which has read nothing yet."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    files = cfg.MultiOpt('files', positional=True, default=[], item_type=types.String())
    command = cfg.StrOpt('command', positional=True, required=True)
    conf.register_cli_opts([command, files, JSON_OPT])
    for group, declared in list_opts():
        spelled = [_with_hyphens(option, group) for option in declared]
        conf.register_cli_opts(spelled, group=group)
    for group, unsupported in UNSUPPORTED_OPTS.items():
        conf.register_opts(unsupported, group=group)
    return conf


_SYNOPSIS = """\
%(prog)s [options] start|stop|restart|reload|status
       %(prog)s [options] validate|run FILE…"""

_COMMANDS = """\
start     run the jobs of freezer-api, or with --no-api those in
          --scheduler-jobs-dir, when they are due
stop      stop the scheduler; running jobs get --scheduler-stop-grace seconds
          to finish
restart   stop, then start
reload    check freezer-api or the job files now, not at the next interval
status    show jobs, last results and next runs; exit code 3 if the scheduler
          is not running
validate  check job files, and show when the jobs will run
run       run one job file now, in the foreground; the exit code is the agent's
"""

_EPILOG = """\
Options of the groups scheduler and capabilities also work without the name of
the group: --no-api. In scheduler.conf they are in sections with these names.
Flags have an inverse: --scheduler-nodisable-exec.

Examples:
  Check job files; run the jobs of a directory; show their results:

    freezer-scheduler validate /etc/freezer/scheduler/conf.d/*.conf
    freezer-scheduler start --no-daemon --no-api
    freezer-scheduler status

  Run one job now:

    freezer-scheduler run /etc/freezer/scheduler/conf.d/home.conf"""

_HEADINGS = {
    GROUP: 'Scheduler',
    CAPABILITIES: 'Which jobs to run',
    POLICY: 'What jobs of others may do',
    COORDINATION: 'Several schedulers',
    SERVICE_AUTH: 'Keystone and freezer-api',
}


def help_usage() -> usage.Usage:
    return usage.Usage(
        PROG,
        _SYNOPSIS,
        _COMMANDS,
        (
            *(
                usage.of_group(_HEADINGS[group], {group: declared})
                for group, declared in list_opts()
            ),
            usage.of_group('Output', {None: [JSON_OPT]}),
            usage.common('scheduler.conf'),
            usage.OTHERS,
        ),
        _EPILOG,
    )
