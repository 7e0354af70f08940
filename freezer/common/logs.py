"""Where the log goes."""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

from oslo_config import cfg
from oslo_log import log

from freezer.common.parsing import literal
from freezer.exceptions import ConfigError
from freezer.utils import trusted
from freezer.utils.text import NOTICES, printable

_DESTINATIONS = (
    *('log_file', 'log_dir', 'use_syslog', 'use_journal'),
    'log_config_append',
)
_FOLDER = '~/.freezer'
# libc drops messages silently without it.
_SYSLOG = '/dev/log'


def location(conf: cfg.ConfigOpts, name: str, by_default: bool = True) -> str:
    """The path of the log file, or ''; see :func:`set_up`."""
    if not any(conf[dest] for dest in _DESTINATIONS):
        return os.path.join(os.path.expanduser(_FOLDER), name) if by_default else ''
    if not (conf.log_file or conf.log_dir):
        return ''
    return os.path.join(conf.log_dir or '', conf.log_file or name)


def set_up(conf: cfg.ConfigOpts, name: str, by_default: bool = True) -> str:
    """Start logging.

    :param name: of the log file, if the options do not give one
    :param by_default: without an option that says where to log, do so to ``~/.freezer``
        and not to standard error
    :returns: the path of the log file, or ''
    :raises ConfigError: it cannot be written
    """
    path = location(conf, name, by_default)
    if not any(conf[dest] for dest in _DESTINATIONS):
        if not by_default:
            conf.set_override('use_stderr', True)
        else:
            folder = os.path.dirname(path)
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
            except OSError as error:
                reason = f'{error.strerror}; give another with --log-dir'
                raise ConfigError(f'log directory {folder}: {reason}') from error
    if conf.use_journal and importlib.util.find_spec('systemd') is None:
        raise ConfigError(
            'use-journal needs the Python package systemd (Debian: python3-systemd; '
            'pip: systemd-python)'
        )
    if conf.use_syslog and not os.path.exists(_SYSLOG):
        NOTICES.warning('use-syslog: no syslog daemon: %s does not exist', _SYSLOG)
    try:
        _start(conf, path)
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
            warn = _warn_once()
            handler.handleError = warn  # type: ignore[assignment,method-assign]
            _reopen_safely(handler, path, warn)
    return path


def _escape(record: logging.LogRecord) -> bool:
    """Escape what a terminal would obey: a message may have text of a store. One line
    stays one, so that none can be forged."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - of a library, whose call would fail
        # Its arguments do not fit.
        message = record.msg if isinstance(record.msg, str) else repr(type(record.msg))
    record.msg, record.args = printable(message), None
    return True


class _Escaped(logging.Formatter):
    """Escapes and indents the other lines that a formatter makes, those of tracebacks:
    they repeat errors, and so text of a store."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        # oslo.log adds the exception that is handled, which most messages have already.
        summary = str(getattr(record, 'error_summary', ''))
        if summary.partition(': ')[2] in record.getMessage() and not record.exc_info:
            text = text.removesuffix(f': {summary}')
        return '\n  '.join(map(printable, text.split('\n')))


def _start(conf: cfg.ConfigOpts, path: str) -> None:
    """Set up oslo.log, with a file that no link of another user leads to.

    :raises OSError: the file cannot be opened
    """
    if not path or conf.log_config_append:
        log.setup(conf, 'freezer')
        return
    fd = trusted.open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        # oslo.log opens this very file, whatever the path leads to by then.
        conf.set_override('log_file', f'/proc/self/fd/{fd}')
        log.setup(conf, 'freezer')
    finally:
        os.close(fd)
        conf.set_override('log_file', literal(path))


def _reopen_safely(
    handler: logging.FileHandler, path: str, failed: Callable[[object], None]
) -> None:
    """When the log is rotated, open the path again in the same way."""

    def reopened() -> TextIO:
        try:
            return open(
                path,
                'a',
                encoding=handler.encoding,
                errors=handler.errors,
                opener=trusted.opener,
            )
        except OSError:
            failed(None)
            return open(os.devnull, 'a')

    handler.baseFilename = os.path.abspath(path)
    handler._open = reopened  # type: ignore[assignment,method-assign]


def _warn_once() -> Callable[[object], None]:
    """A handler's ``handleError``: one warning on the terminal, and the work goes on.

    logging's own prints a traceback on standard error for each line.
    """
    warned = False

    def failed(_record: object) -> None:
        nonlocal warned
        if not warned:
            warned = True
            NOTICES.warning('the log cannot be written: %s', sys.exc_info()[1])

    return failed
