"""The options of engine blocks, apart from the engine, so that ``--help`` does not
import it."""

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions

SIZES = {'4K': 4 << 10, '16K': 16 << 10, '64K': 64 << 10, '256K': 256 << 10}

OPTIONS = PluginOptions(
    groups={
        'blocks': (
            cfg.StrOpt(
                'block-size',
                metavar='SIZE',
                choices=list(SIZES),
                help='Size of the blocks that are compared and stored. It takes effect '
                'at level 0; increments have the size of their chain. Default: 4K, '
                'and more for images larger than 1 TiB.',
            ),
        )
    }
)
