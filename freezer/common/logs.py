"""Where the log goes."""

import logging
import os
import sys
from collections.abc import Callable

from oslo_config import cfg
from oslo_log import log

from freezer.common.parsing import literal
from freezer.exceptions import ConfigError
from freezer.utils.text import NOTICES, printable

_DESTINATIONS = (
    *('log_file', 'log_dir', 'use_syslog', 'use_journal'),
    'log_config_append',
)
_FOLDER = '~/.freezer'


def location(conf: cfg.ConfigOpts, default: str | None) -> str:
    """The path of the log file, or ''; see :func:`set_up`."""
    if default is not None and not any(conf[dest] for dest in _DESTINATIONS):
        return os.path.join(os.path.expanduser(_FOLDER), default)
    if conf.log_file and conf.log_dir:
        return os.path.join(str(conf.log_dir), str(conf.log_file))
    return str(conf.log_file or '')


def set_up(conf: cfg.ConfigOpts, default: str | None) -> str:
    """Start logging.

    :param default: where to log if the options do not say: the name of a file in
        ``~/.freezer``; None is standard error
    :returns: the path of the log file, or ''
    :raises ConfigError: it cannot be written
    """
    if not any(conf[dest] for dest in _DESTINATIONS):
        if default is None:
            conf.set_override('use_stderr', True)
        else:
            folder = os.path.expanduser(_FOLDER)
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
            except OSError as error:
                reason = f'{error.strerror}; give another with --log-dir'
                raise ConfigError(f'log directory {folder}: {reason}') from error
            conf.set_override('log_file', literal(os.path.join(folder, default)))
    try:
        log.setup(conf, 'freezer')
    except (OSError, log.LogConfigError) as error:
        raise ConfigError(f'the log cannot be written: {error}') from error
    for handler in logging.getLogger().handlers:
        handler.addFilter(_escape)
        handler.setFormatter(_Escaped(handler.formatter))
        if not isinstance(handler, logging.StreamHandler) or not handler.stream:
            continue
        # File names may not be valid UTF-8.
        handler.stream.reconfigure(errors='backslashreplace')
        if isinstance(handler, logging.FileHandler):
            handler.errors = 'backslashreplace'
            handler.handleError = _warn_once()  # type: ignore[assignment,method-assign]
    return location(conf, default)


def _escape(record: logging.LogRecord) -> bool:
    """Escape what a terminal would obey: a message may have text of a store. One line
    stays one, so that none can be forged."""
    message = printable(record.getMessage())
    record.msg, record.args = message, None
    return True


class _Escaped(logging.Formatter):
    """Escapes and indents the other lines that a formatter makes, those of tracebacks:
    they repeat errors, and so text of a store."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        lines = self._inner.format(record).split('\n')
        return '\n  '.join(map(printable, lines))


def _warn_once() -> Callable[[logging.LogRecord], None]:
    """A handler's ``handleError``: one warning on the terminal, and the work goes on.

    logging's own prints a traceback on standard error for each line.
    """
    warned = False

    def failed(_record: logging.LogRecord) -> None:
        nonlocal warned
        if not warned:
            warned = True
            NOTICES.warning('the log cannot be written: %s', sys.exc_info()[1])

    return failed
