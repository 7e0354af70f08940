"""Makes the start of a program faster."""

import contextlib
import gc
import importlib.util
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any, Final

# Objects that are made between two collections; Python's default is 700.
_BETWEEN_COLLECTIONS: Final = 20_000

# oslo.config, oslo.utils and botocore import them at once, for kinds of options and
# calls that the agent does not have. They take a sixth of the time it needs to start.
_SELDOM_USED = ('iso8601', 'jmespath', 'netaddr', 'rfc3986')
_executing = threading.RLock()


class _Deferred(types.ModuleType):
    """A module that is executed when an attribute of it is first needed.

    :class:`importlib.util.LazyLoader` is the same, but before Python 3.13 another
    thread may see a module that is half executed.
    """

    def __getattr__(self, name: str) -> Any:
        with _executing:
            spec = self.__dict__.pop('_deferred', None)
            if spec is not None:
                spec.loader.exec_module(self)
        try:
            return self.__dict__[name]
        except KeyError:
            message = f'module {self.__name__!r} has no attribute {name!r}'
            raise AttributeError(message) from None


def defer_seldom_used() -> None:
    """From now on, execute modules that are imported but seldom used when they are
    used. To be called before oslo.config is imported."""
    for name in _SELDOM_USED:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            module.__class__ = _Deferred
            module.__dict__['_deferred'] = spec
            sys.modules[name] = module


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


def collect_less_often() -> None:
    """Search for garbage less often than by default.

    A backup makes tens of thousands of records that live for a while. Searching them
    takes a sixth of the time that the walk takes.
    """
    gc.set_threshold(_BETWEEN_COLLECTIONS)
