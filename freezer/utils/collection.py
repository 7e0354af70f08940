"""Python's collection of garbage, kept away from what is no garbage."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """A block that makes what stays to the end: modules, options, a client.

    To look through all of it again and again while it is made takes a sixth of the time
    an agent needs to start. It is not looked at later either.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
