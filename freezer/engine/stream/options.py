"""The options of engine stream, apart from the engine, so that ``--help`` does not
import it."""

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions

PRESETS = (
    'mariadb-backup',
    'mariadb-dump',
    'pg_basebackup',
    'pg_dump',
    'pg_dumpall',
    'mongodump',
)

OPTIONS = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'stream',
                metavar='PRESET',
                choices=PRESETS,
                help='Back up the output of this program, with arguments that make a '
                'consistent backup of a database server. With action restore: unpack '
                'and prepare a data directory in --restore-abs-path '
                '(mariadb-backup, pg_basebackup); or, without --restore-abs-path, '
                'restore into a running server, which needs --overwrite.',
            ),
            cfg.StrOpt(
                'stream-arguments',
                metavar='ARGUMENTS',
                help='Further arguments for the program of --stream, as '
                '--defaults-extra-file=/root/backup.cnf. No passwords: every user can '
                'see the arguments of a process.',
            ),
            cfg.StrOpt(
                'stream-command',
                help='Back up the output of this command; written as for --command. '
                'The backup is committed only if every process of it exits with 0. '
                'With --stream, it replaces the arguments of the preset.',
            ),
            cfg.StrOpt(
                'stream-name',
                metavar='NAME',
                help='The name of the file that a restore into a directory makes. '
                'Default: that of the preset, or the name of the program.',
            ),
            cfg.StrOpt(
                'restore-command',
                help='With action restore: pass the stream to the standard input of '
                'this command, in place of --restore-abs-path; written as for '
                '--command. It must read all of it and exit with 0.',
            ),
        )
    },
    exclusive=(
        *('stream', 'stream_arguments', 'stream_command', 'stream_name'),
        'restore_command',
    ),
)
