"""The options of engine tar, apart from the engine, so that ``--help`` does not import
it."""

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'dereference-symlink',
                metavar='LINKS',
                choices=['none', 'soft', 'hard', 'all'],
                default='none',
                help='Back up the files that symbolic links (soft), hard links (hard) '
                'or both (all) point to, instead of the links.',
            ),
            cfg.MultiStrOpt(
                'exclude',
                metavar='PATTERN',
                default=[],
                help="Exclude files that match this pattern, with tar's wildcards: a "
                'name or path anywhere in the source, ./PATH from its top, or an '
                'absolute path. May be given more than once; in a job file, one '
                'pattern per line.',
            ),
            cfg.BoolOpt(
                'cross-mounts',
                default=False,
                help='Back up the file systems that are mounted below the source, too, '
                'except virtual ones such as /proc.',
            ),
            cfg.BoolOpt(
                'one-file-system',
                default=False,
                help='Do not warn about file systems that are mounted below the source '
                'and are not in the backup.',
            ),
            cfg.BoolOpt(
                'numeric-owner',
                default=False,
                help='Restore owners by their numbers. By default, owners are restored '
                'by their names, if this machine has users and groups of these names.',
            ),
            cfg.BoolOpt(
                'no-attributes',
                default=False,
                help='Restore neither extended attributes, which include capabilities '
                'and SELinux labels, nor ACLs.',
            ),
        )
    }
)
