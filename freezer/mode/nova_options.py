"""The options of mode nova: none, but an engine."""

from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(engine='nova')
