"""The command line, environment and configuration files, by oslo.config.

For the agent and the scheduler: oslo.config's messages in plain words, and values with
``$`` in them left as they are.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oslo_config import cfg

from freezer.exceptions import ConfigError

_RAW_NAME = re.compile(r'argument (?:-\w/)?--([\w-]+)\Z')


def parse(
    conf: cfg.ConfigOpts,
    argv: Iterable[str],
    prog: str,
    declared: Mapping[str | None, Iterable[Any]],
    **sources: Any,
) -> None:
    """Parse a command line and the other sources that oslo.config reads.

    :param declared: group -> options, to report a malformed one by its typed name
    :param sources: more arguments of oslo.config's parser
    :raises ConfigError: a value is malformed, or a file cannot be read
    :raises SystemExit: 2, and one line on standard error: an argument is unknown
    """
    written = io.StringIO()
    words = [literal(argument) for argument in argv]
    try:
        with contextlib.redirect_stderr(written):
            conf(words, project='freezer', prog=prog, **sources)
    except SystemExit as stop:
        text = written.getvalue().strip().rpartition('error: ')[2]
        if stop.code == 2:
            sys.stderr.write(f'{prog}: {_without_values(text)}; see --help\n')
        elif stop.code != 0:  # oslo.config 9 exits with None, which is 0
            raise ConfigError(_plainly(text, declared)) from stop
        raise
    except cfg.Error as error:
        raise ConfigError(one_line(error)) from error


def literal(value: str) -> str:
    """A value in which oslo.config, which replaces ``$option``, replaces nothing."""
    return value.replace('$', '$$')


def one_line(error: Exception) -> str:
    return ' '.join(str(error).split())


def source(conf: cfg.ConfigOpts, dest: str, group: str | None = None) -> Any:
    """Where a value comes from, of cfg.Locations."""
    location = conf.get_location(dest, group)
    return location.location if location else None


def value(conf: cfg.ConfigOpts, name: str, group: str | None = None) -> Any:
    """The value of one option.

    :raises ConfigError: it is malformed in the environment: oslo.config checks it here
    """
    shown = (f'{group}-{name}' if group else name).replace('_', '-')
    try:
        return conf[group][name] if group else conf[name]
    except (cfg.TemplateSubstitutionError, cfg.NoSuchOptError) as error:
        raise ConfigError(
            f'{shown}: in the environment and in configuration files '
            f'$ stands for the value of another option: write $$ for a $'
        ) from error
    except (cfg.Error, ValueError) as error:
        # oslo.config: "Value for option X from LocationInfo(…, detail='Y') is not
        # valid: Z"; asking it for the location raises the same again.
        text = one_line(error)
        detail = re.search(r"detail='([^']*)'", text)
        reason = text.rpartition('is not valid: ')[2]
        where = f'{detail[1]}: ' if detail else ''
        raise ConfigError(f'{where}{shown}: {reason}') from error


def configuration_files(conf: cfg.ConfigOpts) -> list[str]:
    """The files oslo.config has read: named ones, and those it finds by itself."""
    folders = (Path(folder) for folder in conf.config_dir or ())
    return [
        *(conf.config_file or ()),
        *(str(path) for folder in folders for path in sorted(folder.glob('*.conf'))),
    ]


def _plainly(text: str, declared: Mapping[str | None, Iterable[Any]]) -> str:
    """``argument --max_level: Invalid Integer value: q``, in words.

    oslo.config names an option by its dest, and shows its types as they are built.
    """
    name, _, problem = text.partition(': ')
    raw = _RAW_NAME.match(name)
    if raw is None:
        return text
    dest, kind = raw[1].replace('-', '_'), None
    for group, options in declared.items():
        for option in options:
            if raw[1].replace('-', '_') in (option.dest, option.name.replace('-', '_')):
                dest = f'{group}-{option.name}' if group else option.name
                kind = option.type
    name = f'--{dest.replace("_", "-")}'
    choices = re.match(r'Invalid String\(choices=\[(.*)\]\) value: (.*)', problem)
    if choices:
        return f'{name}: {choices[2]} is not one of {choices[1].replace(chr(39), "")}'
    malformed = re.match(r'Invalid (?:Date|Duration|Size) value: (.*)', problem)
    if malformed and kind is not None:
        # argparse drops the messages of our types.
        try:
            kind(malformed[1])
        except ValueError as error:
            problem = str(error)
    return f'{name}: {problem}'


def _without_values(text: str) -> str:
    """argparse repeats unknown arguments, which may contain secrets."""
    _before, found, rest = text.partition('unrecognized arguments: ')
    if not found:
        return text
    names = [word.partition('=')[0] for word in rest.split() if word.startswith('-')]
    if not names:
        return 'unexpected positional argument'
    return f'unknown argument {" ".join(names)}'
