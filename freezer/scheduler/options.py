"""The scheduler's options. Old spellings without the group still work."""

from typing import Any

from oslo_config import cfg

from freezer.common import usage

GROUP = 'scheduler'
CAPABILITIES = 'capabilities'


def _old(name: str, *others: str) -> list[Any]:
    """``--name`` and ``--na_me`` for ``--scheduler-na-me``."""
    names = dict.fromkeys((name, name.replace('-', '_'), *others))
    return [cfg.DeprecatedOpt(each, group='DEFAULT') for each in names]


SCHEDULER_OPTS = (
    cfg.StrOpt(
        'client-id',
        short='c',
        deprecated_opts=_old('client-id'),
        help='Leave out jobs whose client_id is another one.',
    ),
    cfg.BoolOpt(
        'no-api',
        short='n',
        default=False,
        deprecated_opts=_old('no-api'),
        help='Take jobs from --scheduler-jobs-dir alone. Has to be given: freezer-api '
        'is not supported yet.',
    ),
    cfg.StrOpt(
        'jobs-dir',
        metavar=usage.PATH,
        short='f',
        deprecated_opts=_old('jobs-dir', 'conf'),
        help='The directory with the job files, whose names end in .conf; or one job '
        'file. Default: FREEZER_SCHEDULER_CONF_D in the environment, or '
        '/etc/freezer/scheduler/conf.d.',
    ),
    cfg.IntOpt(
        'interval',
        metavar='SECONDS',
        short='i',
        min=1,
        default=60,
        deprecated_opts=_old('interval'),
        help='Seconds between two looks at the job files.',
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
        'insecure: false.',
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

# Freezer 19's, for what is not there: known, so that who sets one is told.
_ABSENT = 'Not there yet.'
ABSENT_OPTS: dict[str, tuple[Any, ...]] = {
    GROUP: (
        cfg.BoolOpt('enable-v1-api', default=False, help=_ABSENT),
        cfg.BoolOpt('centralized-scheduler', default=False, help=_ABSENT),
    ),
    'coordination': (cfg.StrOpt('backend-url', help=_ABSENT),),
}


def list_opts() -> list[tuple[str, list[Any]]]:
    """(group, options), for oslo-config-generator."""
    return [(GROUP, list(SCHEDULER_OPTS)), (CAPABILITIES, list(CAPABILITIES_OPTS))]
