"""The options of mode cinder: none, but an engine."""

from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(engine='cinder')
