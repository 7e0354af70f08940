"""The scheduler's options. Old spellings without the group still work."""

from typing import Any

from oslo_config import cfg

from freezer.common import usage

GROUP = 'scheduler'
CAPABILITIES = 'capabilities'
SERVICE_AUTH = 'service_auth'


def _old(name: str, *others: str) -> list[Any]:
    """``--name`` and ``--na_me`` for ``--scheduler-na-me``."""
    names = dict.fromkeys((name, name.replace('-', '_'), *others))
    return [cfg.DeprecatedOpt(each, group='DEFAULT') for each in names]


SCHEDULER_OPTS = (
    cfg.StrOpt(
        'client-id',
        short='c',
        deprecated_opts=_old('client-id'),
        help='Leave out jobs whose client_id is another one. With freezer-api, what '
        'this machine is registered as there; default: the id of the project, _, and '
        'the name of the host.',
    ),
    cfg.BoolOpt(
        'no-api',
        short='n',
        default=False,
        deprecated_opts=_old('no-api'),
        help='Take jobs from the files in --scheduler-jobs-dir, and ask neither '
        'freezer-api nor Keystone for anything.',
    ),
    cfg.StrOpt(
        'jobs-dir',
        metavar=usage.PATH,
        short='f',
        deprecated_opts=_old('jobs-dir', 'conf'),
        help='The directory with the job files, whose names end in .conf; or one job '
        'file. With freezer-api, where its jobs are kept, as job_<id>.conf; other '
        'files there are left alone, and are not run. Default: '
        'FREEZER_SCHEDULER_CONF_D in the environment, or '
        '/etc/freezer/scheduler/conf.d.',
    ),
    cfg.IntOpt(
        'interval',
        metavar='SECONDS',
        short='i',
        min=1,
        default=60,
        deprecated_opts=_old('interval'),
        help='Seconds between two looks at the job files, or at freezer-api.',
    ),
    cfg.BoolOpt(
        'no-daemon',
        default=False,
        deprecated_opts=_old('no-daemon'),
        help='Stay in the foreground, as systemd wants it; the log goes to standard '
        'error unless it is sent elsewhere.',
    ),
    cfg.BoolOpt(
        'insecure',
        default=False,
        deprecated_opts=_old('insecure'),
        help="Agents do not check the storage's TLS certificate, unless the job says "
        'insecure: false; and the scheduler not those of Keystone and freezer-api.',
    ),
    cfg.BoolOpt(
        'disable-exec',
        default=False,
        deprecated_opts=_old('disable-exec'),
        help='A job that has an action exec fails, and nothing of it is run.',
    ),
    cfg.IntOpt(
        'concurrent-jobs',
        min=1,
        default=1,
        deprecated_opts=_old('concurrent-jobs'),
        help='How many jobs may run at the same time; others wait for their turn.',
    ),
    cfg.BoolOpt(
        'centralized-scheduler',
        default=False,
        deprecated_opts=_old('centralized-scheduler'),
        help='Register as a client of all projects, and run their jobs that have a '
        'trust; what is told to freezer-api of each is told in the name of its trust.',
    ),
    cfg.IntOpt(
        'stop-grace',
        metavar='SECONDS',
        min=0,
        default=60,
        help='Seconds that running jobs have to end after SIGTERM, before they are '
        'aborted.',
    ),
    cfg.StrOpt(
        'runtime-dir',
        help='Where the pid file is: a directory of this user alone. Default: '
        '/run/freezer-scheduler for root; else freezer-scheduler in XDG_RUNTIME_DIR, '
        'or ~/.freezer/run.',
    ),
    cfg.StrOpt(
        'state-dir',
        help='Where is kept what came of the jobs. Default: /var/lib/freezer-scheduler '
        'for root; else ~/.freezer/scheduler.',
    ),
)


def _capability(what: str, example: str) -> Any:
    name = f'supported-{what}'
    return cfg.ListOpt(
        name,
        default=[],
        deprecated_opts=_old(name),
        help=f'Leave out jobs that need others than these {what}, with commas '
        f'between them: {example}. Default: all.',
    )


CAPABILITIES_OPTS = (
    _capability('actions', 'backup,info'),
    _capability('modes', 'fs'),
    _capability('storages', 's3,local'),
    _capability('engines', 'tar'),
)


def _service(name: str, what: str, secret: bool = False) -> Any:
    variable = f'OS_{name.replace("-", "_").upper()}'
    return cfg.StrOpt(
        name,
        secret=secret,
        deprecated_opts=_old(f'os-{name}'),
        help=f'{what} Default: {variable} in the environment.',
    )


SERVICE_AUTH_OPTS = (
    _service('auth-url', 'Where Keystone is.'),
    _service('username', 'Who the scheduler is to Keystone.'),
    _service(
        'password',
        'The password of that user. In a file, or the environment: arguments can be '
        'seen by every user of the machine.',
        secret=True,
    ),
    _service('token', 'A token, instead of user and password.', secret=True),
    _service('project-id', 'The project that the scheduler works for, by its id.'),
    _service('project-name', 'That project by its name.'),
    _service('project-domain-id', 'The domain of the project, by its id.'),
    _service('project-domain-name', 'That domain by its name.'),
    _service('user-domain-id', 'The domain of the user, by its id.'),
    _service('user-domain-name', 'That domain by its name.'),
    _service('backup-url', 'Where freezer-api is, if not where the catalogue says.'),
    _service('region-name', 'The region, where the catalogue has several.'),
    _service(
        'endpoint-type',
        'Which of the addresses in the catalogue: public, internal or admin; public '
        'if that is not given either.',
    ),
    _service('cert', 'A file with a certificate and its key, to be known by.'),
    _service('cacert', 'A file with the authorities that are trusted.'),
)

# Freezer 19's, for what is not there: known, so that who sets one is told.
_ABSENT = 'Not there yet.'
ABSENT_OPTS: dict[str, tuple[Any, ...]] = {
    GROUP: (cfg.BoolOpt('enable-v1-api', default=False, help=_ABSENT),),
    'coordination': (cfg.StrOpt('backend-url', help=_ABSENT),),
}


def list_opts() -> list[tuple[str, list[Any]]]:
    """(group, options), for oslo-config-generator."""
    return [
        (GROUP, list(SCHEDULER_OPTS)),
        (CAPABILITIES, list(CAPABILITIES_OPTS)),
        (SERVICE_AUTH, list(SERVICE_AUTH_OPTS)),
    ]
