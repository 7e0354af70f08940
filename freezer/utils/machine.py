"""Identifies the machine."""

import hashlib
import hmac
from pathlib import Path

_MACHINE_ID = Path('/etc/machine-id')


def identity() -> str | None:
    """A name of this installation, hexadecimal; None if it has none.

    The content of ``/etc/machine-id`` is confidential, so a digest is used, as
    machine-id(5) advises. Copies of one disk image have the same until it is removed.
    """
    try:
        content = _MACHINE_ID.read_text().strip()
    except (OSError, ValueError):
        return None
    if len(content) != 32:
        return None  # "uninitialized", or empty as in images of containers
    return hmac.digest(content.encode(), b'freezer', hashlib.sha256).hex()
