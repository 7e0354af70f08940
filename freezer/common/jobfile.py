"""The job file (INI) of ``--config``, as freezer-scheduler and operators write it.

Not an oslo.config file: section names do not matter, except that each
``[storage:NAME]`` is one member of a multiple storage.
"""

import configparser
from collections.abc import Iterable
from dataclasses import dataclass

from freezer.common.arguments import closest
from freezer.exceptions import ConfigError

STORAGE_PREFIX = 'storage:'


@dataclass(frozen=True)
class Section:
    """Keys with ``-`` as ``_`` and in lower case; values as text."""

    name: str
    values: dict[str, str]


@dataclass(frozen=True)
class JobFile:
    path: str
    main: tuple[Section, ...]
    storages: tuple[Section, ...]


def read(path: str) -> JobFile:
    """:raises ConfigError: it cannot be read, or a line of it is malformed"""
    try:
        with open(path, encoding='utf-8-sig') as stream:
            return parse(path, stream)
    except OSError as error:
        raise ConfigError(f'config {path}: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'config {path}: not UTF-8 text: save it as UTF-8') from error


def parse(path: str, lines: Iterable[str]) -> JobFile:
    """:param path: for error messages
    :raises ConfigError: a line is malformed
    """
    parser = configparser.ConfigParser(
        # Freezer 19 failed on a single %; %% means %, as it did there.
        interpolation=None,
        # No section provides defaults for the others.
        default_section='\0',
    )
    # Two spellings of one key are duplicates.
    parser.optionxform = _key  # type: ignore[assignment,method-assign]
    try:
        parser.read_file(lines, source=path)
    except configparser.Error as error:
        raise ConfigError(f'config {path}: {_without_text(error)}') from error
    for name in parser.sections():
        head, colon, member = name.partition(':')
        if head + colon != STORAGE_PREFIX and closest(head + colon, [STORAGE_PREFIX]):
            raise ConfigError(
                f'config {path}: unknown section [{name}]; did you mean '
                f'[{STORAGE_PREFIX}{member.strip()}]?'
            )
    sections = [
        Section(
            name,
            {key: value.replace('%%', '%') for key, value in parser.items(name)},
        )
        for name in parser.sections()
    ]
    return JobFile(
        path,
        tuple(s for s in sections if not s.name.startswith(STORAGE_PREFIX)),
        tuple(s for s in sections if s.name.startswith(STORAGE_PREFIX)),
    )


def _key(name: str) -> str:
    return name.lower().replace('-', '_')


def _without_text(error: configparser.Error) -> str:
    """The problem and its line number, without the line: it may hold a secret."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        return (
            f'line {error.lineno}: a key before the first [section]: write [job] above '
            f'it'
        )
    if isinstance(error, configparser.ParsingError):
        lines = ', '.join(str(line) for line, _text in error.errors)
        return f'line {lines}: not of the form key = value'
    if isinstance(error, configparser.DuplicateOptionError):
        return f'line {error.lineno}: {error.option} is given twice: keep one of them'
    if isinstance(error, configparser.DuplicateSectionError):
        return (
            f'line {error.lineno}: there are two sections [{error.section}]: merge them'
        )
    return type(error).__name__
