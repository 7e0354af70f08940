"""What a plugin declares apart from its class, so that ``--help`` imports no plugin."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def _container(container: str, _options: Mapping[str, Any]) -> Hashable:
    return container


@dataclass(frozen=True)
class PluginOptions:
    """The options of one storage, engine, mode or snapshot.

    The module it is in is imported by every command, so importing it must be cheap. A
    *key* is the name of an option in job files and in the plugin's settings: with ``_``
    for ``-``, and after the name of its group (``s3_region``).

    :param groups: group (None: the main one) -> options, of type oslo_config.cfg.Opt
    :param environment: key -> environment variable, of which ``OS_<GROUP>__<OPTION>``
        takes precedence
    :param secret_files: keys of the options that name a file with a secret
    :param selectors: of an engine that makes one backup for each resource: keys of the
        options that select resources: first its ID, then its name, then others
    :param exclusive: of an engine, a mode or a snapshot: keys of further options that
        are an error with another one; those of a snapshot choose it if --snapshot is
        auto
    :param stored_as: of an engine: the name of the one that reads and writes its
        backups; that is used in its place
    :param media: of an engine, or of a mode with ``elsewhere``: ``backup_media`` of
        Freezer 19
    :param engine: of a mode: the engine it needs, if that is not chosen
    :param elsewhere: of a mode whose backups another service makes and stores: a run
        has no storage and no engine
    :param secret_receivers: of a storage: keys of the options that name servers which
        get a password or a token, perhaps one of the environment or of a file
    :param place: of a storage: from the container and the options, what two sections of
        a job file must not share; nothing is contacted
    """

    groups: Mapping[str | None, Sequence[Any]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_files: Sequence[str] = ()
    selectors: Sequence[str] = ()
    exclusive: Sequence[str] = ()
    stored_as: str = ''
    media: str = 'fs'
    engine: str | None = None
    elsewhere: bool = False
    secret_receivers: Sequence[str] = ()
    place: Callable[[str, Mapping[str, Any]], Hashable] = _container

    def __iter__(self) -> Iterator[tuple[str, str | None, Any]]:
        """(key, group, option) of each."""
        for group, options in self.groups.items():
            for option in options:
                yield f'{group}_{option.dest}' if group else option.dest, group, option

    def defaults(self) -> dict[str, Any]:
        """The settings where nothing is set: key -> default."""
        return {key: option.default for key, _group, option in self}
