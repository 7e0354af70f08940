"""The options in a job file: which keys it may have, and what they override."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from oslo_config import cfg, types

from freezer.common import (
    arguments,
    jobfile,
    opts,
    parsing,
    storages,
    upstream,
    usage,
)
from freezer.exceptions import ConfigError

# These files are read before the job file.
_FILES = {'config', 'config_file', 'config_dir'}


class Key(NamedTuple):
    """The option that a key of a job file sets.

    :ivar many: whether each line is a value
    :ivar inverted: true means that the option is off; false means nothing
    :ivar of_log: whether it is an option of oslo.log
    :ivar option: of oslo.config; None for one of oslo.log
    :ivar choices: the possible values; empty if there are others
    """

    dest: str
    group: str | None
    flag: bool = False
    many: bool = False
    secret: bool = False
    choices: tuple[str, ...] = ()
    inverted: bool = False
    of_log: bool = False
    option: Any = None

    def is_unset(self, value: str) -> bool:
        """Whether this value does not set the option."""
        if self.dest == 'command' and value == 'false':
            # A program.
            return False
        return upstream.is_unset(self.flag, value)

    def setting(self, value: str) -> tuple[object, object] | None:
        """(option, value) that a key sets, for comparison; None if it sets nothing.

        Several keys may be names of one option.
        """
        if self.is_unset(value):
            return None
        option = self.group, self.dest
        if not self.flag:
            return option, value
        on = types.Boolean()(value)
        if self.inverted:
            return (option, False) if on else None
        return option, on


def keys_of(conf: cfg.ConfigOpts) -> dict[str, Key]:
    """By the option's name and, where it differs, by its dest (engine, engine_name)."""
    keys: dict[str, Key] = {}
    for group, options in opts.every_option().items():
        prefix = f'{group}_' if group else ''
        for option in options:
            key = Key(
                option.dest,
                group,
                isinstance(option, cfg.BoolOpt),
                isinstance(option, cfg.MultiStrOpt),
                option.secret,
                choices=tuple(getattr(option.type, 'choices', None) or ()),
                option=option,
            )
            keys[prefix + option.name.replace('-', '_')] = key
            keys[prefix + option.dest] = key
    for old, new in upstream.RENAMED.items():
        # It may be of a plugin.
        if new in keys:
            keys.setdefault(old, keys[new])
    for old, new in upstream.INVERTED.items():
        keys.setdefault(old, keys[new]._replace(inverted=True))
    for name in _FILES:
        keys.pop(name, None)
    # oslo.log's own: it has no public list of them.
    for dest in set(conf) - set(keys) - _FILES:
        keys[dest] = Key(dest, None, isinstance(conf[dest], bool), of_log=True)
    return keys


def apply(
    conf: cfg.ConfigOpts, job: jobfile.JobFile, pinned: set[tuple[str | None, str]]
) -> None:
    """Override everything that the command line did not set.

    :param pinned: (group, dest) of what the command line did set
    :raises ConfigError: a key is unknown or given twice, or its value malformed; names
        every problem
    """
    known = keys_of(conf)
    problems: list[str] = []
    places: dict[str, str] = {}
    set_by: dict[object, tuple[str, object]] = {}
    for section in job.main:
        for name, value in section.values.items():
            where = f'config {job.path}, [{section.name}]'
            if name not in known:
                close = unknown_key(name, known, section.name)
                problems.append(
                    f'{where}: {name} is not an option of this agent{close}'
                )
                continue
            if places.setdefault(name, section.name) != section.name:
                problems.append(
                    f'{where}: {name} is given in [{places[name]}] already: keep one '
                    f'of them'
                )
                continue
            key = known[name]
            if key.is_unset(value) or (key.group, key.dest) in pinned:
                continue
            try:
                override(conf, key, value, f'{where}, {name}')
            except ConfigError as error:
                problems.append(str(error))
                continue
            setting = None if key.inverted else key.setting(value)
            if setting:
                option, wanted = setting
                first, other = set_by.setdefault(option, (name, wanted))
                if wanted != other:
                    problems.append(f'{where}: {name} contradicts {first}')
    if problems:
        raise ConfigError('; '.join([*problems, *opts.unavailable(conf)]))


def override(conf: cfg.ConfigOpts, key: Key, value: str, where: str) -> None:
    """:raises ConfigError: the value is malformed; begins with ``where``"""
    value = parsing.literal(value)
    given: Any = [line for line in value.splitlines() if line] if key.many else value
    if key.option is not None:
        parsing.check_text(key.group, key.option, given, where)
    try:
        if key.inverted:
            if not types.Boolean()(value):
                return
            given = False
        conf.set_override(key.dest, given, key.group)
    except ValueError as error:
        reason = 'malformed value' if key.secret else str(error)
        close = arguments.suggestion(value, key.choices)
        raise ConfigError(f'{where}: {reason}{close}') from error


def unknown_key(name: str, known: Iterable[str], section: str = '') -> str:
    """``; did you mean s3_region?``, also for ``region`` in a section ``[s3]``."""
    known = list(known)
    within = arguments.suggestion(f'{section}_{name}', known)
    return arguments.suggestion(name, known) or within


class JobKeys:
    """The keys of a job file, for a program that writes one.

    Checks each key by itself: the agent, when it runs, checks whether they fit
    together.
    """

    def __init__(self) -> None:
        self._conf = opts.parse_alone([])
        self._keys = keys_of(self._conf)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def is_secret(self, key: str) -> bool:
        return key in self._keys and self._keys[key].secret

    def is_of_log(self, key: str) -> bool:
        """Whether it is an option of oslo.log."""
        return key in self._keys and self._keys[key].of_log

    def setting(self, key: str, value: str) -> tuple[object, object] | None:
        """(option, value) that a key sets, for comparison; None if it sets nothing.

        Several keys may be names of one option.
        """
        return self._keys[key].setting(value)

    def option(self, key: str, value: str) -> Any:
        """The option of oslo.config that a key sets to a value; None if it sets none,
        or one of oslo.log."""
        found = self._keys[key]
        return None if found.is_unset(value) else found.option

    def takes_lines(self, key: str) -> bool:
        """Whether it may have several values, one per line."""
        return key in self._keys and self._keys[key].many

    def takes_command(self, key: str) -> bool:
        """Whether its value is a command, or arguments of one."""
        option = self._keys[key].option if key in self._keys else None
        return option is not None and usage.metavar(option) in usage.COMMANDS

    def check(self, name: str, value: str) -> None:
        """:raises ConfigError: the agent would refuse this, in its main part"""
        if name not in self._keys:
            close = unknown_key(name, self._keys)
            raise ConfigError(f'not an option of the agent{close}')
        key = self._keys[name]
        if key.is_unset(value):
            return
        override(self._conf, key, value, 'agent')
        try:
            opts.refuse_unavailable(self._conf)
        finally:
            self._conf.clear_override(key.dest, key.group)

    def check_storage(self, name: str, values: Mapping[str, str]) -> None:
        """:raises ConfigError: the agent would refuse this ``[storage:NAME]``"""
        section = jobfile.Section(jobfile.STORAGE_PREFIX + name, dict(values))
        storages.of_section('job', section, max_segment_size=1)
