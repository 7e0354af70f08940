"""The options of engine tar, apart from the engine, so that ``--help`` does not import
it."""

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions
from freezer.utils.types import Size

# Of every engine that restores files.
NUMERIC_OWNER = cfg.BoolOpt(
    'numeric-owner',
    default=False,
    help='Restore owners by their numbers. By default, owners are restored '
    'by their names, if this machine has users and groups of these names.',
)

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
            cfg.MultiStrOpt(
                'exclude-from',
                metavar='FILE',
                default=[],
                help='Exclude files that match the patterns in this file: one a line, '
                'as for --exclude. Lines that begin with # are comments; ! before a '
                'pattern undoes the lines above for matching files. May be given more '
                'than once; in a job file, one path per line.',
            ),
            cfg.BoolOpt(
                'exclude-caches',
                default=False,
                help='Exclude the contents of directories with a CACHEDIR.TAG, except '
                'this file.',
            ),
            cfg.MultiStrOpt(
                'exclude-if-present',
                metavar='NAME',
                default=[],
                help='Exclude the contents of directories that have a file of this '
                'name, except this file. May be given more than once; in a job file, '
                'one name per line.',
            ),
            cfg.Opt(
                'exclude-larger-than',
                type=Size(min=1),
                help='Exclude files that are larger than this, e.g. 500M. Holes count.',
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
            NUMERIC_OWNER,
            cfg.BoolOpt(
                'no-attributes',
                default=False,
                help='Restore neither extended attributes, which include capabilities '
                'and SELinux labels, nor ACLs.',
            ),
        )
    }
)
