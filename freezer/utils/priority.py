"""The highest priority for this process and its children."""

import logging
import os
import subprocess

LOG = logging.getLogger(__name__)

_HIGHEST_NICENESS = -19


def raise_to_highest() -> None:
    """CPU and disk; where that is not allowed, a warning in the log says so."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _HIGHEST_NICENESS)
        subprocess.run(
            ['ionice', '-c', '1', '-n', '0', '-p', str(os.getpid())],  # noqa: S607
            check=True,
            capture_output=True,
            # The keys may be in the rest of it.
            env={'PATH': os.environ.get('PATH', os.defpath)},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        LOG.warning('the priority could not be raised: %s', error)
