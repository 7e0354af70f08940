"""Whether volumes can be read and written with librbd; imports nothing of it."""

import importlib.util
from typing import Final

from freezer.exceptions import ConfigError

#: values of ``--cinder-transfer``
ATTACHMENT: Final = 'attachment'
IMAGE: Final = 'image'


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ('rados', 'rbd'))


def check_transfer(transfer: str | None) -> None:
    """Check the choice of how data is moved.

    :param transfer: None for the first possible one
    :raises ConfigError: this machine cannot do it
    """
    if transfer == ATTACHMENT and not is_installed():
        raise ConfigError(
            '--cinder-transfer attachment needs librbd: install python3-rbd of the '
            'distribution, and the agent in a virtual environment with '
            '--system-site-packages; or use --cinder-transfer image'
        )
