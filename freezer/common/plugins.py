"""Storages, engines, modes and snapshots by name, from their entry points.

A plugin has two: its class in the group of its kind, imported when it is used, and its
:class:`freezer.utils.plugin_options.PluginOptions` in the group ``<kind>.options``,
imported by every command. The second may be missing.
"""

import functools
from collections.abc import Sequence
from typing import Any

from stevedore.named import NamedExtensionManager

from freezer.common.arguments import suggestion
from freezer.common.upstream import AUTO, OSBRICK, REFUSED
from freezer.exceptions import ConfigError
from freezer.utils.plugin_options import PluginOptions

STORAGES = 'freezer.storage'
ENGINES = 'freezer.engine'
MODES = 'freezer.mode'
SNAPSHOTS = 'freezer.snapshot'
#: of ``--engine``
DEFAULT_ENGINE = 'tar'
#: namespace -> the option that chooses one
KINDS = {
    STORAGES: 'storage',
    ENGINES: 'engine',
    MODES: 'mode',
    SNAPSHOTS: 'snapshot',
}


def names(namespace: str) -> list[str]:
    """The installed plugins, sorted. Imports none of them."""
    return sorted(_load(namespace).entry_points_names())


def check(namespace: str, option: str, name: str) -> None:
    """:raises ConfigError: as :func:`load`, for a name that is not installed"""
    installed = names(namespace)
    if name not in installed and (option, name) in REFUSED:
        raise ConfigError(f'{option} {name!r} {REFUSED[option, name]}')
    if name not in installed:
        raise ConfigError(
            f'{option} {name!r} is not available; available: '
            f'{", ".join(installed) or "none"}{suggestion(name, installed)}'
        )


def load(namespace: str, option: str, name: str) -> Any:
    """The class of a plugin.

    :param option: the option that chose it, for the error
    :raises ConfigError: it is not installed, or cannot be imported
    """
    check(namespace, option, name)
    return _load(namespace, [name])[name].plugin


def chosen(namespace: str, name: str | None) -> dict[str, PluginOptions]:
    """What the plugins declare of which a run uses one: of ``--snapshot auto`` all."""
    declared = options(namespace)
    if namespace == SNAPSHOTS and name == AUTO:
        return declared
    return {name: declared[name]} if name in declared else {}


@functools.cache
def options(namespace: str) -> dict[str, PluginOptions]:
    """What each plugin of a kind declares: name -> options, empty for one without.

    :raises ConfigError: one of them cannot be imported; its options would be unknown
        options otherwise
    """
    group = f'{namespace}.options'
    loaded = _load(group, names(group))
    declared = {each.name: each.plugin for each in loaded}
    return {name: declared.get(name, PluginOptions()) for name in names(namespace)}


def _load(namespace: str, wanted: Sequence[str] = ()) -> Any:
    """stevedore's manager, with the wanted ones imported."""
    return NamedExtensionManager(
        namespace, list(wanted), on_load_failure_callback=_failed
    )


def _failed(_manager: Any, entry_point: Any, error: BaseException) -> None:
    raise ConfigError(
        f'the plugin {entry_point} cannot be loaded: {error}; install what it needs, '
        f'or remove the package it belongs to'
    ) from error


def engine_of(mode: str, engine: str) -> str:
    """The engine that does the work of a job, which in jobs of Freezer 19 may follow
    from the mode, or have another name here."""
    if engine == OSBRICK:
        return 'cinder'
    declared = options(MODES).get(mode)
    if declared and declared.engine and engine == DEFAULT_ENGINE:
        return declared.engine
    return engine
