"""Where the log goes: as the options say; otherwise to standard error, or a daemon's to
``~/.freezer/scheduler.log``."""

import contextlib
import logging
from pathlib import Path

from oslo_config import cfg
from oslo_log import log

from freezer.exceptions import ConfigError
from freezer.scheduler.command_line import literal

_DESTINATIONS = (
    'log_file',
    'log_dir',
    'use_syslog',
    'use_journal',
    'log_config_append',
)


def set_up(conf: cfg.ConfigOpts, foreground: bool) -> None:
    """:raises ConfigError: the log cannot be written"""
    if not any(conf[each] for each in _DESTINATIONS):
        if foreground:
            conf.set_override('use_stderr', True)
        else:
            folder = Path('~/.freezer').expanduser()
            conf.set_override('log_file', literal(str(folder / 'scheduler.log')))
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
    try:
        log.setup(conf, 'freezer')
    except (OSError, log.LogConfigError) as error:
        raise ConfigError(f'the log cannot be written: {error}') from error
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream:
            # File names may not be valid UTF-8.
            handler.stream.reconfigure(errors='backslashreplace')
