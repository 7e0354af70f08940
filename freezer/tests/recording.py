"""The terminal of the landing page: recorded from real commands, drawn as SVG.

    python -m freezer.tests.recording      # as root: record it again

The recording is an asciicast, version 2: a header and events ``[seconds, "o", text]``,
one JSON document a line. ``doc/source/_ext/terminal.py`` draws its last screen when the
documentation is built; each row appears when the terminal had it.
"""

import dataclasses
import html
import json
import os
import pty
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyte

from freezer.tests import pages, servers
from freezer.tests.agent import ROOT, command, environment

PATH = ROOT / 'doc' / 'source' / 'first-backup.cast'
PROMPT = '$ '
_STORE = '--storage s3 --container backups/web1'
_BACKUP = (
    f'freezer-agent --action backup {_STORE} \\\n'
    '    --backup-name www --path-to-backup /srv/www --incremental'
)
COMMANDS = (
    _BACKUP,
    "echo '<p>Hello again.</p>' >/srv/www/index.html",
    _BACKUP,
    f'freezer-agent --action info {_STORE}',
    'rm -r /srv/www',
    f'freezer-agent --action restore {_STORE} \\\n'
    '    --backup-name www --restore-abs-path /srv/www',
    'cat /srv/www/index.html',
)
#: Seconds between two typed characters, and before the next prompt.
_KEY, _PAUSE = 0.02, 0.6
#: Files that are younger than this are stored again, because a change within the
#: resolution of the file system's clock would not be seen.
_OLD_ENOUGH = 3.0


# Recording


def record(server: servers.Server) -> list[Any]:
    """Header and events of the commands, on an empty server.

    Root is needed: in a mount namespace of its own, the terminal has another ``/srv``.
    """
    header = {
        'version': 2,
        'width': pages.COLUMNS,
        'height': 60,
        'title': 'The first backup and the first restore',
    }
    events: list[Any] = []
    now = 0.0

    def write(text: str, seconds: float) -> None:
        nonlocal now
        now += seconds
        events.append([round(now, 3), 'o', text])

    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        make_source(tree / 'srv/www')
        variables = _environment(tree, server)
        for line in COMMANDS:
            write(PROMPT, _PAUSE)
            for part in line.splitlines(keepends=True):
                write(part.replace('\n', '\r\n'), len(part) * _KEY)
            write('\r\n', _PAUSE / 2)
            for seconds, text in _run(line, tree / 'srv', variables):
                write(text.replace(server.endpoint, pages.ENDPOINT), seconds)
    return [header, *events]


def make_source(folder: Path) -> None:
    """The directory that is backed up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'index.html').write_text('<p>Hello.</p>\n')
    (folder / 'film.webm').write_bytes(os.urandom(60_000_000))
    time.sleep(_OLD_ENOUGH)


def _environment(tree: Path, server: servers.Server) -> dict[str, str]:
    folder = tree / 'bin'
    folder.mkdir()
    (folder / 'freezer-agent').write_text(
        f'#!/bin/sh\nexec {" ".join(command())} "$@"\n'
    )
    (folder / 'freezer-agent').chmod(0o755)
    changes = {
        'ENDPOINT': server.endpoint,
        'ACCESS_KEY': server.access_key,
        'SECRET_KEY': server.secret_key,
        'OS_DEFAULT__HOSTNAME': pages.HOST,
        'PATH': f'{folder}:{os.environ["PATH"]}',
        'HOME': str(tree),
        'COLUMNS': str(pages.COLUMNS),
        'TERM': 'xterm-256color',
        'TZ': 'UTC',
    }
    return environment(changes)


def _run(
    line: str, srv: Path, variables: Mapping[str, str]
) -> Iterator[tuple[float, str]]:
    """(seconds since the last one, output) of a command on a terminal."""
    main, other = pty.openpty()
    mounted = 'mount --bind "$1" /srv && exec bash -c "stty cols $2; $3"'
    argv = ['unshare', '--mount', 'sh', '-c', mounted, 'sh']
    argv += [str(srv), str(pages.COLUMNS), line]
    child = subprocess.Popen(
        argv, stdin=other, stdout=other, stderr=other, env=variables
    )
    os.close(other)
    last = time.monotonic()
    try:
        while True:
            ready, _, _ = select.select([main], [], [], 0.1)
            if not ready:
                continue
            try:
                data = os.read(main, 65536)
            except OSError:  # the child has closed its end
                break
            now = time.monotonic()
            yield now - last, data.decode()
            last = now
    finally:
        os.close(main)
        code = child.wait()
    if code:
        raise RuntimeError(f'exit code {code}: {line}')


# Drawing


@dataclasses.dataclass(frozen=True)
class Frame:
    """One row of the screen for some time.

    :ivar since: seconds after which the terminal shows it
    :ivar until: seconds after which it is replaced; None: it is on the last screen
    :ivar runs: text and its colour, ``default`` or a name, and whether it is bold
    """

    row: int
    since: float
    until: float | None
    runs: tuple[tuple[str, str, bool], ...]

    @property
    def text(self) -> str:
        return ''.join(text for text, _, _ in self.runs)


def load(path: Path = PATH) -> list[Any]:
    """Header and events of a recording."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames(recording: list[Any]) -> list[Frame]:
    """What the rows show over time, in the order of rows and time."""
    header, *events = recording
    screen = pyte.Screen(header['width'], header['height'])
    stream = pyte.Stream(screen)
    shown: list[list[Frame]] = [[] for _ in range(header['height'])]
    for seconds, _, text in events:
        stream.feed(text)
        for row in sorted(screen.dirty):
            runs = tuple(_runs(screen.buffer[row], header['width']))
            before = shown[row][-1] if shown[row] else Frame(row, 0, None, ())
            if runs != before.runs:
                shown[row][-1:] = [dataclasses.replace(before, until=seconds)]
                shown[row].append(Frame(row, seconds, None, runs))
        screen.dirty.clear()
    return [frame for row in shown for frame in row if frame.runs]


def _runs(cells: Any, width: int) -> Iterator[tuple[str, str, bool]]:
    """Neighbours of one style."""
    text = ''.join(cells[column].data for column in range(width)).rstrip()
    run, style = '', ('default', False)
    for column in range(len(text)):
        cell = cells[column]
        if (cell.fg, cell.bold) != style and run:
            yield run, *style
            run = ''
        style = (cell.fg, cell.bold)
        run += cell.data
    if run:
        yield run, *style


def session(recording: list[Any]) -> str:
    """The last screen as a block ``console`` of a page; the terminal breaks no line."""
    header, *events = recording
    wide = {**header, 'width': 1000}
    recording = [wide, *events]
    last = {each.row: each.text for each in frames(recording) if each.until is None}
    return '\n'.join(last.get(row, '') for row in range(max(last) + 1))


_LETTER, _LINE, _MARGIN, _BAR = 7.83, 18, 14, 26


def svg(recording: list[Any], title: str) -> str:
    """The terminal as a picture; a style sheet has its colours and its motion."""
    found = frames(recording)
    width = round(recording[0]['width'] * _LETTER + 2 * _MARGIN)
    height = (max(each.row for each in found) + 1) * _LINE + _BAR + 2 * _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="terminal" role="img" '
        f'viewBox="0 0 {width} {height}" aria-labelledby="terminal-title">',
        f'<title id="terminal-title">{html.escape(title)}</title>',
        f'<rect class="t-screen" width="{width}" height="{height}" rx="8"/>',
    ]
    lines += [
        f'<circle class="t-button" cx="{_MARGIN + 6 + 18 * each}" cy="18" r="5"/>'
        for each in range(3)
    ]
    return '\n'.join([*lines, *map(_text, found), '</svg>'])


def _text(frame: Frame) -> str:
    classes, times = 't-row', f'--since: {frame.since:.2f}s'
    if frame.until is not None:
        classes += ' t-replaced'
        times += f'; --shown: {frame.until - frame.since:.2f}s'
    if frame.text.startswith((PROMPT, '    --')):
        classes += ' t-typed'
    spans = ''.join(
        f'<tspan class="t-{colour}{" t-bold" if bold else ""}">'
        f'{html.escape(text)}</tspan>'
        for text, colour, bold in frame.runs
    )
    top = _BAR + _MARGIN + frame.row * _LINE + 13
    return (
        f'<text class="{classes}" x="{_MARGIN}" y="{top}" xml:space="preserve" '
        f'style="{times}">{spans}</text>'
    )


def main() -> None:
    """Record the terminal of the landing page again."""
    if shutil.which('unshare') is None or os.geteuid():
        raise SystemExit('recording: needs root, and unshare of util-linux')
    with servers.KINDS['seaweedfs']() as server:
        recorded = record(server)
    PATH.write_text(''.join(json.dumps(each) + '\n' for each in recorded))
    print(session(load()))


if __name__ == '__main__':
    main()
