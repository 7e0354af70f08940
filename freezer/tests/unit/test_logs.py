"""What is done to each record of the log."""

import importlib.util
import logging
from pathlib import Path
from unittest import mock

import pytest

from freezer.common import logs
from freezer.exceptions import ConfigError
from freezer.scheduler import config


class Broken:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    'message, arguments, logged',
    [
        ('%s and %s', ('one',), '%s and %s'),
        ('none\x1b[2J', ('one',), 'none\\x1b[2J'),
        ('%d', ('text',), '%d'),
        ('%(key)s', ({'other': 1},), '%(key)s'),
        ('%s', (Broken(),), '%s'),
        (Broken(), (), "<class 'freezer.tests.unit.test_logs.Broken'>"),
        ('%s', ('right',), 'right'),
    ],
)
def test_a_malformed_call_is_logged(
    message: object, arguments: tuple[object, ...], logged: str
) -> None:
    """The library that made it gets no error."""
    record = logging.LogRecord('lib', 20, 'file', 1, message, arguments, None)
    assert logs._escape(record)
    assert record.getMessage() == logged


def test_the_journal_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _name: None)
    conf = config.load(['status', '--use-journal'], {}).conf
    with pytest.raises(ConfigError, match='python3-systemd'):
        logs.set_up(conf, 'scheduler.log')


def test_syslog_without_a_daemon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(logs, '_SYSLOG', str(tmp_path / 'log'))
    monkeypatch.setattr(logs, '_start', mock.Mock(side_effect=OSError))
    conf = config.load(['status', '--use-syslog'], {}).conf
    with pytest.raises(ConfigError):
        logs.set_up(conf, 'scheduler.log')
    assert 'no syslog daemon' in caplog.text
