"""Makes the start of a program faster."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A block that creates objects that live until the end: modules, options, a client.

    Searching them for garbage again and again while they grow takes a sixth of the time
    an agent needs to start. Later collections skip them as well.
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
