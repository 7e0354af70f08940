"""The agent's options, and every option there is."""

from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from freezer.common import plugins, usage
from freezer.stream import compression, encryption
from freezer.utils.types import Date, Size

ACTIONS = {
    'backup': 'make a backup of --path-to-backup',
    'restore': 'restore the newest state, or an earlier one, into --restore-abs-path',
    'info': 'tell which backups there are',
    'list': 'tell which files are in a backup',
    'admin': 'remove old backups, and what failed ones have left',
    'check': 'try out whether backups can be made and restored here',
    'verify': 'look whether backups are there as they were written',
    'exec': 'run --command',
}

AGENT_OPTS = (
    cfg.StrOpt(
        'action',
        choices=list(ACTIONS.items()),
        default='backup',
        help='What to do.',
    ),
    cfg.StrOpt(
        'mode',
        short='m',
        default='fs',
        help='What the files belong to. fs: nothing special.',
    ),
    cfg.StrOpt(
        'engine',
        short='e',
        dest='engine_name',
        default='tar',
        help='How the archive is made.',
    ),
    cfg.StrOpt(
        'storage',
        help='Where backups live: s3, or local for a directory. Has to be given, here '
        'or in [storage:NAME] sections of a job file.',
    ),
    cfg.StrOpt(
        'container',
        short='C',
        default='',
        help='Storage s3: bucket or bucket/prefix. Storage local: a directory.',
    ),
    cfg.StrOpt(
        'path-to-backup',
        metavar=usage.PATH,
        short='F',
        help='The file or directory to back up.',
    ),
    cfg.StrOpt(
        'backup-name',
        short='N',
        default='freezer_{mode}_{resource_id}',
        help='With the host name, what a backup is found by. {mode}, {backup_media}, '
        '{storage}, {container}, {project_id} and {resource_id} are filled in; for '
        'files {resource_id} is the host name.',
    ),
    cfg.StrOpt(
        'hostname',
        help='Stands for the name of this machine, as when the backup of another one '
        'is restored. Default: the name of this machine.',
    ),
    cfg.StrOpt(
        'restore-abs-path',
        metavar=usage.DIRECTORY,
        help='The directory to restore into; made if needed.',
    ),
    cfg.Opt(
        'restore-from-date',
        type=Date(),
        help='Restore the state of this moment: the newest backup not after it. '
        'ISO 8601; UTC unless an offset is given. Default: the newest.',
    ),
    cfg.MultiStrOpt(
        'include',
        metavar='PATTERN',
        default=[],
        help='With action restore or list: only what this pattern matches, and all '
        'below it. A path from the top of what was backed up; * ? [ ] within a name, '
        '** for any directories. May be given more than once; in a job file, one '
        'pattern a line.',
    ),
    cfg.BoolOpt(
        'overwrite',
        default=False,
        help='Restore into a directory that is not empty. What the backup does not '
        'hold is removed from the directories it does hold; it is listed first.',
    ),
    cfg.Opt(
        'max-restore-size',
        type=Size(min=0),
        default=0,
        help='Give up a restore when its archives, decompressed, come to more than '
        'this, all levels together; 20G and the like. Holes do not count. 0: no limit.',
    ),
    cfg.BoolOpt(
        'untrusted',
        default=False,
        help='Restore a backup that somebody else may have changed: files lose their '
        'set-user-ID and set-group-ID bits and capabilities, and device nodes become '
        'empty files.',
    ),
    cfg.BoolOpt(
        'incremental',
        default=False,
        help='Back up what changed since the previous level, if there is one.',
    ),
    cfg.IntOpt('max-level', min=0, help='After this level, begin again at level 0.'),
    cfg.IntOpt(
        'always-level',
        min=0,
        help='Once at this level, stay at it: each backup holds all that changed '
        'since the level below.',
    ),
    cfg.FloatOpt(
        'restart-always-level',
        metavar='DAYS',
        min=0,
        help='Begin again at level 0 when the last level 0 is older than this many '
        'days.',
    ),
    cfg.FloatOpt(
        'remove-older-than',
        metavar='DAYS',
        short='R',
        min=0,
        help='Remove chains of levels that are all older than this many days. With '
        'action admin, or after a backup.',
    ),
    cfg.Opt(
        'remove-from-date',
        type=Date(),
        help='The old name of --remove-before-date.',
    ),
    cfg.Opt(
        'remove-before-date',
        type=Date(),
        help='Remove chains of levels that were all made at or before this moment. '
        'With action admin, or after a backup.',
    ),
    cfg.StrOpt(
        'compression',
        choices=compression.NAMES,
        default='gzip',
        help='How the stream is compressed. Freezer 19 cannot read zstd and none.',
    ),
    cfg.StrOpt(
        'encrypt-pass-file',
        help='Encrypt with the passphrase in the first line of this file, in the '
        'format of --encryption; decrypt with it.',
    ),
    cfg.StrOpt(
        'encryption',
        choices=encryption.NAMES,
        help='How to encrypt; needs --encrypt-pass-file. openssl, the default: as '
        '"openssl enc -aes-256-cfb" does, for Freezer 19; it is not authenticated, so '
        'that who can write to the storage can change what is restored, and names of '
        'files are not hidden. age: as age does; what was changed or exchanged is '
        'detected, and names of files are hidden. A restore knows by itself, and with '
        'this option refuses what is in another format, or not encrypted.',
    ),
    cfg.StrOpt(
        'dereference-symlink',
        metavar='LINKS',
        choices=['none', 'soft', 'hard', 'all'],
        default='none',
        help='Store what symbolic links (soft), hard links or both point to, in place '
        'of the links.',
    ),
    cfg.MultiStrOpt(
        'exclude',
        metavar='PATTERN',
        default=[],
        help="Leave out files that match this pattern, tar's wildcards. May be given "
        'more than once; in a job file, one pattern a line.',
    ),
    cfg.Opt(
        'max-segment-size',
        short='M',
        type=Size(min=1),
        # Freezer 19 has 32 MiB; decision 0008.
        default=8 * 1024 * 1024,
        help='Bytes of a part on S3. At least 5 MiB there. Sizes may be written 8M.',
    ),
    cfg.BoolOpt(
        'consistency-check',
        default=False,
        help='Compute a checksum of the files before they are backed up, and give it '
        'with the result.',
    ),
    cfg.StrOpt(
        'consistency-checksum',
        help='After a restore, compare with this checksum, which a backup with '
        '--consistency-check gave.',
    ),
    cfg.BoolOpt(
        'verify-data',
        default=False,
        help='With action verify: read every byte, and check it.',
    ),
    cfg.BoolOpt(
        'long',
        default=False,
        help='With action info: say of each level how it was made and how it is kept. '
        'Takes three requests for each.',
    ),
    cfg.BoolOpt(
        'dry-run',
        default=False,
        help='Write and remove nothing, and say what would be done.',
    ),
    cfg.BoolOpt(
        'sync', default=True, help='Write the buffers of file systems to disk first.'
    ),
    cfg.StrOpt(
        'metadata-out',
        metavar=usage.FILE,
        help='Write the result as JSON to this file; - is standard output.',
    ),
    cfg.BoolOpt(
        'json',
        default=False,
        help='The result as JSON on standard output: the same as --metadata-out -.',
    ),
    cfg.StrOpt(
        'metrics-file',
        help='Write the result as metrics for Prometheus to this file, after a failure '
        'as well; for the textfile collector of node_exporter a name that ends in '
        '.prom, in its directory. Several backups may have one file. Needs the extra '
        'metrics.',
    ),
    cfg.BoolOpt(
        'quiet',
        short='q',
        default=False,
        help='Nothing on standard error: no progress, no summary, no errors. The log '
        'has them.',
    ),
    cfg.StrOpt('max-priority', help='Any text: run with the highest priority.'),
    cfg.StrOpt(
        'proxy',
        metavar='URL',
        help='HTTP proxy on the way to the storage, as http://host:port.',
    ),
    cfg.BoolOpt(
        'insecure',
        default=False,
        help="Do not check the storage's TLS certificate.",
    ),
    cfg.Opt(
        'upload-limit',
        type=Size(),
        default=-1,
        help='Bytes per second that may be sent, to all storages together; 10M and '
        'the like. -1: no limit.',
    ),
    cfg.Opt(
        'download-limit',
        type=Size(),
        default=-1,
        help='Bytes per second that may be received, from all storages together; 10M '
        'and the like. -1: no limit.',
    ),
    cfg.StrOpt(
        'config',
        metavar=usage.FILE,
        help='Job file (INI) with more options; [storage:NAME] sections name several '
        'storages that all get the backup. The command line wins.',
    ),
    cfg.StrOpt(
        'command',
        help='What action exec runs: split as a shell would, without a shell; | makes '
        'a pipeline.',
    ),
)


def declared_options() -> dict[str | None, tuple[Any, ...]]:
    """group (None: the main one) -> options, of the agent and every storage driver."""
    options: dict[str | None, tuple[Any, ...]] = {None: AGENT_OPTS}
    for driver in plugins.load_all(plugins.STORAGES).values():
        for group, declared in driver.OPTIONS.items():
            options[group] = options.get(group, ()) + tuple(declared)
    return options


def driver_options(driver: Any) -> Iterator[tuple[str, str | None, Any]]:
    """(key in settings and job files, group, option) of all a driver declares."""
    for group, declared in driver.OPTIONS.items():
        for option in declared:
            yield f'{group}_{option.dest}' if group else option.dest, group, option


def list_opts() -> list[tuple[str | None, list[Any]]]:
    """(group, options), for oslo-config-generator."""
    return [(group, list(options)) for group, options in declared_options().items()]


#: Of the help: each stands before the option of AGENT_OPTS that it begins with.
HEADINGS = {
    'action': 'What to do',
    'mode': 'What, and where to',
    'restore-abs-path': 'Restoring',
    'incremental': 'Levels',
    'remove-older-than': 'Removing old backups',
    'compression': 'What is stored, and how',
    'verify-data': 'This run',
    'proxy': 'Network',
    'config': 'Job files, and commands in them',
}

_USAGE = """\
freezer-agent --action ACTION --storage STORAGE --container CONTAINER …
       freezer-agent --config JOBFILE …"""

_DESCRIPTION = """\
Back up files level by level to S3-compatible object storage, or a directory,
and restore any state there was. Exit code 0 means that it restores, byte for
byte.

Actions:
"""

_EPILOG = """\
Flags have an inverse: --noincremental, --s3-nocreate-bucket. In job files
options are written with underscores: path_to_backup = /etc. The keys of a
bucket are safest in the environment, with the address of its service:
ACCESS_KEY, SECRET_KEY and ENDPOINT.

Examples:
  Back up what has changed; restore the state of the end of January; list what
  there is; verify every byte of it:

    freezer-agent --action backup --storage s3 --container backups/web1 \\
        --backup-name etc --path-to-backup /etc --incremental
    freezer-agent --action restore --storage s3 --container backups/web1 \\
        --backup-name etc --restore-abs-path /tmp/etc \\
        --restore-from-date 2026-01-31T23:59:59
    freezer-agent --action info --storage s3 --container backups/web1
    freezer-agent --action verify --storage s3 --container backups/web1 \\
        --verify-data

  The same options from a file:

    freezer-agent --config job.conf"""


def help_usage() -> usage.Usage:
    """What ``freezer-agent --help`` says."""
    storages = plugins.load_all(plugins.STORAGES).items()
    return usage.Usage(
        'freezer-agent',
        _USAGE,
        _DESCRIPTION
        + '\n'.join(f'  {name:9}{words}' for name, words in ACTIONS.items()),
        (
            *usage.by_headings(AGENT_OPTS, HEADINGS),
            *(
                usage.of_group(f'Storage {name}', driver.OPTIONS)
                for name, driver in storages
                if driver.OPTIONS
            ),
            usage.common('freezer.conf and freezer-agent.conf'),
            usage.OTHERS,
        ),
        _EPILOG,
    )
