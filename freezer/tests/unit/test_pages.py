"""Every block that pages have one type is run, or says why it is not; screens fit."""

import re
import textwrap
from pathlib import Path

import pytest

from freezer.tests import pages
from freezer.tests.agent import ROOT
from freezer.tests.pages import Block, Moments, blocks, differs

PAGES = pytest.mark.parametrize(
    'page', pages.pages(), ids=lambda page: str(page.relative_to(ROOT))
)


def console(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == 'console']


@PAGES
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """Run by ``functional/test_pages.py``, or by the test that it names."""
    for block in console(page.read_text()):
        if block.reason:
            # What is neither typed nor can be is no reason to show a wrong prompt.
            assert len(block.reason.split()) > 2, f'{page}: {block.line}: no reason'
        elif block.run_by:
            test = ROOT / block.run_by
            assert test.is_file(), f'{page}:{block.line}: no {test}'
            assert page.name in test.read_text(), f'{test} does not speak of {page}'
        else:
            assert block.commands(), f'{page}:{block.line}: nothing to type'


@PAGES
def test_screens_fit(page: Path) -> None:
    """A reader's terminal may have 80 columns."""
    wide = [
        f'{page}:{block.line + number}: {len(line)} columns: {line}'
        for block in blocks(page.read_text())
        if block.language in ('console', '', 'text')
        for number, line in enumerate(block.text.splitlines())
        if len(line) > pages.COLUMNS
    ]
    assert not wide, '\n'.join(wide)


def test_every_block_is_found() -> None:
    """What the page's source has, counted in another way."""
    for page in pages.pages():
        text = page.read_text()
        count = len(re.findall(r'^ *\.\. code-block:: console$', text, re.MULTILINE))
        assert len(console(text)) == count, page


PAGE = textwrap.dedent("""\
    Some text:

    .. run first:

       for x in y; do
         echo $x
       done

    Text.

    .. exit: 3

    .. code-block:: console

       $ cat <<END | sort \\
             | uniq
       b
       a
       END
       a
       b
       # false

       more

    .. run on: ceph

    .. file: /etc/job.conf

    .. code-block:: ini
       :caption: a file

       [job]
       x = 1

    .. not run: because it
       takes a year

    .. code-block:: console

       $ sleep 31557600

    Of a log::

       a line
    """)


def test_blocks() -> None:
    hidden, first, file, slow, log = blocks(PAGE)
    (typed,) = hidden.hidden_commands()
    assert (typed.typed, hidden.is_run) == ('for x in y; do\n  echo $x\ndone', True)
    assert (first.exit, first.server) == (3, 'seaweedfs')
    one, two = first.commands()
    assert one.typed.splitlines()[-1] == 'END'
    assert one.answer == 'a\nb'
    assert (two.typed, two.answer) == ('false', '\nmore')
    assert PAGE.splitlines()[two.line - 1].strip() == '# false'
    assert (file.file, file.text) == ('/etc/job.conf', '[job]\nx = 1')
    assert (file.server, file.is_run) == ('ceph', True)
    assert slow.reason == 'because it takes a year'
    assert not slow.is_run
    assert (log.language, log.text, log.is_run) == ('', 'a line', False)


@pytest.mark.parametrize(
    'page',
    [
        '.. code-block:: console\n\n   no prompt\n',
        '.. code-block:: console\n\n   $ echo \\\n',
        '.. code-block:: console\n\n   $ for x in y; do\n   $ true\n',
    ],
)
def test_what_cannot_be_typed(page: str) -> None:
    (block,) = blocks(page)
    with pytest.raises(pages.PageError, match='line 3'):
        block.commands()


def test_a_comment_without_a_block() -> None:
    with pytest.raises(pages.PageError, match='exit'):
        blocks('.. exit: 1\n\nText.\n')


@pytest.mark.parametrize(
    'shown, met',
    [
        ('all is well', 'all is\n  well\n'),
        ('2 backups, 516151808 bytes', '2 backups, 1234 bytes'),
        ('1.5 MiB at 66.1 MiB/s', '917 KiB at 3 MiB/s'),
        ('+---+\n| a |', '+-----+\n| a   |'),
        ('a …: b', 'a x\ny: b'),
        ('…', ''),
        ('…\nb', 'b'),
        ('a\n…', 'a'),
        ('at 2026-01-25T02:00:05Z: 0_1769306405', '''at 2026-11-28T03:00:00Z:
          0_1795834800'''),
        ('token 070b3c8ce4dc297dcafac010a8dca26c', 'token ffffffffffffffff'),
        ('2026-01-25 02:00:09  114 x', '2026-11-28 03:00:00     2345 x'),
    ],
)  # fmt: skip
def test_the_same_answer(shown: str, met: str) -> None:
    assert differs(shown, met, Moments()) == ''


@pytest.mark.parametrize(
    'shown, met',
    [
        ('all is well', 'all is well, it seems'),
        ('2 backups', '3 backups'),
        ('2 backups', '21 backups'),
        ('level 1 of x', 'level 0 of x'),
        ('| ok |', '| damaged |'),
        ('', 'something'),
        ('2026-01-25T02:00:05Z, 1769306405', '2026-11-28T03:00:00Z, 1795834801'),
    ],
)
def test_another_answer(shown: str, met: str) -> None:
    assert differs(shown, met, Moments())


def test_a_moment_that_was_shown_is_typed() -> None:
    moments = Moments()
    assert not differs('2026-01-25T02:00:05Z', '2026-11-28T03:00:00Z', moments)
    assert moments.translate('cd tar/0_1769306405') == 'cd tar/0_1795834800'
    date = moments.translate('--restore-from-date 2026-01-25T02:00:05')
    assert date == '--restore-from-date 2026-11-28T03:00:00'
    assert moments.translate('2026-02-25T02:00:05Z') == '2026-02-25T02:00:05Z'
