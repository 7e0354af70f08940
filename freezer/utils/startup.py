"""Makes the start of a program faster."""

import contextlib
import gc
import importlib.util
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class Postponed:
    """Loads a module at its first use, not when it is imported. For ``sys.meta_path``.

    (A lazy module put into ``sys.modules`` would be loaded by the import statement.)
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self._name else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


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
