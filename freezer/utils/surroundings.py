"""Whether options are checked against the state of this machine.

Files and directories that an option names may be made, or mounted, before the option is
used.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_CHECKED = contextvars.ContextVar('checked', default=True)


def is_checked() -> bool:
    """Whether an option that names a missing or unfit file is an error."""
    return _CHECKED.get()


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """A block in which only the options themselves are checked."""
    token = _CHECKED.set(False)
    try:
        yield
    finally:
        _CHECKED.reset(token)
