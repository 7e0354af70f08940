"""The storages of a run: the one of the main options, or the sections of a job file."""

from collections.abc import Iterable, Mapping
from typing import Any

from oslo_config import cfg

from freezer.common import arguments, jobfile, opts, parsing, plugins, upstream
from freezer.exceptions import ConfigError
from freezer.storage.base import StorageSettings

#: driver class and its settings
Chosen = tuple[Any, StorageSettings]
COPY = 'copy'
(_CONTAINER,) = (each for each in opts.AGENT_OPTS if each.dest == 'container')


def plugin_options(conf: cfg.ConfigOpts, kind: str, name: str | None) -> dict[str, Any]:
    """The settings of a plugin, or of all that ``auto`` may choose: key -> value; empty
    for one that is not installed.

    :raises ConfigError: a value is malformed
    """
    return {
        key: parsing.value(conf, option.dest, group)
        for declared in plugins.chosen(kind, name).values()
        for key, group, option in declared
    }


def chosen(
    conf: cfg.ConfigOpts, values: Mapping[str, Any], job: jobfile.JobFile | None
) -> tuple[Chosen, ...]:
    """Driver and settings of each storage; none for action exec, and for a mode whose
    backups another service stores.

    :param values: fields of AgentConfig
    :raises ConfigError: there is none, one is not available, or two are the same place
    """
    declared = plugins.options(plugins.MODES).get(values['mode'])
    if values['action'] == 'exec' or (declared and declared.elsewhere):
        return ()
    shared = _shared(values)
    sections = _sources(values, job)
    if job is not None and sections:
        named = [of_section(job.path, each, **shared) for each in sections]
        _refuse_same_place(job.path, named)
    elif not values['storage']:
        raise ConfigError(
            'no storage configured: pass --storage s3, swift, ssh, ftps, ftp or local, '
            'or storage = … in the job file (a job of Freezer 19 without it means '
            'swift)'
        )
    else:
        name = values['storage']
        options = plugin_options(conf, plugins.STORAGES, name)
        settings = StorageSettings(values['container'], options=options, **shared)
        named = [(name, settings)]
    return tuple(
        (plugins.load(plugins.STORAGES, 'storage', name), settings)
        for name, settings in named
    )


def _shared(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ('max_segment_size', 'insecure', 'proxy')}


def _sources(
    values: Mapping[str, Any], job: jobfile.JobFile | None
) -> list[jobfile.Section]:
    """The sections that are the storages of the run: all, but with action copy those
    that are not its target, unless the main options name a storage."""
    sections = list(job.storages) if job is not None else []
    if values['action'] != COPY:
        return sections
    target = f'{jobfile.STORAGE_PREFIX}{values["copy_to"]}'
    return [] if values['storage'] else [s for s in sections if s.name != target]


def copy_target(
    values: Mapping[str, Any], job: jobfile.JobFile | None
) -> Chosen | None:
    """Driver and settings of the storage that action copy writes to; None for others.

    :raises ConfigError: there is none, or it is the place that is copied from
    """
    name = values['copy_to']
    if values['action'] != COPY:
        if name:
            raise ConfigError(
                f'--copy-to belongs to action copy, not {values["action"]}'
            )
        return None
    if not name:
        raise ConfigError(
            'action copy needs --copy-to NAME, and a section [storage:NAME] with the '
            'storage to copy to in the job file of --config'
        )
    if job is None:
        raise ConfigError(
            f'--copy-to {name}: pass --config with a job file that has a section '
            f'[storage:{name}]'
        )
    prefix = jobfile.STORAGE_PREFIX
    sections = {each.name.removeprefix(prefix): each for each in job.storages}
    if name not in sections:
        close = arguments.suggestion(name, list(sections))
        raise ConfigError(
            f'--copy-to {name}: config {job.path} has no section '
            f'[storage:{name}]{close}'
        )
    kind, settings = of_section(job.path, sections[name], **_shared(values))
    driver = plugins.load(plugins.STORAGES, 'storage', kind)
    for source, given in values['storages']:
        if source is driver and _place(kind, given) == _place(kind, settings):
            raise ConfigError(
                f'--copy-to {name}: [storage:{name}] is the same container as '
                f'{given.section}: name another'
            )
    return driver, settings


def all_of(values: Mapping[str, Any]) -> tuple[Chosen, ...]:
    """Driver and settings of each storage of the run, also the target of a copy.

    :param values: fields of AgentConfig
    """
    target = values['copy_target']
    return (*values['storages'], *([target] if target else ()))


def _place(kind: str, settings: StorageSettings) -> Any:
    declared = plugins.options(plugins.STORAGES)[kind]
    return declared.place(settings.container, settings.options)


def of_section(
    path: str, section: jobfile.Section, **shared: Any
) -> tuple[str, StorageSettings]:
    """Plugin and settings of one ``[storage:NAME]``.

    Its values are literal, and what it leaves out has the option's default, whatever
    the environment and configuration files say.

    :param shared: fields of StorageSettings
    """
    where = f'config {path}, [{section.name}]'
    given = dict(section.values)
    name = given.pop('storage', '')
    if not name:
        raise ConfigError(f'{where}: storage = … is missing')
    plugins.check(plugins.STORAGES, f'{where}: storage', name)
    container = given.pop('container', '')
    parsing.check_text(None, _CONTAINER, container, f'{where}, container')
    options: dict[str, Any] = {}
    problems: list[str] = []
    for key, group, option in plugins.options(plugins.STORAGES)[name]:
        text = given.pop(key, '')
        parsing.check_text(group, option, text, f'{where}, {key}')
        try:
            unset = upstream.is_unset(isinstance(option, cfg.BoolOpt), text)
            options[key] = option.default if unset else option.type(text)
        except ValueError as error:
            reason = 'malformed value' if option.secret else str(error)
            problems.append(f'{where}, {key}: {reason}')
    if given:
        names = ', '.join(sorted(given))
        known = [*options, 'storage', 'container']
        close = ''.join(arguments.suggestion(key, known) for key in sorted(given)[:1])
        problems.append(f'{where}: {names}: not an option of storage {name}{close}')
    if problems:
        raise ConfigError('; '.join(problems))
    return name, StorageSettings(
        container,
        options=options,
        **shared,
        section=f'[{section.name}] of {path}',
        name=section.name.removeprefix(jobfile.STORAGE_PREFIX),
    )


def _refuse_same_place(path: str, named: Iterable[tuple[str, StorageSettings]]) -> None:
    """:raises ConfigError: two sections are one place, and so their copies are one"""
    sections: dict[Any, str] = {}
    for name, settings in named:
        place = name, _place(name, settings)
        first = sections.setdefault(place, settings.name)
        if first != settings.name:
            raise ConfigError(
                f'config {path}: [storage:{first}] and [storage:{settings.name}] are '
                f'the same container: give each its own'
            )
