"""Check pages of the built documentation in Chromium.

Each check returns its findings as text, one line each, so that a test shows all of them
at once. Widths are CSS pixels: :data:`PHONE` and :data:`DESKTOP`.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, sync_playwright

PHONE, DESKTOP = 390, 1280
#: of WCAG 2.1, AA, for text of normal size
CONTRAST = 4.5
#: The smallest text of a picture on a phone, in CSS pixels.
SMALLEST = 10.5

# axe's rules; headings and overflow are checked below, because axe accepts a page that
# is wider than the screen and a first heading of any level.
RULES = [
    *('aria-hidden-focus', 'document-title', 'duplicate-id-aria'),
    *('html-has-lang', 'image-alt', 'input-button-name', 'label', 'link-name'),
    *('meta-viewport', 'scrollable-region-focusable', 'svg-img-alt'),
]
# axe needs ten seconds for the contrast of a long page. Elements have the same style if
# their tag and classes, and those of all elements around them, are the same: check one
# of each.
_ONE_OF_EACH_STYLE = """() => {
    const seen = new Set();
    const style = (element) => element.parentElement === null ? ''
        : `${style(element.parentElement)}>${element.tagName}.${element.className}`;
    for (const each of document.body.querySelectorAll('*')) {
        const text = [...each.childNodes].some((node) =>
            node.nodeType === Node.TEXT_NODE && node.data.trim().length > 1);
        if (!text || seen.has(style(each)) || !each.getClientRects().length) continue;
        seen.add(style(each));
        each.setAttribute('data-one-of-style', '');
    }
}"""

_OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    // The theme lets the whole text scroll sideways; that is no box of its own.
    const boxes = 'pre, .table-wrapper, .wide-picture';
    const scrolls = (element) => {
        if (element.parentElement.closest(boxes)) return true;
        for (let each = element; each !== document.body; each = each.parentElement)
            if (getComputedStyle(each).position === 'fixed') return true;
        return false;
    };
    const wide = [...document.body.querySelectorAll('*')].filter((element) => {
        const box = element.getBoundingClientRect();
        return box.width && box.height && box.right > width + 1 && !scrolls(element);
    });
    const outer = wide.filter((each) => !wide.includes(each.parentElement));
    const found = outer.map((each) =>
        `${each.tagName.toLowerCase()}.${each.getAttribute('class') || ''} ends at `
        + `${Math.round(each.getBoundingClientRect().right)} of ${width} px: `
        + each.textContent.trim().slice(0, 60));
    const content = document.querySelectorAll('.content');
    for (const each of [document.documentElement, ...content])
        if (each.scrollWidth > each.clientWidth)
            found.push(`the page scrolls: ${each.scrollWidth} px`);
    return found;
}"""

_HEADINGS = """() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')]
    .filter((each) => each.getBoundingClientRect().height)
    .map((each) => [Number(each.tagName[1]), each.textContent.trim()])"""

# axe does not look at the text of pictures.
_PICTURES = """([contrast, smallest]) => {
    const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const luminance = (colour) => channels(colour)
        .map((each) => each / 255)
        .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
    const opaque = (colour) => colour !== 'none' && !/, 0\\)$/.test(colour);
    const behind = (x, y) => {
        for (const each of document.elementsFromPoint(x, y)) {
            if (each.closest('text')) continue;
            const style = getComputedStyle(each);
            const colour = each.ownerSVGElement ? style.fill : style.backgroundColor;
            if (opaque(colour)) return colour;
        }
        return getComputedStyle(document.body).backgroundColor;
    };
    const found = [];
    for (const text of document.querySelectorAll('svg[role=img] text')) {
        if (getComputedStyle(text).opacity === '0') continue;
        text.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'});
        const box = text.getBoundingClientRect();
        const said = `${JSON.stringify(text.textContent.trim().slice(0, 40))}`;
        const picture = text.ownerSVGElement.getBoundingClientRect();
        if (box.left < picture.left - 1 || box.right > picture.right + 1)
            found.push(`${said} sticks out of its picture`);
        const scale = picture.width / text.ownerSVGElement.viewBox.baseVal.width;
        const size = parseFloat(getComputedStyle(text).fontSize) * scale;
        if (size < smallest) found.push(`${said} is ${size.toFixed(1)} px high`);
        for (const span of text.children.length ? text.children : [text]) {
            if (!span.textContent.trim()) continue;
            const at = span.getBoundingClientRect();
            const fill = getComputedStyle(span).fill;
            const ground = behind(at.left + at.width / 2, at.top + at.height / 2);
            const both = [luminance(fill), luminance(ground)];
            const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
            const colours = `${fill} on ${ground}`;
            if (ratio < contrast)
                found.push(`${said}: contrast ${ratio.toFixed(2)}, ${colours}`);
        }
    }
    window.scrollTo(0, 0);
    return found;
}"""


def chromium_path() -> str | None:
    """Path of the installed Chromium."""
    return shutil.which('chromium') or shutil.which('chromium-browser')


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium that talks to no server of its vendor."""
    options = [
        *('--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'),
        *('--disable-background-networking', '--disable-component-update'),
    ]
    if os.geteuid() == 0:
        options.append('--no-sandbox')  # it refuses to run as root with one
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium_path(), args=options
        )
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def opened(browser: Browser, width: int, scheme: Any) -> Iterator[Page]:
    """A tab of this width, ``light`` or ``dark``, which finishes animations at once."""
    tab = browser.new_page(
        viewport={'width': width, 'height': 850},
        color_scheme=scheme,
        reduced_motion='reduce',
    )
    try:
        yield tab
    finally:
        tab.close()


def overflow(page: Page) -> list[str]:
    """Elements that are wider than the screen, except inside a box that scrolls."""
    return list(page.evaluate(_OVERFLOW))


def headings(page: Page) -> list[str]:
    """Whether there is one h1, at the top, and no level is skipped."""
    found = page.evaluate(_HEADINGS)
    first = [text for level, text in found if level == 1]
    findings = [] if len(first) == 1 else [f'h1, {len(first)} times: {first}']
    above = 0
    for level, text in found:
        if level > above + 1:
            findings.append(f'h{level} follows h{above}: {text}')
        above = level
    return findings


def pictures(page: Page) -> list[str]:
    """Text of inline pictures: its contrast, its size, and whether it fits."""
    return list(page.evaluate(_PICTURES, [CONTRAST, SMALLEST]))


def accessibility(page: Page) -> list[str]:
    """axe's findings: contrast, names of links, alternatives of pictures."""
    page.evaluate(_ONE_OF_EACH_STYLE)
    return [
        *_axe(Axe(), page, RULES, None),
        # The page has the script from the run before.
        *_axe(Axe('null'), page, ['color-contrast'], '[data-one-of-style]'),
    ]


def _axe(axe: Axe, page: Page, rules: list[str], within: str | None) -> list[str]:
    options = {'runOnly': rules, 'resultTypes': ['violations'], 'elementRef': False}
    results = axe.run(page, context=within, options=options)
    return [
        f'{rule["id"]}: {node["target"][0]}: {_reason(node)}'
        for rule in results.response['violations']
        for node in rule['nodes']
    ]


def _reason(node: dict[str, Any]) -> str:
    checks = node['any'] + node['all'] + node['none']
    return str(checks[0]['message'])


def findings(page: Page) -> list[str]:
    """All checks of an open page."""
    return [
        *overflow(page),
        *headings(page),
        *pictures(page),
        *accessibility(page),
    ]


# Links


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == 'id' and value:
                self.targets.add(value)
            if name in ('href', 'src') and value:
                self.links.add(value)


def broken_links(site: Path) -> list[str]:
    """Links of all pages to files and fragments of the site that do not exist."""
    parsed: dict[Path, _Links] = {}
    for page in site.rglob('*.html'):
        parsed[page] = _Links()
        parsed[page].feed(page.read_text())
    found = []
    for page, links in parsed.items():
        for link in sorted(links.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            fragment = unquote(url.fragment)
            if not target.exists():
                found.append(f'{page.relative_to(site)}: no file {link}')
            elif fragment and fragment not in parsed[target].targets:
                found.append(f'{page.relative_to(site)}: no target {link}')
    return found
