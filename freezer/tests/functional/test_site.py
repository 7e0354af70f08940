"""The built documentation in a browser: on a phone and a desk, light and dark."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import playwright.sync_api
import pytest

from freezer.tests import browser
from freezer.tests.agent import ROOT
from freezer.tests.browser import DESKTOP, PHONE
from freezer.tests.once import made_once


@pytest.fixture(scope='session')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""

    def make(folder: Path) -> None:
        argv = [sys.executable, '-m', 'sphinx', '-q', '-W', '-b', 'html']
        argv += ['-d', str(folder / 'doctrees'), 'doc/source', str(folder / 'html')]
        subprocess.run(argv, cwd=ROOT, check=True)

    return made_once(tmp_path_factory, 'site', make) / 'html'


@pytest.fixture
def chromium() -> Iterator[playwright.sync_api.Browser]:
    if browser.chromium_path() is None:
        pytest.skip('no Chromium (Debian: chromium)')
    with browser.chromium() as started:
        yield started


# Pages have one layout, so that some tell of all; and what fits on a phone is not too
# wide on a desk.
STEPS = (1, 1) if os.environ.get('FREEZER_TEST_THOROUGH') else (2, 5)


@pytest.mark.parametrize(
    'width, scheme, step',
    [(PHONE, 'light', STEPS[0]), (DESKTOP, 'dark', STEPS[1])],
    ids=['phone', 'desktop'],
)
def test_pages_can_be_read(
    site: Path,
    chromium: playwright.sync_api.Browser,
    width: int,
    scheme: str,
    step: int,
) -> None:
    found = []
    with browser.opened(chromium, width, scheme) as page:
        for path in sorted(site.rglob('*.html'))[::step]:
            page.goto(path.as_uri())
            name = path.relative_to(site)
            found += [f'{name}: {each}' for each in browser.findings(page)]
    assert not found, '\n'.join(found)


def test_links(site: Path) -> None:
    assert not browser.broken_links(site)


# Faults


def content(inserted: str) -> tuple[str, str]:
    """Where a page is changed, and how: at the end of its text."""
    return '</article>', f'{inserted}</article>'


FAULTS = {
    'overflow': (
        *content(f'<p style="white-space: nowrap">{"long " * 50}</p>'),
        r'the page scrolls: \d+ px',
    ),
    'a wide picture': (
        *content('<div style="width: 700px">picture</div>'),
        r'div\. ends at 7\d\d of 390 px: picture',
    ),
    'contrast': (
        *content('<p style="color: #999; background: #fff">some pale words</p>'),
        r'color-contrast: .*2\.84',
    ),
    'a skipped heading': (*content('<h5>Details</h5>'), r'h5 follows h2: Details'),
    'two titles': (*content('<h1>Again</h1>'), r'h1, 2 times'),
    'no title': ('<h1>', '<h2>', r'h1, 0 times'),
    'a picture without text': (
        *content('<img src="x.png" width="9" height="9">'),
        r'image-alt',
    ),
    'pale text in a picture': (
        *content(
            '<svg class="picture" role="img" aria-label="x" viewBox="0 0 380 30">'
            '<rect width="380" height="30" style="fill: #777"/>'
            '<text x="9" y="20" style="fill: #999">pale</text></svg>'
        ),
        r'"pale": contrast 1\.\d+, rgb\(153, 153, 153\) on rgb\(119, 119, 119\)',
    ),
    'small text in a picture': (
        *content(
            '<svg class="picture" role="img" aria-label="x" viewBox="0 0 760 30">'
            '<text x="9" y="20">small</text></svg>'
        ),
        r'"small" is 6\.\d px high',
    ),
    'text that a picture cuts off': (
        *content(
            '<svg class="picture" role="img" aria-label="x" viewBox="0 0 380 30">'
            '<text x="300" y="20">longer than the picture</text></svg>'
        ),
        'sticks out of its picture',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_found(
    site: Path, chromium: playwright.sync_api.Browser, fault: str
) -> None:
    old, new, expected = FAULTS[fault]
    path = site / 'user' / 'quickstart.html'
    text = path.read_text()
    assert old in text
    # Beside the others, because of its style sheets.
    broken = path.with_name(f'fault-{list(FAULTS).index(fault)}.broken')
    broken.write_text(text.replace(old, new, 1))
    with browser.opened(chromium, PHONE, 'light') as page:
        page.route(
            '**/*.broken',
            lambda route: route.fulfill(path=broken, content_type='text/html'),
        )
        page.goto(broken.as_uri())
        found = browser.findings(page)
        page.goto(path.as_uri())
        assert not browser.findings(page)
    assert re.search(expected, '\n'.join(found)), found


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / 'a.html').write_text(
        '<p id="x"><a href="b.html">b</a><a href="#y">y</a>'
    )
    (tmp_path / 'c.html').write_text(
        '<a href="a.html#x">x</a><a href="https://b">b</a>'
    )
    assert browser.broken_links(tmp_path) == [
        'a.html: no target #y',
        'a.html: no file b.html',
    ]


# Search


@pytest.mark.parametrize(
    'words, wanted',
    [
        ('ransomware', 'user/object-lock.html'),
        ('retention', 'user/levels-and-retention.html'),
        ('--numeric-owner', 'user/restore.html'),
    ],
)
def test_search_without_a_server(
    site: Path, chromium: playwright.sync_api.Browser, words: str, wanted: str
) -> None:
    """From the landing page on a phone, whose sidebar is hidden, to the page."""
    with browser.opened(chromium, PHONE, 'light') as page:
        page.goto((site / 'index.html').as_uri())
        page.get_by_role('searchbox', name='Search this documentation').fill(words)
        page.keyboard.press('Enter')
        page.wait_for_url('**/search.html?*')
        links = page.locator('#search-results li a')
        links.first.wait_for()
        targets = [str(each.get_attribute('href')) for each in links.all()]
        assert any(each.startswith(wanted) for each in targets[:5]), targets
        assert not browser.overflow(page)


def test_search_in_the_sidebar(
    site: Path, chromium: playwright.sync_api.Browser
) -> None:
    with browser.opened(chromium, DESKTOP, 'light') as page:
        page.goto((site / 'user' / 'restore.html').as_uri())
        page.locator('.sidebar-search').fill('ransomware')
        page.keyboard.press('Enter')
        page.locator('#search-results a[href*="object-lock"]').first.click()
        assert page.locator('h1').inner_text().startswith('Object lock')
