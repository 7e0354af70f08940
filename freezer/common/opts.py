"""The agent's options, those of every plugin, and what ``--help`` says of them."""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from freezer.common import parsing, plugins, upstream, usage
from freezer.common.arguments import closest, suggestion
from freezer.exceptions import ConfigError
from freezer.stream import compression, encryption
from freezer.utils.types import Age, Date, Size

PROG = 'freezer-agent'
AGENT = 'the agent'
ACTIONS = {
    'backup': 'make a backup of --path-to-backup',
    'restore': 'restore the newest state, or an earlier one, into --restore-abs-path',
    'info': 'list the backups on the storage',
    'list': 'list the files in a backup',
    'find': 'find files in all backups of a name',
    'diff': 'compare two states of a backup',
    'dump': 'print the contents of a file in a backup, or a stream',
    'mount': 'show all backups as directories, below --mount-point',
    'admin': 'delete old backups and the leftovers of failed ones',
    'check': 'test whether this storage works for backups and restores',
    'verify': 'check that the stored backups are complete and undamaged',
    'copy': 'copy backups to another storage, that of --copy-to',
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
        help='What is backed up: fs means ordinary files, mysql and mongo the data '
        'directory of a database server, glance the images that --engine glance backs '
        'up, cinder volumes, nova servers. Other modes quiesce an application during '
        'the backup.',
    ),
    cfg.StrOpt(
        'engine',
        short='e',
        dest='engine_name',
        default=plugins.DEFAULT_ENGINE,
        help='The program or format that archives are made with: tar for files, '
        'blocks for a disk image or a block device; '
        'glance for images of OpenStack, cinder for its volumes, nova for its servers; '
        'stream for the output of a command.',
    ),
    cfg.StrOpt(
        'snapshot',
        short='s',
        metavar='KIND',
        help='Back up a snapshot of the files, which is made and removed for it: lvm, '
        'btrfs, auto for the one that fits --path-to-backup, or none. Any other text '
        'means auto. Default: none.',
    ),
    cfg.StrOpt(
        'storage',
        help='Where backups are stored: s3, ssh, ftps, ftp, or local for a directory. '
        'Required, here or in [storage:NAME] sections of a job file.',
    ),
    cfg.StrOpt(
        'copy-to',
        metavar='NAME',
        help='With action copy: copy to the storage of the section [storage:NAME] of '
        'the job file. The source is that of --storage; without that option, the other '
        '[storage:NAME] sections.',
    ),
    cfg.IntOpt(
        'copy-parallel',
        metavar='N',
        default=2,
        min=1,
        max=32,
        help='With action copy: the number of levels that are copied at the same time. '
        'Each needs the memory of a backup and of a restore.',
    ),
    cfg.StrOpt(
        'container',
        short='C',
        default='',
        help='Storage s3: bucket or bucket/prefix. Storage local: a directory. '
        'Storages ssh, ftps and ftp: a directory of the server.',
    ),
    cfg.MultiStrOpt(
        'path-to-backup',
        metavar=usage.PATH,
        short='F',
        default=[],
        help='The file or directory to back up. May be given more than once; in a job '
        'file, one path per line. With engine stream, - is standard input.',
    ),
    cfg.MultiStrOpt(
        'files-from',
        metavar=usage.FILE,
        default=[],
        help='Back up the files and directories that are listed in this file, or on '
        'standard input if it is -: one path a line, directories with all that is in '
        'them. With --path-to-backup DIR, paths in that directory, which may be '
        'relative to it. May be given more than once; in a job file, one per line.',
    ),
    cfg.MultiStrOpt(
        'files-from0',
        metavar=usage.FILE,
        default=[],
        help='As --files-from, for a list in which a null byte ends each path, as find '
        '-print0 writes it.',
    ),
    cfg.StrOpt(
        'backup-name',
        short='N',
        default='freezer_{mode}_{resource_id}',
        help='Name of the backup. Host name and backup name together identify it. '
        '{mode}, {backup_media}, {storage}, {container}, {project_id} and '
        '{resource_id} are replaced; {resource_id} is the host name. With engine '
        'glance, a slash and the ID of the image follow the name; so do those of '
        'volumes and servers.',
    ),
    cfg.StrOpt(
        'hostname',
        help="Use this host name instead of the machine's own, for example to restore "
        "another machine's backup. Default: the name of this machine.",
    ),
    cfg.StrOpt(
        'restore-abs-path',
        metavar=usage.DIRECTORY,
        help='The directory to restore into; created if needed. Engines glance, cinder '
        'and nova restore into a new image, volume or server instead.',
    ),
    cfg.Opt(
        'restore-from-date',
        type=Date(until=True),
        help='Restore the newest backup made at or before this time, or list or dump '
        'files of it, or copy it; with action find, search only backups made by then. '
        'ISO 8601, UTC unless it has an offset, or epoch seconds. A date alone, as '
        '2026-01-31, means the end of that day; now, today and yesterday are '
        'understood. Default: the newest.',
    ),
    cfg.Opt(
        'from-date',
        type=Date(until=True),
        help='With action diff: the older state, that of the newest backup made at or '
        'before this date, which is written as that of --restore-from-date.',
    ),
    cfg.Opt(
        'to-date',
        type=Date(until=True),
        help='With action diff: the newer state. Default: the newest.',
    ),
    cfg.MultiStrOpt(
        'include',
        metavar='PATTERN',
        default=[],
        help='With action restore, list, find, diff or dump: only paths that match '
        'this pattern, and everything below them. A pattern starts at the top of the '
        'backup; * ? [ ] match within a name, ** any directories. May be given more '
        'than once; in a job file, one pattern per line.',
    ),
    cfg.MultiStrOpt(
        'tag',
        metavar='TAG',
        default=[],
        help='With action backup: record this word in the backup. Anyone who can read '
        'the storage can see it. With info, restore, list, dump, diff and copy: only '
        'backups with this tag. With retention: keep all backups without it. May be '
        'given more than once: then a backup needs all of them.',
    ),
    cfg.StrOpt(
        'note',
        metavar='TEXT',
        help='With action backup: record this sentence in the backup, for --action '
        'info. Anyone who can read the storage can see it.',
    ),
    cfg.BoolOpt(
        'overwrite',
        default=False,
        help='Restore into a directory that is not empty. Files that are not in the '
        'backup are removed from the directories that are; they are listed first. '
        'Mounted file systems keep all their files.',
    ),
    cfg.BoolOpt(
        'keep-extra',
        default=False,
        help='Restore into a directory that is not empty, and remove nothing: files of '
        'the backup are replaced, all others are kept.',
    ),
    cfg.StrOpt(
        'mount-point',
        metavar=usage.DIRECTORY,
        help='With action mount: an empty directory, in which the backups appear, '
        'read-only, until the agent ends. Needs the extra mount.',
    ),
    cfg.BoolOpt(
        'allow-other',
        default=False,
        help='With action mount: other users may read the files as well, as far as '
        'their modes allow.',
    ),
    cfg.Opt(
        'max-restore-size',
        type=Size(min=0),
        default=0,
        help='Abort the restore if the decompressed data of all levels is larger than '
        'this, e.g. 20G. Holes in sparse files are not counted. 0: no limit.',
    ),
    cfg.BoolOpt(
        'untrusted',
        default=False,
        help='Restore a backup that somebody else may have modified: drop set-user-ID '
        'and set-group-ID bits and capabilities, and write empty files for device '
        'nodes.',
    ),
    cfg.BoolOpt(
        'incremental',
        default=False,
        help='Back up the changes since the previous level, if there is one.',
    ),
    cfg.IntOpt('max-level', min=0, help='After this level, start again at level 0.'),
    cfg.IntOpt(
        'always-level',
        min=0,
        help='Never go above level N: later backups repeat level N (differential '
        'backups).',
    ),
    cfg.FloatOpt(
        'restart-always-level',
        metavar='DAYS',
        min=0,
        help='Start again at level 0 when the last level 0 is older than this many '
        'days.',
    ),
    cfg.FloatOpt(
        'remove-older-than',
        metavar='DAYS',
        short='R',
        min=0,
        help='Delete chains in which every level is older than this many days. With '
        'action admin, or after a backup.',
    ),
    cfg.Opt(
        'remove-from-date',
        type=Date(until=False),
        help='The old name of --remove-before-date.',
    ),
    cfg.Opt(
        'remove-before-date',
        type=Date(until=False),
        help='Delete chains in which every level was made at or before this date. A '
        'date alone, as 2026-01-31, keeps all that was made on that day. With action '
        'admin, or after a backup.',
    ),
    cfg.IntOpt(
        'keep-last',
        metavar='N',
        min=0,
        help='Keep the newest N backups, and delete those that no keep option keeps '
        'and no kept one builds on. With action admin, or after a backup.',
    ),
    *(
        cfg.IntOpt(
            f'keep-{adverb}',
            metavar='N',
            min=0,
            help=f'Keep the newest backup of each of the last N {periods} that have '
            f'one. Times are UTC.',
        )
        for adverb, periods in (
            ('hourly', 'hours'),
            ('daily', 'days'),
            ('weekly', 'weeks, from Monday on,'),
            ('monthly', 'months'),
            ('yearly', 'years'),
        )
    ),
    cfg.Opt(
        'keep-within',
        type=Age(),
        metavar='AGE',
        help='Keep all backups that are at most this much older than the newest: 36h, '
        '30d, 4w or 1y.',
    ),
    cfg.Opt(
        'pin',
        type=Date(until=True),
        metavar='DATE',
        help='With action admin: protect a state from all retention, with the levels '
        'that it builds on. The date is that of --restore-from-date, which would '
        'restore the same state.',
    ),
    cfg.Opt(
        'unpin',
        type=Date(until=True),
        metavar='DATE',
        help='With action admin: undo --pin.',
    ),
    cfg.StrOpt(
        'compression',
        choices=compression.NAMES,
        default='gzip',
        help='Compression of the backup. Freezer 19 cannot read zstd or none.',
    ),
    cfg.StrOpt(
        'encrypt-pass-file',
        help='File whose first line is the passphrase to encrypt and decrypt backups '
        'with; see --encryption for the format.',
    ),
    cfg.StrOpt(
        'encrypt-pass-command',
        metavar='COMMAND',
        help='Command whose first line of output is the passphrase, in place of '
        '--encrypt-pass-file; written as for --command. It runs once, without a '
        'terminal, when the passphrase is first needed, and may take 60 seconds.',
    ),
    cfg.IntOpt(
        'encrypt-pass-fd',
        metavar='N',
        min=0,
        help='Number of an open file descriptor whose first line is the passphrase, in '
        'place of --encrypt-pass-file, as in --encrypt-pass-fd 3 3<FILE. 0 is standard '
        'input.',
    ),
    cfg.StrOpt(
        'encryption',
        choices=encryption.NAMES,
        help='Encryption format; needs a passphrase, as from --encrypt-pass-file. '
        'openssl, the default, is that of "openssl enc -aes-256-cfb", which Freezer 19 '
        'reads. It is not authenticated: anyone who can write to the storage can '
        'change what is restored. File names are visible. age is the format of age: '
        'modified or exchanged backups are detected, and file names are hidden. A '
        'restore detects the format; with this option, it rejects backups that are '
        'unencrypted or in another format.',
    ),
    cfg.Opt(
        'max-segment-size',
        short='M',
        type=Size(min=1),
        # Freezer 19 has 32 MiB; decision 0008.
        default=8 * 1024 * 1024,
        help='Size of a part on S3, e.g. 8M; at least 5M there.',
    ),
    cfg.BoolOpt(
        'consistency-check',
        default=False,
        help='Compute a checksum of the files before the backup, and add it to the '
        'result.',
    ),
    cfg.StrOpt(
        'consistency-checksum',
        help='After a restore, compare the files with this checksum, from a backup '
        'with --consistency-check.',
    ),
    cfg.BoolOpt(
        'verify-data',
        default=False,
        help='With action copy: compare every byte of levels that both storages have. '
        'With action verify: read and check every byte. Archives that are not '
        'encrypted, or whose passphrase is given with --encrypt-pass-file, are '
        'decompressed and checked as by a restore, and compared with their indexes.',
    ),
    cfg.BoolOpt(
        'rebuild-index',
        default=False,
        help='With action admin: make the indexes of levels that have none, as those '
        'of earlier versions and of Freezer 19. Reads all data of these levels once.',
    ),
    cfg.BoolOpt(
        'long',
        default=False,
        help='With action info: show compression, encryption, storage class and locks '
        'of each level. Takes three requests per level. With action backup: show the '
        'table of its properties on a terminal, too.',
    ),
    cfg.IntOpt(
        'last',
        metavar='N',
        min=1,
        help='With action info: show only the newest N backups of each name, with '
        'their tags and notes. With action copy: copy only these, and the levels that '
        'they build on.',
    ),
    cfg.BoolOpt(
        'dry-run',
        default=False,
        help='Write and delete nothing; print what would be done.',
    ),
    cfg.BoolOpt(
        'sync',
        default=True,
        help="Write the source's file system to its device before it is read, so that "
        'changes of mapped files are noticed.',
    ),
    cfg.BoolOpt(
        'allow-incomplete',
        default=False,
        help='Exit with 0, not 3, if files of the source could not be read and are '
        'missing from the backup, or if the target of a restore cannot hold '
        'everything.',
    ),
    cfg.StrOpt(
        'metadata-out',
        metavar=usage.FILE,
        help='Write the result as JSON to this file; - is standard output.',
    ),
    cfg.BoolOpt(
        'json',
        default=False,
        help='Print the result as JSON: the same as --metadata-out -.',
    ),
    cfg.StrOpt(
        'metrics-file',
        help='Write Prometheus metrics of the run to this file, also after a failure. '
        'The textfile collector of node_exporter reads files in its directory whose '
        'names end in .prom. Several backups may share one. Needs the extra metrics.',
    ),
    cfg.BoolOpt(
        'quiet',
        short='q',
        default=False,
        help='Print nothing on standard error: no progress, summary or errors. The '
        'log has them.',
    ),
    cfg.StrOpt(
        'max-priority',
        help='Run with the highest CPU and I/O priority (any value switches it on).',
    ),
    cfg.StrOpt(
        'proxy',
        metavar='URL',
        help='HTTP proxy for connections to the storage, as http://host:port.',
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
        help='Bytes per second to send to all storages together, e.g. 10M. -1: no '
        'limit.',
    ),
    cfg.Opt(
        'download-limit',
        type=Size(),
        default=-1,
        help='Bytes per second to receive from all storages together, e.g. 10M. -1: '
        'no limit.',
    ),
    cfg.StrOpt(
        'config',
        metavar=usage.FILE,
        help='Job file (INI) with more options. The command line overrides it. Each '
        '[storage:NAME] section is one of several storages that all get the backup. '
        'With action copy, one of them is the target.',
    ),
    cfg.StrOpt(
        'command',
        help='Command for action exec. It is split as a shell does, but no shell runs '
        'it; | makes a pipeline. Other operators of a shell, such as && and >, are '
        "refused: use sh -c '…'. Patterns and variables are not expanded.",
    ),
    cfg.StrOpt(
        'pre-command',
        help='With action backup or restore: command to run first; written as for '
        '--command. FREEZER_ACTION, FREEZER_HOSTNAME, FREEZER_BACKUP_NAME and '
        'FREEZER_CONTAINER are in its environment. If it fails, nothing else is done.',
    ),
    cfg.StrOpt(
        'post-command',
        help='With action backup or restore: command to run afterwards, also after an '
        'error or a signal, and if --pre-command failed. Its environment and its '
        'standard input are those of --on-success-command. If it fails, so does the '
        'run, and a backup that is committed stays.',
    ),
    cfg.FloatOpt(
        'hook-timeout',
        metavar='SECONDS',
        default=300.0,
        min=1.0,
        help='How long --pre-command and --post-command may take each. After a signal, '
        '--post-command has at most 30 seconds.',
    ),
    cfg.StrOpt(
        'on-success-command',
        metavar='COMMAND',
        help='Command to run after an action that exits with 0; written as for '
        '--command. FREEZER_STATUS, FREEZER_RESULT, FREEZER_MESSAGE, FREEZER_ACTION, '
        'FREEZER_HOSTNAME, FREEZER_BACKUP_NAME, FREEZER_CONTAINER, FREEZER_LEVEL and '
        'FREEZER_EXIT_CODE describe the result in its environment, and its standard '
        'input is the JSON result. It may take 60 seconds. If it fails, '
        'the agent warns, and keeps its exit code.',
    ),
    cfg.StrOpt(
        'on-failure-command',
        metavar='COMMAND',
        help='The same after an action that exits with another code: also with 3, '
        'which means that something is missing from a backup or restore.',
    ),
)


def declared_options() -> dict[str | None, tuple[Any, ...]]:
    """group (None: the main one) -> options, of the agent and every plugin.

    :raises ConfigError: two plugins declare an option, and differently
    """
    declared: dict[str | None, tuple[Any, ...]] = {}
    for groups in _by_owner().values():
        for group, options in groups.items():
            declared[group] = declared.get(group, ()) + tuple(options)
    return declared


@functools.cache
def _by_owner() -> dict[str, dict[str | None, list[Any]]]:
    """Owner in words -> group -> options. An option that several plugins share belongs
    to the first of them."""
    owned: dict[str, dict[str | None, list[Any]]] = {}
    taken: dict[str, tuple[str, str | None, Any]] = {}
    for owner, group, option in _declarations():
        shared = False
        for name in _names(group, option):
            first, *other = taken.setdefault(name, (owner, group, option))
            if first == owner:
                continue
            if other != [group, option]:
                raise ConfigError(
                    f'{first} and {owner} declare {name}, but differently: remove the '
                    f'package of one of them'
                )
            shared = True
        if not shared:
            owned.setdefault(owner, {}).setdefault(group, []).append(option)
    return owned


def _declarations() -> Iterator[tuple[str, str | None, Any]]:
    """(owner in words, group, option) of each."""
    yield from ((AGENT, None, option) for option in AGENT_OPTS)
    for kind, word in plugins.KINDS.items():
        for name, options in plugins.options(kind).items():
            for _key, group, option in options:
                yield f'{word} {name}', group, option


def _names(group: str | None, option: Any) -> list[str]:
    """The names it takes, on the command line and in job files."""
    prefix = f'{group}-' if group else ''
    flags = [f'--{prefix}{option.name}', f'{prefix}{option.dest}'.replace('-', '_')]
    return [*flags, f'-{option.short}'] if option.short else flags


@functools.cache
def absent_options() -> tuple[Any, ...]:
    """Options of Freezer 19 that nothing here declares."""
    taken = {
        name
        for group, options in declared_options().items()
        for option in options
        for name in _names(group, option)
    }
    return tuple(
        option for option in upstream.OPTIONS if taken.isdisjoint(_names(None, option))
    )


def every_option() -> dict[str | None, tuple[Any, ...]]:
    """The declared options, and the absent ones."""
    declared = declared_options()
    return {**declared, None: (*declared[None], *absent_options())}


def list_opts() -> list[tuple[str | None, list[Any]]]:
    """(group, options), for oslo-config-generator."""
    return [(group, list(options)) for group, options in declared_options().items()]


class _CliOptions(collections.deque[Any]):
    """oslo.config's options of the command line.

    oslo.config searches all of them for each new one, and compares every attribute: a
    fifteenth of the time an agent needs to start. Group and name are enough, because it
    refuses another option of that name itself.
    """

    def __contains__(self, entry: Any) -> bool:
        name, group = entry['opt'].dest, entry['group']
        return any(one['opt'].dest == name and one['group'] is group for one in self)


def declare() -> cfg.ConfigOpts:
    """oslo.config's object, which has read nothing yet.

    :raises ConfigError: a plugin declares an option of oslo.log
    """
    conf = cfg.ConfigOpts()
    conf._cli_opts = _CliOptions()
    log.register_options(conf)
    try:
        for group, options in every_option().items():
            conf.register_cli_opts(options, group=group)
    except cfg.DuplicateOptError as error:
        raise ConfigError(
            f'a plugin declares the option {error.opt_name} of oslo.log: remove its '
            f'package'
        ) from error
    return conf


def parse_alone(argv: Sequence[str]) -> cfg.ConfigOpts:
    """A command line without configuration files and environment."""
    conf = declare()
    conf(
        [parsing.literal(argument) for argument in argv],
        project='freezer',
        prog=PROG,
        default_config_files=[],
        default_config_dirs=[],
        use_env=False,
    )
    return conf


def unavailable(conf: cfg.ConfigOpts) -> list[str]:
    """A message for each option of Freezer 19 that is set, and not there."""
    return [
        upstream.absence(option.name)
        for option in absent_options()
        if upstream.is_set(option, conf[option.dest])
    ]


def refuse_unavailable(conf: cfg.ConfigOpts) -> None:
    """:raises ConfigError: an option of Freezer 19, or a snapshot, is not there"""
    problems = unavailable(conf)
    if problems:
        raise ConfigError('; '.join(problems))
    snapshot_name(conf.snapshot)


def snapshot_name(text: str | None) -> str | None:
    """The plugin that ``--snapshot`` chooses, or ``auto``; None for none.

    In Freezer 19 any text requests a snapshot.

    :raises ConfigError: it seems to be a misspelt name, or is one of Freezer 19
    """
    name = (text or '').strip()
    if upstream.is_unset(False, name) or name.lower() == upstream.NONE:
        return None
    if reason := upstream.REFUSED.get(('snapshot', name.lower())):
        raise ConfigError(f'--snapshot {name} {reason}')
    known = [*plugins.names(plugins.SNAPSHOTS), upstream.AUTO, upstream.NONE]
    close = closest(name, known)
    if close and close[0].lower() != name.lower():
        raise ConfigError(
            f'--snapshot {name!r} is not available{suggestion(name, known)}'
        )
    return close[0] if close else upstream.AUTO


#: Headings of the help, by the option of AGENT_OPTS that each precedes.
HEADINGS = {
    'action': 'What to do',
    'mode': 'Source and storage',
    'restore-abs-path': 'Restoring',
    'incremental': 'Levels',
    'remove-older-than': 'Removing old backups',
    'compression': 'Format of backups',
    'verify-data': 'This run',
    'proxy': 'Network',
    'config': 'Job files and commands',
}

_USAGE = """\
freezer-agent --action ACTION --storage STORAGE --container CONTAINER …
       freezer-agent --config JOBFILE …"""

_DESCRIPTION = """\
Make full and incremental backups of files to S3-compatible object storage, an
SSH server, or a directory, and restore any earlier state. Exit code 0 means
that the backup restores, byte for byte.

Actions:
"""

_EPILOG = """\
Flags have an inverse: --noincremental, --s3-nocreate-bucket. In job files
options are written with underscores: path_to_backup = /etc. Pass the keys of a
bucket and the URL of its service in the environment, where other users cannot
see them: ACCESS_KEY, SECRET_KEY and ENDPOINT.

Examples:
  Make an incremental backup; restore the state at the end of January; list all
  backups; verify every byte of them:

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
    return usage.Usage(
        PROG,
        _USAGE,
        _DESCRIPTION
        + '\n'.join(f'  {name:9}{words}' for name, words in ACTIONS.items()),
        (
            *usage.by_headings(AGENT_OPTS, HEADINGS),
            *(
                usage.of_group(owner.capitalize(), groups)
                for owner, groups in _by_owner().items()
                if owner != AGENT
            ),
            usage.common('freezer.conf and freezer-agent.conf'),
            usage.OTHERS,
        ),
        _EPILOG,
    )
