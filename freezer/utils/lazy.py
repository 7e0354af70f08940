"""Modules that others import at their top and seldom need."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def postpone(*names: str) -> None:
    """Let these be loaded when something of them is used, and not when they are first
    imported. One that is loaded already is left as it is."""
    sys.meta_path.insert(0, _Finder(names))


class _Finder:
    """What Python asks for a module's loader."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._names:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
