"""Every block that a page has one type is run, or says why not; screens fit."""

import re
from pathlib import Path

import pytest

from freezer.tests import pages
from freezer.tests.agent import ROOT
from freezer.tests.pages import Moments, blocks, differs

PAGES = pytest.mark.parametrize(
    'page', pages.pages(), ids=lambda page: str(page.relative_to(ROOT))
)


@PAGES
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """Run by ``functional/test_pages.py``, or by the test that it names."""
    found = [block for block in blocks(page) if block.language == 'console']
    assert len(found) == page.read_text().count('.. code-block:: console\n')
    for block in found:
        if reason := block.said.get('not run'):
            assert len(reason.split()) > 2, f'{block.where}: no reason'
        elif test := block.said.get('run by'):
            assert page.name in (ROOT / test).read_text(), f'{block.where}: not there'
        else:
            assert list(block.commands()), f'{block.where}: nothing to type'


@PAGES
def test_screens_fit(page: Path) -> None:
    wide = [
        f'{block.where}: {len(line)} columns: {line}'
        for block in blocks(page)
        if block.language in ('console', '', 'text')
        for line in block.text.splitlines()
        if len(line) > pages.COLUMNS
    ]
    assert not wide, '\n'.join(wide)


@pytest.mark.parametrize(
    'block, error',
    [
        ('.. code-block:: console\n\n   no prompt\n', 'no prompt'),
        ('.. code-block:: console\n\n   $ for x in y; do\n   $ true\n', 'not a whole'),
        ('.. exit: 1\n\nText.\n', 'no block follows'),
    ],
)
def test_mistakes(
    block: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (page := tmp_path / 'page.rst').write_text(block)
    monkeypatch.setattr(pages, 'ROOT', tmp_path)
    with pytest.raises(pages.PageError, match=re.escape(error)):
        list(blocks(page)[0].commands())


@pytest.mark.parametrize(
    'shown, met, same',
    [
        ('all is well', 'all is\n  well\n', True),
        ('2 backups, 516151808 bytes', '2 backups, 1234 bytes', True),
        ('1.5 MiB at 66.1 MiB/s', '917 KiB at 3 MiB/s', True),
        ('+---+\n| a |', '+-----+\n| a   |', True),
        ('a …: b', 'a x\ny: b', True),
        ('token 070b3c8ce4dc297dcafac010a8dca26c', 'token ffffffffffffffff', True),
        ('2026-01-25 02:00:09  114 x', '2026-11-28 03:00:00     2345 x', True),
        ('all is well', 'all is well, it seems', False),
        ('2 backups', '3 backups', False),
        ('2 backups', '21 backups', False),
        ('', 'something', False),
        ('2026-01-25T02:00:05Z 1769306405', '2026-11-28T03:00:00Z 1795834801', False),
    ],
)
def test_outputs_are_compared(shown: str, met: str, same: bool) -> None:
    assert bool(differs(shown, met, Moments())) is not same


def test_a_date_that_was_shown_is_typed() -> None:
    moments = Moments()
    assert not differs('2026-01-25T02:00:05Z', '2026-11-28T03:00:00Z', moments)
    assert moments.translate('cd tar/0_1769306405') == 'cd tar/0_1795834800'
    date = moments.translate('--restore-from-date 2026-01-25T02:00:05')
    assert date == '--restore-from-date 2026-11-28T03:00:00'
    assert moments.translate('2026-02-25T02:00:05Z') == '2026-02-25T02:00:05Z'
