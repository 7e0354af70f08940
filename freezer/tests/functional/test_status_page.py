"""The status page: written by a real scheduler, and read in a browser."""

import datetime
import json
import os
import re
import stat
from pathlib import Path

import pytest

from freezer.metrics import HELP
from freezer.scheduler import page
from freezer.scheduler.runs.record import Record
from freezer.tests import browser
from freezer.tests.agent import ROOT
from freezer.tests.browser import DESKTOP, PHONE
from freezer.tests.scheduler import Scheduler, backup_to, document, executes, until

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
HOUR = datetime.timedelta(hours=1)


def record(job_id: str, result: str, due: datetime.datetime, **others: str) -> Record:
    made = Record(job_id, status='scheduled', due=due, result=result, **others)  # type: ignore[arg-type]
    for hours in range(40, 0, -1):
        made.started = made.ended = made.last_success = NOW - hours * HOUR
        made.result = 'fail' if hours % 7 == 0 else 'success'
        made.remember({'curr_backup_level': hours % 5, 'bytes_stored': hours * 10**6})
    made.result = result
    return made


RECORDS = [
    record('web-' + 'long' * 15, 'success', NOW + HOUR),
    record('late', 'success', NOW - HOUR, warning='2 warnings'),
    record('<script>x</script>', 'fail', NOW + HOUR, error='Error: <b>no</b> ' * 9),
    Record('new', status='scheduled', due=NOW + HOUR),
]


@pytest.mark.parametrize(
    'width, scheme', [(PHONE, 'light'), (PHONE, 'dark'), (DESKTOP, 'dark')]
)
def test_the_page_can_be_read(tmp_path: Path, width: int, scheme: str) -> None:
    if browser.chromium_path() is None:
        pytest.skip('no Chromium (Debian: chromium)')
    path = tmp_path / 'status.html'
    path.write_text(page.render(RECORDS, NOW, 60))
    requested: list[str] = []
    with (
        browser.chromium() as chromium,
        browser.opened(chromium, width, scheme) as tab,
    ):
        tab.on('request', lambda request: requested.append(request.url))
        tab.clock.set_fixed_time(NOW)
        tab.goto(path.as_uri())
        assert not browser.findings(tab)
        assert not tab.locator('#stale').is_visible()
        jobs = tab.locator('h2').all_text_contents()
        assert jobs == ['late', '<script>x</script>', 'new', RECORDS[0].job_id]
        assert tab.locator('.bad', has_text='Overdue').count() == 1
        text = tab.locator('section').first.inner_text()
        assert '26 of the last 30 runs succeeded' in text
        # An old page says so.
        path.write_text(page.render(RECORDS, NOW - HOUR, 60))
        tab.goto(path.as_uri())
        stale = tab.locator('#stale').inner_text()
        assert re.search(r'written 6\d minutes ago', stale)
    assert requested == [path.as_uri()] * 2


def test_a_scheduler_writes_the_page(tmp_path: Path) -> None:
    (tmp_path / 'tree').mkdir()
    path = tmp_path / 'status.html'
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        # To replace a device such as /dev/null would harm others.
        os.mkfifo(tmp_path / 'fifo')
        for wrong in (tmp_path, tmp_path / 'fifo'):
            refused = scheduler.call('start', '--no-api', '--status-page', wrong)
            assert (refused.code, 'status-page' in refused.err) == (1, True)
        scheduler.job(
            'good', document(backup_to(tmp_path / 'store', tmp_path / 'tree'))
        )
        scheduler.job('bad', document(executes('false')))
        scheduler.start('--status-page', str(path))
        until(
            lambda: path.exists() and 'Stored: ' in path.read_text(),
            lambda: scheduler.logged,
        )
        until(lambda: 'class="bad">fail' in path.read_text())
        scheduler.stop()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert '1 of the last 1 run succeeded' in path.read_text()
    assert [each for each in os.listdir(tmp_path) if each.startswith('.')] == []


def test_the_page_does_not_wait_for_the_next_interval(tmp_path: Path) -> None:
    path = tmp_path / 'status.html'
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        scheduler.options = ('--interval', '3600')
        scheduler.job('a', document(executes('true')))
        scheduler.start('--status-page', str(path))
        until(
            lambda: path.exists() and 'class="ok">success' in path.read_text(),
            lambda: path.exists() and path.read_text(),
        )
        scheduler.stop()


def test_charts_of_thousands_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, '_MOST_CHARTS', 2)
    text = page.render(RECORDS, NOW, 60)
    assert text.count('<section>') == 4
    assert text.count('of the last 30 runs succeeded') == 2 * 2


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / 'pages'
    folder.mkdir()
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        scheduler.start('--status-page', str(folder / 'status.html'))
        until((folder / 'status.html').exists)
        (folder / 'status.html').unlink()
        folder.rmdir()
        scheduler.job('a', document(executes('true')))
        scheduler.until('a', result='success')
        scheduler.until_logged('No such file or directory')
        scheduler.stop()


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / 'etc/grafana/freezer.json').read_text())
    shown = {
        name
        for panel in dashboard['panels']
        for target in panel['targets']
        for name in re.findall(r'freezer_\w+', target['expr'])
    }
    assert shown <= set(HELP)
    assert len(shown) >= 8
    places = [panel['gridPos'] for panel in dashboard['panels']]
    assert all(each['x'] + each['w'] <= 24 for each in places)
