"""The garbage collector, disabled while long-lived objects are created."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """A block that creates what lives until the end: modules, options, a client.

    To search it for garbage again and again while it grows takes a sixth of the time an
    agent needs to start. Later collections skip it as well.
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
