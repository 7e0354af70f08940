"""How options are written on a command line: for ``--help``, the manual pages and the
completion of shells.

oslo.config's own help is one list in the order of the alphabet, with the inverse of
each flag in it.
"""

import argparse
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oslo_config import cfg

from freezer.utils.types import Date, Duration, Size

#: What a value is the path of; shells complete these.
FILE, DIRECTORY, PATH = 'FILE', 'DIR', 'PATH'
_NARROWEST, _WIDEST = 40, 100
_UNITS = ((2**40, 'T'), (2**30, 'G'), (2**20, 'M'))


class Entry(NamedTuple):
    """An option.

    :param names: as typed, short ones first; of a flag that is on, its inverse as well
    :param metavar: stands for its value; empty for a flag
    :param choices: the values there are; empty if there are others
    :param inverse: of a flag: what turns it off
    :param many: whether it may be given more than once
    """

    names: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...] = ()
    inverse: str = ''
    many: bool = False


class Section(NamedTuple):
    title: str
    entries: tuple[Entry, ...]


class Usage(NamedTuple):
    """All of ``--help``. The text in it is kept as it is broken into lines."""

    prog: str
    usage: str
    description: str
    sections: tuple[Section, ...]
    epilog: str


def entry(option: Any, group: str | None = None) -> Entry:
    """How an option is written.

    :param option: one of oslo.config's
    """
    prefix = f'{group}-' if group else ''
    long = f'--{prefix}{option.name}'
    names = (*((f'-{option.short}',) if option.short else ()), long)
    told = [' '.join(option.help.split())]
    known: Mapping[str, str | None] = getattr(option.type, 'choices', None) or {}
    choices = tuple(known)
    # Those with words of their own are told of elsewhere, a line for each.
    if choices and not any(known.values()):
        told.append(f'One of: {", ".join(choices)}.')
    if isinstance(option, cfg.BoolOpt):
        inverse = f'--{prefix}no{option.name}'
        if option.default:
            told.append(f'On, unless {inverse} is given.')
        return Entry(names, '', ' '.join(told), inverse=inverse)
    if option.default not in (None, '', [], 0, -1) and 'efault' not in option.help:
        told.append(f'Default: {_shown(option)}.')
    return Entry(names, _metavar(option), ' '.join(told), choices, many=option.multi)


def _shown(option: Any) -> str:
    value = option.default
    if isinstance(option.type, Size):
        for unit, letter in _UNITS:
            if value % unit == 0:
                return f'{value // unit}{letter}'
    return f'{value:g}' if isinstance(value, float) else str(value)


def _metavar(option: Any) -> str:
    """That of the option, else by its type, else the last word of its name."""
    if option.metavar:
        return str(option.metavar)
    if isinstance(option, cfg.IntOpt | cfg.FloatOpt):
        return 'N'
    for kind, shown in ((Size, 'SIZE'), (Date, 'DATE'), (Duration, 'TIME')):
        if isinstance(option.type, kind):
            return shown
    return str(option.name).split('-')[-1].upper()


def by_headings(
    options: Iterable[Any], headings: Mapping[str, str]
) -> Iterator[Section]:
    """Options in the order they are declared in, cut where a heading begins.

    :param headings: name of an option -> the heading that begins with it
    """
    title, entries = '', list[Entry]()
    for option in options:
        if option.name in headings:
            if entries:
                yield Section(title, tuple(entries))
            title, entries = headings[option.name], []
        entries.append(entry(option))
    yield Section(title, tuple(entries))


def of_group(title: str, groups: Mapping[str | None, Sequence[Any]]) -> Section:
    """:param groups: group (None: the main one) -> options"""
    return Section(
        title,
        tuple(
            entry(option, group)
            for group, options in groups.items()
            for option in options
        ),
    )


def common(defaults: str) -> Section:
    """Options of oslo.config and oslo.log, which say it at greater length.

    :param defaults: the configuration files that are found
    """
    return Section(
        'Log and configuration files',
        (
            Entry(
                ('--config-file',),
                FILE,
                f'Configuration file of oslo.config; may be given more than once. '
                f'Default: {defaults} in ~/.freezer, ~, /etc/freezer and /etc.',
                many=True,
            ),
            Entry(('--config-dir',), DIRECTORY, 'Read the *.conf files in it, too.'),
            Entry(('-d', '--debug'), '', 'Log more.', inverse='--nodebug'),
            Entry(('--log-file',), FILE, 'Log to this file, relative to --log-dir.'),
            Entry(('--log-dir',), DIRECTORY, 'Where log files are.'),
            Entry(
                ('--log-config-append',),
                FILE,
                "Configuration of Python's logging; the other options of the log do "
                'not count then.',
            ),
            Entry(('--log-date-format',), 'FORMAT', 'Of the dates in the log.'),
            Entry(('--use-syslog',), '', 'Log to syslog.', inverse='--nouse-syslog'),
            Entry(('--syslog-log-facility',), 'FACILITY', 'Which one of syslog.'),
            Entry(
                ('--use-journal',), '', 'Log to journald.', inverse='--nouse-journal'
            ),
            Entry(('--use-json',), '', 'Log as JSON.', inverse='--nouse-json'),
        ),
    )


#: What the parsers add by themselves.
OTHERS = Section(
    'Other',
    (
        Entry(('-h', '--help'), '', 'Say this, and end.'),
        Entry(('--version',), '', 'Say the version, and end.'),
    ),
)


def wanted(argv: Sequence[str]) -> bool:
    """Whether help is asked for, wherever that stands."""
    return '-h' in argv or '--help' in argv


def text(usage: Usage) -> str:
    """As a terminal is to show it."""
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, width=width - 1)

    parser = argparse.ArgumentParser(
        prog=usage.prog,
        usage=usage.usage,
        description=usage.description,
        epilog=usage.epilog,
        formatter_class=formatter,
        add_help=False,
    )
    for section in usage.sections:
        group = parser.add_argument_group(section.title)
        for one in section.entries:
            _add(group.add_argument, one)
    return parser.format_help()


def _add(add_argument: Callable[..., Any], one: Entry) -> None:
    # argparse fills in %(default)s and its like.
    said = one.help.replace('%', '%%')
    if one.metavar:
        add_argument(*one.names, metavar=one.metavar, help=said)
    else:
        add_argument(*one.names, action='store_true', help=said)
