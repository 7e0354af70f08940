"""Options as they are typed: for ``--help``, manual pages and shell completions.

oslo.config's own help is one alphabetical list that includes the inverse of each flag.
"""

import argparse
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from oslo_config import cfg

from freezer.utils.types import Date, Duration, Size

#: Metavars of paths, which shells complete.
FILE, DIRECTORY, PATH = 'FILE', 'DIR', 'PATH'
#: Metavars of options that decide which program is run, or what it does.
COMMANDS = ('COMMAND', 'ARGUMENTS')
_NARROWEST, _WIDEST = 40, 100
_UNITS = ((2**40, 'T'), (2**30, 'G'), (2**20, 'M'))


class Entry(NamedTuple):
    """An option.

    :param names: as typed, short ones first
    :param metavar: placeholder of the value; empty for a flag
    :param choices: the possible values; empty if there are others
    :param inverse: the option that turns a flag off
    :param many: whether it may be given more than once
    :param old_names: other names, which the help does not show
    :param old_inverses: the same of ``inverse``
    """

    names: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...] = ()
    inverse: str = ''
    many: bool = False
    old_names: tuple[str, ...] = ()
    old_inverses: tuple[str, ...] = ()

    @property
    def all_names(self) -> tuple[str, ...]:
        return (*self.names, *self.old_names)

    @property
    def all_inverses(self) -> tuple[str, ...]:
        return (*((self.inverse,) if self.inverse else ()), *self.old_inverses)


class Section(NamedTuple):
    title: str
    entries: tuple[Entry, ...]


class Usage(NamedTuple):
    """All of ``--help``. Its texts keep their line breaks."""

    prog: str
    usage: str
    description: str
    sections: tuple[Section, ...]
    epilog: str


def entry(option: Any, group: str | None = None) -> Entry:
    """:param option: one of oslo.config's"""
    prefix = f'{group}-' if group else ''
    long = f'--{prefix}{option.name}'
    names = (*((f'-{option.short}',) if option.short else ()), long)
    parts = [' '.join(option.help.split())]
    known: Mapping[str, str | None] = getattr(option.type, 'choices', None) or {}
    choices = tuple(known)
    # Choices with descriptions are listed in the description of the command.
    if choices and not any(known.values()):
        parts.append(f'One of: {", ".join(choices)}.')
    # None of them has a group.
    old = [each.name for each in option.deprecated_opts]
    old_names = tuple(f'--{name}' for name in old)
    if isinstance(option, cfg.BoolOpt):
        inverse = f'--{prefix}no{option.name}'
        if option.default:
            parts.append(f'On by default; {inverse} turns it off.')
        old_inverses = tuple(f'--no{name}' for name in old)
        return Entry(
            names,
            '',
            ' '.join(parts),
            inverse=inverse,
            old_names=old_names,
            old_inverses=old_inverses,
        )
    if option.default not in (None, '', [], 0, -1) and 'efault' not in option.help:
        parts.append(f'Default: {_shown(option)}.')
    return Entry(
        names,
        metavar(option),
        ' '.join(parts),
        choices,
        many=option.multi,
        old_names=old_names,
    )


def _shown(option: Any) -> str:
    value = option.default
    if isinstance(option.type, Size):
        for unit, letter in _UNITS:
            if value % unit == 0:
                return f'{value // unit}{letter}'
    return f'{value:g}' if isinstance(value, float) else str(value)


def metavar(option: Any) -> str:
    """What help shows for the value: the option's own, else by its type, else the last
    word of its name."""
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
    """Options in the order of their declaration, in a section for each heading.

    :param headings: name of the first option of a section -> its heading
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
    """Options of oslo.config and oslo.log, whose own help is longer.

    :param defaults: names of the configuration files that are read by default
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
            Entry(
                ('--config-dir',),
                DIRECTORY,
                'Also read the *.conf files in this directory.',
                many=True,
            ),
            Entry(('-d', '--debug'), '', 'Log debug messages.', inverse='--nodebug'),
            Entry(
                ('--log-file',),
                FILE,
                'Log to this file, relative to --log-dir.',
                old_names=('--logfile',),
            ),
            Entry(
                ('--log-dir',),
                DIRECTORY,
                'Directory of log files.',
                old_names=('--logdir',),
            ),
            Entry(
                ('--log-config-append',),
                FILE,
                "Configuration file of Python's logging, used instead of the other "
                'log options.',
                old_names=('--log-config',),
            ),
            Entry(('--log-date-format',), 'FORMAT', 'Format of dates in the log.'),
            Entry(('--use-syslog',), '', 'Log to syslog.', inverse='--nouse-syslog'),
            Entry(('--syslog-log-facility',), 'FACILITY', 'Syslog facility to use.'),
            Entry(
                ('--use-journal',), '', 'Log to journald.', inverse='--nouse-journal'
            ),
            Entry(('--use-json',), '', 'Log as JSON.', inverse='--nouse-json'),
        ),
    )


#: Options that every parser has.
OTHERS = Section(
    'Other',
    (
        Entry(('-h', '--help'), '', 'Show this help and exit.'),
        Entry(('--version',), '', 'Show the version and exit.'),
    ),
)


def wanted(argv: Sequence[str]) -> bool:
    """Whether -h or --help is among the arguments."""
    return '-h' in argv or '--help' in argv


def text(usage: Usage) -> str:
    """For the width of this terminal."""
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
    # argparse would replace %(default)s and the like.
    text = one.help.replace('%', '%%')
    if one.metavar:
        add_argument(*one.names, metavar=one.metavar, help=text)
    else:
        add_argument(*one.names, action='store_true', help=text)
