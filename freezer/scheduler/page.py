"""The status page: one HTML file, which needs no server and no other file."""

import contextlib
import datetime
import html
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.scheduler.documents import schedule
from freezer.scheduler.runs.record import RUNNING, SUCCESS, Record
from freezer.utils import trusted
from freezer.utils.human import duration, number, size
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)

# A web server runs as another user.
_MODE = 0o644
#: a run that has not started so long after it was due is overdue
LATE = datetime.timedelta(minutes=5)
# Seconds between two writes, at least.
_PAUSE_SECONDS = 5.0
# Part of the time that goes into writing the page, at most: one of so many seconds.
_PART = 50
# The other jobs have no charts: the page would be too large for a browser.
_MOST_CHARTS = 500
_BAR, _HEIGHT, _SLOTS = 10, 40, 30

_STYLE = """
:root{color-scheme:light dark;--b:#fff;--t:#1c1e21;--m:#555b61;--c:#f4f5f6;--l:#c9ced3;
--ok:#1a7f37;--warn:#8a5a00;--bad:#c22131}
@media(prefers-color-scheme:dark){:root{--b:#15181b;--t:#e8eaed;--m:#a8b0b8;--c:#20252a;
--l:#454c54;--ok:#56d364;--warn:#e3b341;--bad:#ff8b84}}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--b);color:var(--t);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:0}
p{margin:.4rem 0;color:var(--m)}
section{background:var(--c);border:1px solid var(--l);border-radius:.5rem;padding:1rem;
margin:1rem 0}dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));
gap:.5rem 1rem;margin:.5rem 0}dt{color:var(--m);font-size:.875rem}dd{margin:0}
strong.ok{color:var(--ok)}strong.warn{color:var(--warn)}strong.bad,#stale{color:var(--bad)}
svg{display:block;width:100%;max-width:30rem;height:2.5rem}
rect.ok{fill:var(--ok)}rect.warn{fill:var(--warn)}rect.bad{fill:var(--bad)}
rect.size{fill:var(--m)}
"""
# The page is old if the scheduler is dead: only the reader's clock can tell.
_SCRIPT = """
const page=document.getElementById('stale'),at=Number(page.dataset.at);
const age=()=>{const minutes=Math.round((Date.now()/1000-at)/60);
page.hidden=minutes<Number(page.dataset.limit);
page.textContent=`This page was written ${minutes} minutes ago: `
+'the scheduler may not be running.'};age();setInterval(age,30000);
"""


class StatusPage:
    """Written while the scheduler runs.

    :param interval: seconds between two writes, if nothing happens
    """

    def __init__(self, path: Path, interval: float) -> None:
        self._path = path
        self._interval = interval
        #: when to call :meth:`update` again (epoch seconds)
        self.next_update = 0.0
        self._written = 0.0
        self._pause = _PAUSE_SECONDS
        self._state: list[Any] = []
        self._failed = ''

    def update(self, records: Sequence[Record], now: datetime.datetime) -> None:
        """Write the page if it is time, or a run has started or ended. An error is
        logged, and stops nothing."""
        state = [(each.job_id, each.status, each.runs, each.ended) for each in records]
        pause = self._interval if state == self._state else self._pause
        self.next_update = self._written + pause
        if 0 <= now.timestamp() - self._written < pause:
            return
        self._written, self._state = now.timestamp(), state
        self.next_update = self._written + self._interval
        began = time.monotonic()
        try:
            _write(self._path, render(records, now, self._interval))
            self._failed = ''
        except OSError as error:
            reason = f'status-page {self._path}: {error.strerror or error}'
            if reason != self._failed:
                LOG.error('%s', reason)
            self._failed = reason
        took = time.monotonic() - began
        self._pause = min(max(_PAUSE_SECONDS, _PART * took), self._interval)


def _write(path: Path, text: str) -> None:
    """Atomic: readers see the old or the new page.

    :raises OSError: the page is unchanged
    """
    folder = trusted.open_file(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    new = f'.{path.name}-{secrets.token_hex(8)}'
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600, dir_fd=folder), 'wb') as stream:
            stream.write(text.encode('utf-8', 'replace'))
            os.fchmod(stream.fileno(), _MODE)
        os.replace(new, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def render(records: Sequence[Record], now: datetime.datetime, interval: float) -> str:
    """The page."""
    overdue = [each for each in records if is_overdue(each, now)]
    summary = f'{number(len(records), "job")}, {len(overdue)} overdue; written '
    limit = max(int(interval * 3 / 60), 5)
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta http-equiv="refresh" content="60">',
        '<meta name="robots" content="noindex">',
        f'<title>Backups: {len(overdue)} overdue</title><style>{_STYLE}</style></head>',
        '<body><main><h1>Backups</h1>',
        f'<p>{summary}{schedule.format_time(now)}</p>',
        f'<p id="stale" data-at="{now.timestamp():.0f}" data-limit="{limit}" hidden>',
        '</p>',
        # The jobs that need attention come first.
        *(
            part
            for place, record in enumerate(
                sorted(records, key=lambda each: _order(each, now))
            )
            for part in _job(record, now, place < _MOST_CHARTS)
        ),
        f'</main><script>{_SCRIPT}</script></body></html>\n',
    ]
    return '\n'.join(parts)


def is_overdue(record: Record, now: datetime.datetime) -> bool:
    due = record.due
    return due is not None and record.status != RUNNING and now - due > LATE


def _order(record: Record, now: datetime.datetime) -> tuple[bool, bool, str]:
    failed = record.result not in ('', SUCCESS)
    return not is_overdue(record, now), not failed, record.job_id


def _text(text: object) -> str:
    return html.escape(printable(str(text)))


def _job(record: Record, now: datetime.datetime, charts: bool) -> Iterator[str]:
    yield f'<section><h2>{_text(record.job_id)}</h2>'
    if is_overdue(record, now):
        yield '<p><strong class="bad">Overdue</strong></p>'
    yield '<dl>'
    shown = record.outcome or 'none yet'
    for name, value in (
        ('Status', _text(record.status)),
        ('Last result', f'<strong class="{_kind(record)}">{_text(shown)}</strong>'),
        ('Last success', _moment(record.last_success, now)),
        ('Next run', _moment(record.due, now)),
    ):
        yield f'<div><dt>{name}</dt><dd>{value}</dd></div>'
    yield '</dl>'
    if record.error or record.warning:
        yield f'<p>{_text(record.error or record.warning)}</p>'
    history = record.history[-_SLOTS:]
    if history and charts:
        yield from _runs(history)
        yield from _sizes(history)
    yield '</section>'


def _kind(record: Record) -> str:
    if record.result in ('', SUCCESS):
        return 'warn' if record.warning else 'ok'
    return 'bad'


def _moment(moment: datetime.datetime | None, now: datetime.datetime) -> str:
    if moment is None:
        return 'none'
    seconds = (now - moment).total_seconds()
    relative = (
        f'{duration(seconds)} ago' if seconds >= 0 else f'in {duration(-seconds)}'
    )
    return f'{_text(schedule.format_time(moment))} ({relative})'


def _runs(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    good = sum(run.get('result') == SUCCESS for run in history)
    text = f'{good} of the last {number(len(history), "run")} succeeded'
    yield f'<p>{text}</p>'
    yield _picture(text)
    for place, run in enumerate(history):
        success = run.get('result') == SUCCESS
        kind = 'bad' if not success else 'warn' if run.get('warning') else 'ok'
        # A failure is also lower, for readers who do not see the colours.
        height = _HEIGHT if success else _HEIGHT // 2
        title = f'{run.get("started")}: {run.get("result")}'
        yield _rect(place, height, kind, title)
    yield '</svg>'


def _sizes(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    sizes = [_size(run) for run in history]
    known = [each for each in sizes if each is not None]
    if not known:
        return
    text = f'Stored: {size(known[-1])} by the last backup, {size(max(known))} at most'
    yield f'<p>{text}</p>'
    yield _picture(text)
    for place, (run, stored) in enumerate(zip(history, sizes, strict=True)):
        if stored is not None:
            height = max(round(_HEIGHT * stored / max(*known, 1)), 1)
            title = f'{run.get("started")}: {size(stored)}, level {run.get("level")}'
            yield _rect(place, height, 'size', title)
    yield '</svg>'


def _size(run: Mapping[str, Any]) -> int | None:
    stored = run.get('bytes_stored')
    return stored if isinstance(stored, int) and stored >= 0 else None


def _picture(text: str) -> str:
    width = _BAR * _SLOTS
    return (
        f'<svg role="img" aria-label="{_text(text)}" viewBox="0 0 {width} {_HEIGHT}" '
        f'preserveAspectRatio="none">'
    )


def _rect(place: int, height: int, kind: str, title: str) -> str:
    return (
        f'<rect class="{kind}" x="{place * _BAR}" y="{_HEIGHT - height}" '
        f'width="{_BAR - 2}" height="{height}"><title>{_text(title)}</title></rect>'
    )
