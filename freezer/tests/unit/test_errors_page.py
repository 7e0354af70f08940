"""The page of errors has every error message, and nothing else."""

from collections import Counter
from pathlib import Path

import pytest

from freezer.tests.errors import PAGE, Source, rows, without_message, without_row

TEXT = PAGE.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def source() -> Source:
    return Source()


def test_every_message_has_a_row(source: Source) -> None:
    assert not without_row(source, rows(TEXT)), 'python -m freezer.tests.errors'


def test_every_row_has_a_message(source: Source) -> None:
    assert not without_message(source, rows(TEXT)), 'python -m freezer.tests.errors'


def test_a_changed_message_is_noticed(tmp_path: Path) -> None:
    """In the exception itself, in a variable, an argument or a function it uses."""
    (tmp_path / 'module.py').write_text("""if True:
        class ConfigError(Exception): pass
        class OtherError(ConfigError): pass
        def _reason(error):
            return 'it is not a directory' if error else f'{error} is too large'
        def check(path, error):
            line = f'{path}: {_reason(error)}'
            _fail('and this is passed on')
            raise ConfigError(line)
        def _fail(text):
            raise module.OtherError(text)
        LOG.info('this is only written to the log')
        """)
    source = Source(tmp_path)
    listed = ['…: it is not a directory', '… is too large', 'and this is passed on']
    assert (without_row(source, listed), without_message(source, listed)) == ({}, [])
    assert list(without_row(source, listed[1:])) == ['it is not a directory']
    old = '…: this is no longer in the source'
    assert without_message(source, [*listed, old]) == [old]


def test_no_row_is_there_twice() -> None:
    assert [row for row, count in Counter(rows(TEXT)).items() if count > 1] == []


def test_every_row_says_what_to_do() -> None:
    for row in TEXT.split('\n   * - ')[1:]:
        _message, _, meaning = row.partition('\n     - ')
        assert len(meaning.split()) > 2, row
