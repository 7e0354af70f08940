"""Storages, engines and modes by name, from their entry points."""

from typing import Any

from stevedore.extension import Extension, ExtensionManager

from freezer.exceptions import ConfigError

STORAGES = 'freezer.storage'
ENGINES = 'freezer.engine'
MODES = 'freezer.mode'


def load_all(namespace: str) -> dict[str, Any]:
    """Every class of a kind: name -> class.

    :raises ConfigError: one of them cannot be loaded; a plugin that is silently absent
        would be an option that is silently unknown
    """
    manager: ExtensionManager[Any] = ExtensionManager(
        namespace, on_load_failure_callback=_failed
    )
    return {extension.name: extension.plugin for extension in _sorted(manager)}


def load(namespace: str, option: str, name: str) -> Any:
    """One class by its name.

    :param option: the option that named it, for the error
    :raises ConfigError: there is none of that name
    """
    plugins = load_all(namespace)
    if name not in plugins:
        raise ConfigError(
            f'{option} {name!r} is not available in this agent; there is '
            f'{", ".join(plugins)}'
        )
    return plugins[name]


def _sorted(manager: 'ExtensionManager[Any]') -> list['Extension[Any]']:
    return sorted(manager, key=lambda extension: extension.name)


def _failed(_manager: Any, entry_point: Any, error: BaseException) -> None:
    raise ConfigError(
        f'the plugin {entry_point} cannot be loaded: {error}; install what it needs, '
        f'or remove the package it belongs to'
    ) from error
