"""Configuration files of oslo.config: keys that oslo.config silently ignores."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oslo_config import cfg

from freezer.common.arguments import closest, suggestion

Sections = Mapping[str, Mapping[str, list[str]]]
_DEFAULT = 'DEFAULT'
# Of oslo.log, which has no public list of its options.
_OLD_NAMES = ('logfile', 'logdir', 'log-config', 'log_config')


def paths(conf: cfg.ConfigOpts) -> list[str]:
    """The files oslo.config has read: named ones, and those it finds by itself."""
    return [*(conf.config_file or ()), *in_folders(conf.config_dir or ())]


def in_folders(folders: Iterable[str]) -> Iterator[str]:
    for folder in folders:
        yield from map(str, sorted(Path(folder).glob('*.conf')))


def read(path: str) -> Sections:
    """Section -> key -> every value, of a file that oslo.config has read."""
    sections: dict[str, dict[str, list[str]]] = {}
    cfg.ConfigParser(path, sections).parse()
    return sections


def warnings(
    conf: cfg.ConfigOpts, declared: Mapping[str | None, Iterable[Any]]
) -> Iterator[str]:
    """A line for each key that has no effect: misspelt, or given again below.

    A section of another program is skipped.

    :param declared: group -> options
    """
    files = paths(conf)
    if not files:
        return
    known = _known(conf, declared)
    for path in files:
        for section, options in read(path).items():
            where = f'{path}, [{section}]'
            keys = known.get(section if section == _DEFAULT else section.lower())
            if keys is None:
                for close in closest(section, known):
                    yield f'{where}: ignored, unknown section; did you mean [{close}]?'
                continue
            for key, values in options.items():
                if key not in keys:
                    yield f'{where} {key}: ignored, unknown key{suggestion(key, keys)}'
                elif len(values) > 1 and not keys[key]:
                    yield f'{where} {key}: given more than once; the last one counts'


def _known(
    conf: cfg.ConfigOpts, declared: Mapping[str | None, Iterable[Any]]
) -> dict[str, dict[str, bool]]:
    """Section -> key -> whether it may be given more than once."""
    # The options of oslo.log are in no list. default_log_levels and the like are lists
    # in one value.
    known = {_DEFAULT: dict.fromkeys([*conf, *_OLD_NAMES], False)}
    for dest in conf:
        known[_DEFAULT][dest.replace('_', '-')] = False
    for group, options in declared.items():
        for option in options:
            own = group or _DEFAULT
            old = ((each.group or own, each.name) for each in option.deprecated_opts)
            for section, key in ((own, option.dest), (own, option.name), *old):
                known.setdefault(section, {})[key] = option.multi
    return known
