"""What is done to each record of the log."""

import logging

import pytest

from freezer.common import logs


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
