"""The command line, environment and configuration files, by oslo.config.

For the agent and the scheduler: oslo.config's messages in plain words, and values with
``$`` in them left as they are.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oslo_config import cfg, types

from freezer.common import arguments, config_files
from freezer.common.usage import Usage, metavar
from freezer.exceptions import ConfigError
from freezer.utils.text import control_character

# Values of these are names of files on this machine, patterns of them, or a command:
# they may have any character but NUL.
_ANY_TEXT = ('PATH', 'FILE', 'DIR', 'PATTERN', 'COMMAND')
_RAW_NAME = re.compile(r'argument (?:-\w/)?--([\w-]+)\Z')


def parse(
    conf: cfg.ConfigOpts,
    argv: Sequence[str],
    usage: Usage,
    declared: Mapping[str | None, Iterable[Any]],
    **sources: Any,
) -> None:
    """Parse a command line and the other sources that oslo.config reads.

    :param declared: group -> options, to report a malformed one by its typed name
    :param sources: more arguments of oslo.config's parser
    :raises ConfigError: a value is malformed, an option is given twice, or a file
        cannot be read
    :raises SystemExit: 2, and one line on standard error: an argument is unknown
    """
    written = io.StringIO()
    words = [literal(argument) for argument in argv]
    try:
        with contextlib.redirect_stderr(written):
            conf(words, project='freezer', prog=usage.prog, **sources)
    except SystemExit as stop:
        text = written.getvalue().strip().rpartition('error: ')[2]
        if stop.code == 2:
            problem = _without_values(text, argv, usage)
            sys.stderr.write(f'Error: {problem}; see --help\n')
        elif stop.code != 0:  # oslo.config 9 exits with None, which is 0
            raise ConfigError(_plainly(text, declared, words)) from stop
        raise
    except (*_NO_OPTION, RecursionError) as error:
        files = _files(words, usage.prog, sources)
        raise _dollar(_line_with(files, error) or 'a configuration file') from None
    except cfg.ConfigFileParseError as error:
        # Its text and that of its cause have the line, which may hold a secret.
        raise ConfigError(re.sub(r": '.*", '', one_line(error))) from None
    except cfg.Error as error:
        raise ConfigError(one_line(error)) from error
    arguments.refuse_repeated(argv, usage)
    _refuse_substitution(conf, declared)


def _refuse_substitution(
    conf: cfg.ConfigOpts, declared: Mapping[str | None, Iterable[Any]]
) -> None:
    """:raises ConfigError: a ``$`` in a value names no option; the error says where,
    without the value, which may be a secret"""
    dests = [(group, each.dest) for group, some in declared.items() for each in some]
    # With those of oslo.log.
    dests += [(None, dest) for dest in conf if (None, dest) not in dests]
    for group, dest in dests:
        try:
            _ = conf[group][dest] if group else conf[dest]
        except (*_NO_OPTION, RecursionError) as error:
            variable = f'OS_{(group or "default").upper()}__{dest.upper()}'
            if '$' in os.environ.get(variable, ''):
                where = f'{variable} in the environment'
            else:
                where = _line_with(config_files.paths(conf), error)
            raise _dollar(where or f'[{group or "DEFAULT"}] {dest}') from None
        except (cfg.Error, ValueError):
            # Reported where the value is used.
            continue


# Raised for a $ that names no option. Their text is a part of the value, so nothing is
# chained to them.
_NO_OPTION = (
    cfg.TemplateSubstitutionError,
    cfg.NoSuchOptError,
    cfg.NoSuchGroupError,
)


def _dollar(where: str) -> ConfigError:
    return ConfigError(
        f'{where}: $ stands for the value of another option there: write $$ for a $'
    )


def _files(words: Iterable[str], prog: str, sources: Mapping[str, Any]) -> list[str]:
    """The configuration files of a command line that could not be parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--config-file', action='append')
    parser.add_argument('--config-dir', action='append', default=[])
    given, _others = parser.parse_known_args(list(words))
    files = given.config_file or sources.get('default_config_files')
    if files is None:
        files = cfg.find_config_files('freezer', prog)
    return [*files, *config_files.in_folders(given.config_dir)]


def _line_with(files: Iterable[str], error: Exception) -> str:
    """File, group and key of the value that oslo.config could not make; else empty.

    :param error: a RecursionError means that the value refers to itself
    """
    if isinstance(error, RecursionError):
        return _circular_line(files)
    name = getattr(error, 'opt_name', '') or getattr(error, 'group_name', '')
    pattern = re.compile(rf'\${{?{re.escape(str(name))}')
    for path in files:
        for group, values in config_files.read(path).items():
            for key, lines in values.items():
                if pattern.search('\n'.join(lines)):
                    return f'{path}, [{group}] {key}'
    return ''


def _circular_line(files: Iterable[str]) -> str:
    references: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for path in files:
        for group, values in config_files.read(path).items():
            for key, lines in values.items():
                found = re.findall(r'(?<!\$)\${?(\w+)', '\n'.join(lines))
                references[key] = found
                places[key] = f'{path}, [{group}] {key}'
    for key, following in references.items():
        waiting, seen = [*following], set[str]()
        while waiting:
            name = waiting.pop()
            if name == key:
                return places[key]
            if name not in seen:
                seen.add(name)
                waiting += references.get(name, ())
    return ''


def _read(conf: cfg.ConfigOpts, group: str | None, option: Any) -> Any:
    return conf[group][option.dest] if group else conf[option.dest]


def refuse_control_characters(
    conf: cfg.ConfigOpts, declared: Mapping[str | None, Iterable[Any]]
) -> None:
    """Check every value, wherever it comes from.

    :raises ConfigError: see :func:`check_text`
    """
    for group, options in declared.items():
        for option in options:
            try:
                value = _read(conf, group, option)
            except (cfg.Error, ValueError):
                # Reported where the value is used.
                continue
            check_text(group, option, value)


def check_text(group: str | None, option: Any, value: Any, where: str = '') -> None:
    """Check the text of an option: it may become a header, a key or a name.

    :param value: text or a list of texts; anything else is right
    :param where: what the error begins with, instead of the name of the option
    :raises ConfigError: it has a control character; names the option, but not its
        value, which may be a secret
    """
    if isinstance(value, str) and isinstance(option.type, types.List):
        try:
            # Its items may be on several lines.
            value = option.type(value)
        except ValueError:
            # Reported where it is converted.
            return
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            continue
        found = control_character(text)
        if found and ('\0' in text or metavar(option) not in _ANY_TEXT):
            advice = '; does it come from a file with the line ends of Windows?'
            raise ConfigError(
                f'{where or shown(group, option.name)}: contains {found}: remove it'
                + (advice if '\r' in text else '')
            )


def shown(group: str | None, name: str) -> str:
    """The name of an option as on the command line, without the hyphens before it."""
    return (f'{group}-{name}' if group else name).replace('_', '-')


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
    try:
        return conf[group][name] if group else conf[name]
    except (cfg.Error, ValueError) as error:
        # oslo.config: "Value for option X from LocationInfo(…, detail='Y') is not
        # valid: Z"; asking it for the location raises the same again.
        text = one_line(error)
        detail = re.search(r"detail='([^']*)'", text)
        reason = text.rpartition('is not valid: ')[2]
        where = f'{detail[1]}: ' if detail else ''
        raise ConfigError(f'{where}{shown(group, name)}: {reason}') from error


def _plainly(
    text: str, declared: Mapping[str | None, Iterable[Any]], words: Iterable[str]
) -> str:
    """``argument --max_level: Invalid Integer value: q``, in words.

    oslo.config names an option by its dest, also where several groups have one of this
    name, and shows its types as they are built.

    :param words: of the command line
    """
    name, _, problem = text.partition(': ')
    raw = _RAW_NAME.match(name)
    if raw is None:
        return text
    dest, kind = raw[1].replace('-', '_'), None
    typed = {word.partition('=')[0].replace('_', '-') for word in words}
    for group, options in declared.items():
        for option in options:
            if raw[1].replace('-', '_') in (option.dest, option.name.replace('-', '_')):
                found = f'{group}-{option.name}' if group else option.name
                if kind is None or f'--{found}' in typed:
                    dest, kind = found, option.type
    name = f'--{dest.replace("_", "-")}'
    choices = re.match(r'Invalid String\(choices=\[(.*)\]\) value: (.*)', problem)
    if choices:
        known = choices[1].replace("'", '')
        close = arguments.suggestion(choices[2], known.split(', '))
        return f'{name}: {choices[2]} is not one of {known}{close}'
    malformed = re.match(r'Invalid (?:Age|Date|Duration|Size) value: (.*)', problem)
    if malformed and kind is not None:
        # argparse drops the messages of our types.
        try:
            kind(malformed[1])
        except ValueError as error:
            problem = str(error)
    return f'{name}: {problem}'


def _without_values(text: str, argv: Iterable[str], usage: Usage) -> str:
    """argparse repeats unknown arguments, which may contain secrets."""
    _before, found, rest = text.partition('unrecognized arguments: ')
    if not found:
        return text
    unknown = []
    rest += ' '
    for word in argv:
        # It has joined them by spaces, which they may have as well.
        if rest.startswith(f'{literal(word)} '):
            unknown.append(word)
            rest = rest[len(literal(word)) + 1 :]
    return arguments.explain_unknown(unknown if not rest else (), usage)
