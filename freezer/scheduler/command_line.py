"""Parse the command line, ``scheduler.conf`` and the environment, by oslo.config."""

import contextlib
import io
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg, types
from oslo_log import log

from freezer.exceptions import ConfigError
from freezer.scheduler import options
from freezer.scheduler.options import COMMANDS, FILE_COMMANDS, PROG


def parse(argv: Sequence[str]) -> cfg.ConfigOpts:
    """:raises ConfigError: an option is malformed or unsupported, or the command takes
    other files

    :raises SystemExit: 2: an argument is unknown, or there is no command
    """
    conf = _declare()
    _parse(conf, argv)
    for group, unsupported in options.UNSUPPORTED_OPTS.items():
        for option in unsupported:
            if conf[group][option.dest]:
                raise ConfigError(
                    f'[{group}] {option.dest} is not supported by this scheduler yet'
                )
    command, files = conf.command, conf.files
    if files and command not in FILE_COMMANDS:
        raise ConfigError(f'{command} takes no file; only validate and run do')
    if command in FILE_COMMANDS and not files:
        raise ConfigError(f'{command} needs a job file: {PROG} {command} FILE')
    if command == 'run' and len(files) > 1:
        raise ConfigError('run takes only one job file')
    for dest in ('log_dir', 'log_file', 'log_config_append'):
        # Absolute, because a daemon changes its directory.
        if conf[dest] and not (dest == 'log_file' and conf.log_dir):
            conf.set_override(dest, literal(str(absolute(conf[dest]))))
    return conf


def _declare() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf.register_cli_opts(
        [
            cfg.StrOpt('command', positional=True, choices=COMMANDS, required=True),
            cfg.MultiOpt(
                'files', positional=True, default=[], item_type=types.String()
            ),
            options.JSON_OPT,
        ]
    )
    for group, declared in options.list_opts():
        conf.register_cli_opts(declared, group=group)
    for group, unsupported in options.UNSUPPORTED_OPTS.items():
        conf.register_opts(unsupported, group=group)
    return conf


def absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def literal(value: str) -> str:
    """A value in which oslo.config, which replaces ``$option``, replaces nothing."""
    return value.replace('$', '$$')


def _parse(conf: cfg.ConfigOpts, argv: Sequence[str]) -> None:
    """Run oslo.config's parser; replace its usage of a hundred lines by one line."""
    output = io.StringIO()
    files = cfg.find_config_files('freezer', 'scheduler')
    try:
        with contextlib.redirect_stderr(output):
            conf(
                [literal(each) for each in _positional_last(conf, argv)],
                project='freezer',
                prog=PROG,
                default_config_files=[
                    path for path in files if Path(path).name == 'scheduler.conf'
                ],
                default_config_dirs=[],
                use_env=True,
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        text = output.getvalue().strip().rpartition('error: ')[2]
        sys.stderr.write(f'{PROG}: {" ".join(text.split())}; see --help\n')
        # oslo.config 9 exits with None, which is 0, if a value is malformed.
        raise SystemExit(stop.code or 1) from stop
    except (cfg.Error, ValueError) as error:
        raise ConfigError(' '.join(str(error).split())) from error


def _positional_last(conf: cfg.ConfigOpts, argv: Sequence[str]) -> list[str]:
    """Options first: otherwise argparse loses files that follow them."""
    flags = _flags(conf)
    first: list[str] = []
    last: list[str] = []
    words = iter(argv)
    for word in words:
        if word == '--':
            last += words
        elif not word.startswith('-') or word == '-':
            last.append(word)
        else:
            first.append(word)
            # A short option may include its value: -i5.
            with_value = not word.startswith('--') and len(word) > 2
            if '=' not in word and word not in flags and not with_value:
                first += itertools.islice(words, 1)
    return [*first, *last]


def _flags(conf: cfg.ConfigOpts) -> set[str]:
    """Arguments that take no value."""
    flags: set[str] = {'-h', '--help', '--version', '-d', '-n', '--json', '--nojson'}
    for group, declared in options.list_opts():
        for option in declared:
            if not isinstance(option, cfg.BoolOpt):
                continue
            names = [f'{group}-{option.name}', f'{group}-no{option.name}']
            for old in option.deprecated_opts:
                names += [str(old.name), f'no{old.name}']
            flags.update(f'--{name}' for name in names)
    for dest in conf:
        # Those of oslo.log, which has no public list of them.
        if dest not in ('command', 'files') and isinstance(conf[dest], bool):
            name = dest.replace('_', '-')
            flags |= {f'--{name}', f'--no{name}'}
    return flags
