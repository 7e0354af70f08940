"""Every error the programs can tell of is on the page of errors, and no other is."""

import textwrap
import types
from collections import Counter

import pytest

from freezer import exceptions
from freezer.scheduler.documents.document import Problem
from freezer.storage import exceptions as storage_exceptions
from freezer.tests.errors import PAGE, Reader, collect, on_page

LISTED = on_page(PAGE.read_text(encoding='utf-8'))


def test_every_error_has_a_row() -> None:
    lacking = {text: where for text, where in collect().items() if text not in LISTED}
    assert not lacking, 'python -m freezer.tests.errors prints the rows'


def test_every_row_has_an_error() -> None:
    said = collect()
    assert not [text for text in LISTED if text not in said]


def test_no_error_is_listed_twice() -> None:
    assert [text for text, times in Counter(LISTED).items() if times > 1] == []


def test_no_row_is_without_words_on_what_to_do() -> None:
    rows = PAGE.read_text(encoding='utf-8').split('\n   * - ')
    for row in rows[1:]:
        _said, _, meaning = row.partition('\n     - ')
        assert len(meaning.split()) > 2, row


def read(source: str) -> set[str]:
    """The texts of a module."""
    module = types.ModuleType('module')
    vars(module).update(
        ConfigError=exceptions.ConfigError,
        e=storage_exceptions,
        Problem=Problem,
        NAME='the name',
    )
    return {said.text for said in Reader(textwrap.dedent(source), module)}


@pytest.mark.parametrize(
    'source, texts',
    [
        ("raise ConfigError('x: bad')", {'x: bad'}),
        ("raise ConfigError(f'{path}: {NAME} {error!r}')", {'…: the name …'}),
        ("raise e.NotFound(f'{a}{b} is ' + f'gone')", {'… is gone'}),
        # Made, and raised or handed back elsewhere.
        ("failure = e.Conflict('taken')", {'taken'}),
        ("raise KeyError('none of ours')", set()),
        ("raise ValueError('of a line')", {'of a line'}),
        ("kept = ValueError('a value')", set()),
        ("raise ConfigError('one' if x else 'two')", {'one', 'two'}),
        ('raise ConfigError(f\'x{"; more" if x else ""}\')', {'x…'}),
        ("self._complain(f'{error} happened')", {'… happened'}),
        ("sys.stderr.write('said\\n')", {'said'}),
        ("stream.write('data')", set()),
        ("Problem(1, 'key', 'is wrong')", {'is wrong'}),
        (
            """
            def one():
                line = f'at {where}'
                if more:
                    line += ' and more'
                raise ConfigError(line)
            """,
            {'at …'},
        ),
        (
            """
            def wrong(self, text):
                raise ConfigError(text)

            def check(self):
                self.wrong('is not a list')
                self.wrong('is ' + 'too long')
            """,
            {'is not a list', 'is too long'},
        ),
        (
            """
            def reason(error):
                if error:
                    return 'not this'
                return 'not that'

            def check(where):
                where = f'{where}: seal'
                raise ConfigError(f'{where}: {reason(1)}')
            """,
            {'…: seal: not this', '…: seal: not that'},
        ),
        (
            """
            def _size_problems(self):
                yield 'too small'

            def sizes(self):
                yield 'no error'
            """,
            {'too small'},
        ),
    ],
)
def test_what_a_module_says(source: str, texts: set[str]) -> None:
    assert read(source) == texts


def test_what_a_page_lists() -> None:
    page = """
.. list-table::

   * - What it says
     - What it means
   * - ``one: …
       goes on``

       ``two``
     - See ``--option``.
   * - ``three``
     - Yes.
"""
    assert on_page(page) == ['one: … goes on', 'two', 'three']
