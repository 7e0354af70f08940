"""The options of engines rsync and rsyncv2, apart from the engine, so that ``--help``
does not import it."""

from freezer.engine.tar.options import NUMERIC_OWNER
from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(groups={None: (NUMERIC_OWNER,)})

# Freezer 19 stores the backups of both engines under the name of the first.
RSYNCV2_OPTIONS = PluginOptions(groups={None: (NUMERIC_OWNER,)}, stored_as='rsync')
