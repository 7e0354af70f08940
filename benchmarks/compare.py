"""Runs the same everyday tasks with several backup tools, and writes the tables of
``doc/source/user/compare.rst``.

    python -m benchmarks.compare             # run them, and write compare.inc
    python -m benchmarks.compare --check     # the same, and write nothing

Each command has to exit and to answer as ``tasks.py`` expects. Paths of the pages, such
as ``/srv/www``, are below a temporary directory. Needs restic, borg and rclone.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tasks import NO, TASKS, TOOLS, Task, Way
from freezer.tests import agent, pages, scheduler, servers

PAGE = agent.ROOT / 'doc' / 'source' / 'user' / 'compare.inc'
NAMES = {
    'freezer': 'this agent',
    'restic': 'restic',
    'borg': 'borg',
    'rclone': 'rclone',
}
_PATH = re.compile(r'(?<![\w./:-])/(?=(?:srv|tmp|etc)\b)')
# Without the indentation, the prompt and the backslash.
_COLUMNS = pages.COLUMNS - 14
_JOB = agent.ROOT / 'etc' / 'freezer' / 'scheduler' / 'minimal.conf.example'


class Bench:
    """The machine and the store of all tools."""

    def __init__(self, root: Path, server: servers.Server) -> None:
        self.root = root
        self.server = server
        self.environment = self._environment()
        self._make_tree()

    def _environment(self) -> dict[str, str]:
        folder = self.root / 'bin'
        folder.mkdir()
        for name, argv in (
            ('freezer-agent', agent.command()),
            ('freezer-scheduler', scheduler.command()),
        ):
            (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
            (folder / name).chmod(0o755)
        keys = {
            'ACCESS_KEY': self.server.access_key,
            'SECRET_KEY': self.server.secret_key,
        }
        rclone = {
            'TYPE': 's3',
            'PROVIDER': 'SeaweedFS',
            'ENDPOINT': self.server.endpoint,
            'ACCESS_KEY_ID': self.server.access_key,
            'SECRET_ACCESS_KEY': self.server.secret_key,
            'REGION': 'us-east-1',
        }
        return agent.environment(
            {
                **keys,
                'ENDPOINT': self.server.endpoint,
                'OS_DEFAULT__STORAGE': 's3',
                'OS_DEFAULT__CONTAINER': 'vault/web1',
                'OS_DEFAULT__BACKUP_NAME': 'www',
                'OS_DEFAULT__HOSTNAME': pages.HOST,
                'AWS_ACCESS_KEY_ID': self.server.access_key,
                'AWS_SECRET_ACCESS_KEY': self.server.secret_key,
                'RESTIC_REPOSITORY': f's3:{self.server.endpoint}/vault/restic',
                'RESTIC_PASSWORD': 'correct horse',
                'BORG_REPO': str(self.root / 'srv/borg'),
                'BORG_PASSPHRASE': 'correct horse',
                'RCLONE_CONFIG': '/notfound',
                **{f'RCLONE_CONFIG_STORE_{name}': v for name, v in rclone.items()},
                'RCLONE_CONFIG_SECRET_TYPE': 'crypt',
                'RCLONE_CONFIG_SECRET_REMOTE': 'store:vault/secret',
                'RCLONE_CONFIG_SECRET_PASSWORD': 'UmVwbGFjZWQtYmVsb3c',
                'HOME': str(self.root),
                'TMPDIR': str(self.root),
                'PATH': f'{folder}:{Path(sys.executable).parent}:{os.environ["PATH"]}',
                'TZ': 'UTC',
                'COLUMNS': str(pages.COLUMNS),
            }
        )

    def _make_tree(self) -> None:
        www = self.root / 'srv/www'
        for name in ('docs', 'photos', 'cache', 'private'):
            (www / name).mkdir(parents=True)
        (www / 'docs/report.txt').write_text('first\n')
        (www / 'docs/letter.txt').write_text('Dear reader,\n')
        (www / 'docs/link.txt').hardlink_to(www / 'docs/letter.txt')
        for number in range(4):
            (www / f'photos/{number}.raw').write_bytes(os.urandom(2_000_000))
        signature = 'Signature: 8a477f597d28d172789f06886806bc55\n'
        (www / 'cache/CACHEDIR.TAG').write_text(signature)
        (www / 'cache/index').write_text('made again\n')
        (www / 'private/.nobackup').touch()
        (self.root / 'etc/freezer/scheduler').mkdir(parents=True)
        passphrase = self.root / 'etc/freezer/passphrase'
        passphrase.write_text('correct horse\n')
        passphrase.chmod(0o600)
        shutil.copy(_JOB, self.root / 'etc/freezer/scheduler/home.conf')
        obscured = self._shell('rclone obscure "correct horse"').stdout.strip()
        self.environment['RCLONE_CONFIG_SECRET_PASSWORD'] = obscured

    def here(self, text: str) -> str:
        """A command of the page, with the paths and the endpoint of this run."""
        # borg stores paths without the first slash.
        text = text.replace(' srv/www', f' {str(self.root)[1:]}/srv/www')
        text = text.replace('/tmp/out/srv/www', f'/tmp/out{self.root}/srv/www')
        text = text.replace('https://s3.example.com', self.server.endpoint)
        return _PATH.sub(f'{self.root}/', text)

    def _shell(self, script: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', script],
            cwd=self.root,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def stored(self) -> int:
        """Bytes in the store, and in borg's directory."""
        client = self.server.client()
        keys = self.server.keys('vault') if self._has(client, 'vault') else {}
        borg = (self.root / 'srv/borg').rglob('*')
        return sum(keys.values()) + sum(p.stat().st_size for p in borg if p.is_file())

    def _has(self, client: object, bucket: str) -> bool:
        listed = client.list_buckets()['Buckets']  # type: ignore[attr-defined]
        return any(each['Name'] == bucket for each in listed)

    def run(self, task: Task, tool: str, way: Way) -> None:
        """:raises SystemExit: the result is not the expected one"""
        if not way.typed:
            return
        where = f'{task.title}, {tool}'
        shutil.rmtree(self.root / 'tmp/out', ignore_errors=True)
        (self.root / 'tmp/out').mkdir(parents=True)
        measured = '$STORED' in way.check
        before = self.stored() if measured else 0
        done = self._shell(self.here(way.typed))
        if done.returncode != way.code or not re.search(way.shows, done.stdout):
            raise SystemExit(
                f'{where}: exit code {done.returncode}, expected {way.code} and '
                f'{way.shows!r}:\n{way.typed}\n{done.stdout}'
            )
        if way.check:
            stored = self.stored() - before if measured else 0
            checked = self._shell(self.here(way.check), STORED=str(stored))
            if checked.returncode:
                raise SystemExit(
                    f'{where}: {stored=}, not so: {way.check}\n{done.stdout}'
                )

    def before(self, task: Task) -> None:
        """The source, as the task begins."""
        done = self._shell(self.here(task.before))
        if done.returncode:
            raise SystemExit(f'{task.title}: {done.stdout}')

    @contextlib.contextmanager
    def damaged(self) -> Iterator[None]:
        """One byte in the middle of the largest object of each tool is another one."""
        keys = self.server.keys('vault')
        kept: dict[str, bytes] = {}
        for prefix in ('web1/data/', 'restic/data/', 'rclone/current/'):
            found = {key: size for key, size in keys.items() if key.startswith(prefix)}
            key = max(found, key=lambda each: found[each])
            kept[key] = self.server.get('vault', key)
            self.server.put('vault', key, _flipped(kept[key]))
        segments = (self.root / 'srv/borg/data').rglob('*')
        segment = max(
            (path for path in segments if path.is_file()),
            key=lambda path: path.stat().st_size,
        )
        original = segment.read_bytes()
        segment.write_bytes(_flipped(original))
        try:
            yield
        finally:
            for key, data in kept.items():
                self.server.put('vault', key, data)
            segment.write_bytes(original)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def run() -> None:
    """All tasks with all tools, on a new SeaweedFS."""
    missing = [tool for tool in TOOLS[1:] if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f'compare: not installed: {" ".join(missing)}')
    with (
        tempfile.TemporaryDirectory() as scratch,
        servers.KINDS['seaweedfs']() as server,
    ):
        bench = Bench(Path(scratch), server)
        server.client().create_bucket(Bucket='moved')
        for task in TASKS:
            damage = bench.damaged() if task.extra else contextlib.nullcontext()
            with damage:
                for tool in TOOLS:
                    # For each tool, because a restore in place undoes it.
                    bench.before(task)
                    bench.run(task, tool, task.ways[tool])
            print(task.title, flush=True)


# The page


def page() -> str:
    """The tables as reStructuredText."""
    lines = ['.. Made by benchmarks/compare.py; changes here are lost.', '']
    lines += ['.. list-table::', '   :header-rows: 1', '   :class: comparison', '']
    lines += _row(['Task', *(NAMES[tool] for tool in TOOLS)])
    for task in TASKS:
        title = f'`{task.title}`_'
        lines += _row([title, *(_word(task.ways[tool]) for tool in TOOLS)])
    lines += ['', 'Commands', '========', '']
    for task in TASKS:
        lines += [task.title, '-' * len(task.title)]
        if task.text:
            lines += [task.text, '']
        for tool in TOOLS:
            lines += _way(tool, task.ways[tool])
    return '\n'.join(lines)


def _word(way: Way) -> str:
    return f'**{way.verdict}**' if way.verdict == NO else way.verdict


def _row(cells: list[str]) -> list[str]:
    return [f'   {"* -" if not n else "  -"} {cell}' for n, cell in enumerate(cells)]


def _way(tool: str, way: Way) -> list[str]:
    head = f'**{NAMES[tool].capitalize() if tool == "freezer" else NAMES[tool]}**: '
    lines = [head + way.verdict + (f'. {way.note}' if way.note else ''), '']
    if way.typed:
        lines += ['.. code-block:: text', '']
        for command in re.sub(r' *\\\n *', ' ', way.typed).split('\n'):
            first, *rest = _wrapped(command)
            lines += [f'   $ {first}', *(f'         {each}' for each in rest)]
        lines.append('')
    return lines


def _wrapped(command: str) -> list[str]:
    """A command in lines that fit a terminal; an option and its value stay together."""
    line, *words = re.split(r' (?=--|>|\|\s|store:|/|::|")', command)
    lines = []
    for word in words:
        if len(line) + len(word) > _COLUMNS:
            lines.append(line + ' \\')
            line = word
        else:
            line += f' {word}'
    return [*lines, line]


def main() -> int:
    """Run all tasks, and write the page if it is not only a check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing')
    check = parser.parse_args().check
    if check and PAGE.read_text() != page():
        print(f'{PAGE} is not up to date: run python -m benchmarks.compare')
        return 1
    run()
    if not check:
        PAGE.write_text(page())
    return 0


if __name__ == '__main__':
    sys.exit(main())
