"""What storage local declares: no options, and what makes two containers the same."""

import os

from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(
    place=lambda container, _options: os.path.realpath(os.path.expanduser(container))
)
