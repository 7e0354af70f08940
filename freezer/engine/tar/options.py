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
                help="Exclude files that match this pattern, with tar's wildcards. May "
                'be given more than once; in a job file, one pattern per line.',
            ),
        )
    }
)
