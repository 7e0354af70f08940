"""What storage local declares: no options, and what makes two containers the same."""

import os
from collections.abc import Hashable, Mapping
from typing import Any

from freezer.utils.plugin_options import PluginOptions


def _place(container: str, _options: Mapping[str, Any]) -> Hashable:
    """The same for two paths that lead to one directory, also by a bind mount."""
    path = os.path.realpath(os.path.expanduser(container))
    below = ''
    while True:
        try:
            status = os.stat(path)
        except OSError:
            below = os.path.join(os.path.basename(path), below)
            path = os.path.dirname(path)
        else:
            return status.st_dev, status.st_ino, below


OPTIONS = PluginOptions(place=_place)
