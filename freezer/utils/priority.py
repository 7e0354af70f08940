"""Gives this process and its children the highest priority."""

import logging
import os
import subprocess

LOG = logging.getLogger(__name__)

_HIGHEST_NICENESS = -19


def raise_to_highest() -> None:
    """Raise CPU and disk priority; if that is not allowed, log a warning."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _HIGHEST_NICENESS)
        subprocess.run(
            ['ionice', '-c', '1', '-n', '0', '-p', str(os.getpid())],  # noqa: S607
            check=True,
            capture_output=True,
            # Other variables may contain secrets.
            env={'PATH': os.environ.get('PATH', os.defpath)},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        LOG.warning('the priority could not be raised: %s', error)
