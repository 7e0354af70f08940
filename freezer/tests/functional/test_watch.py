"""What a person sees of a run: the live line, lines in a log, the summary; metrics."""

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from freezer.tests import trees
from freezer.tests.agent import (
    PART,
    ROOT,
    Agent,
    S3Store,
    command,
    environment,
    in_parts,
    job_file,
    last_given,
    missed,
)
from freezer.tests.commands import seen_on_terminal
from freezer.tests.functional.waiting import until
from freezer.tests.proxy import Proxy, error
from freezer.tests.scripted import Scripted
from freezer.utils.text import columns_of

MIB = 1 << 20
SIZE = r'\d+(\.\d)? (B|KiB|MiB)'
# An agent that tells ten times a second.
OFTEN = """
import sys
from freezer import main, watch
watch.LINE_SECONDS = 0.1
sys.exit(main.main())
"""


@dataclass
class Screen:
    """What an agent left on a terminal, and on its standard output."""

    code: int
    out: str
    written: str
    columns: int

    @property
    def lines(self) -> list[str]:
        """What is to be seen at the end; the cursor is in the last one."""
        return seen_on_terminal(self.written.replace('\r\n', '\n'))

    @property
    def live(self) -> list[str]:
        """Each state of the live line."""
        written = self.written.replace('\r\n', '\n')
        states = re.findall(r'(?<=\r)[A-Z][^\r\n]+(?=\r)', written)
        assert max(map(len, states), default=0) < self.columns
        return states


def on_terminal(
    agent: Agent,
    action: str,
    *arguments: object,
    columns: int = 80,
    see: str = '',
    act: Callable[[int], object] = id,
) -> Screen:
    """Run an agent whose standard error is a terminal.

    :param see: once this is to be seen, ``act`` is called with the agent's process id
    """
    ours, theirs = pty.openpty()
    size = struct.pack('HHHH', 24, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    told = (
        *command(),
        *last_given(('--action', action, *agent.options, *arguments)),
    )
    with subprocess.Popen(
        list(map(str, told)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(agent.env),
    ) as process:
        os.close(theirs)
        written, acted = b'', not see
        try:
            while block := _read(ours):
                written += block
                if not acted and see.encode() in written:
                    acted = True
                    act(process.pid)
        finally:
            os.close(ours)
            process.kill()
        out, _ = process.communicate()
    assert acted
    return Screen(process.returncode, out.decode(), written.decode(), columns)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        # Nobody has it open any more.
        return b''


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    (path / 'folder').mkdir(parents=True)
    (path / 'noise').write_bytes(os.urandom(4 * MIB))
    (path / 'folder' / 'Yes').write_text('a file')
    (path / 'link').symlink_to('noise')
    os.link(path / 'noise', path / 'folder' / 'again')
    return path


@pytest.fixture
def backed_up(local: Agent, noise: Path) -> Agent:
    local.backup(noise, '--compression', 'none').check()
    return local


# On a terminal


def test_a_backup_on_a_terminal(local: Agent, noise: Path, tmp_path: Path) -> None:
    screen = on_terminal(
        *(local, 'backup', '--path-to-backup', noise, '--metadata-out', '-'),
        *('--upload-limit', 2 * MIB),
    )
    assert screen.code == 0, screen
    said = (
        rf'Backing up: \d+%, {SIZE}( of 4\.\d MiB)?, {SIZE} sent, {SIZE}/s, '
        r'(4 files, )?0:0\d(, 0:0\d left)?( \|.*\|)?'
    )
    assert len([line for line in screen.live if re.fullmatch(said, line)]) > 3
    # Standard output is for the document alone.
    document = json.loads(screen.out)
    assert document['bytes_read'] > 4 * MIB
    assert document['bytes_stored'] > 4 * MIB
    assert document['files'] == 4
    assert document['retries'] == 0
    assert document['warnings'] == 0
    assert 2 < document['duration_seconds'] < 60
    # The live line is gone, and the cursor at the beginning of the last line.
    head, *rest, last = screen.lines
    date = '2...-..-..T..:..:..Z'
    assert re.fullmatch(f'Backed up {noise} as level 0 of hosta_bk, {date}', head)
    assert last == ''
    assert [line.split(':')[0].strip() for line in rest] == [
        *('To', 'Read', 'Stored', 'Restore')
    ]
    assert re.fullmatch(rf'  Read:      {SIZE}, 4 files, .* s, {SIZE}/s', rest[1])
    assert re.fullmatch(rf'  Stored:    {SIZE}, ratio 1\.0\d', rest[2])
    # The command that is shown does what is said.
    restored = run_in_shell(rest[3], tmp_path, local)
    assert missed(trees.describe(noise), restored) == []


def run_in_shell(line: str, folder: Path, agent: Agent) -> Path:
    """As somebody who copies the command does; where it restores to."""
    scripts = folder / 'scripts'
    scripts.mkdir()
    script = scripts / 'freezer-agent'
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    script.chmod(0o755)
    env = environment(agent.env)
    env['PATH'] = f'{scripts}:{env["PATH"]}'
    subprocess.run(
        ['sh', '-c', line[line.index('freezer-agent') :]],
        cwd=folder,
        env=env,
        check=True,
    )
    return folder / 'restored'


def test_progress_of_a_restore_on_a_terminal(backed_up: Agent, tmp_path: Path) -> None:
    screen = on_terminal(
        *(backed_up, 'restore', '--restore-abs-path', tmp_path / 'target'),
        *('--download-limit', 2 * MIB),
        columns=120,
    )
    assert screen.code == 0, screen
    said = (
        rf'Restoring: (\d+)%, {SIZE} of 4\.0 MiB, {SIZE}/s, (\d+ files?, )?'
        r'0:0\d, 0:\d\d left \|.+\|'
    )
    found = [re.fullmatch(said, line) for line in screen.live]
    percents = [int(match[1]) for match in found if match]
    assert len(percents) > 3
    assert percents == sorted(percents)
    assert 0 < percents[0] < percents[-1] <= 100
    head, *rest, last = screen.lines
    assert head.startswith('Restored level 0 of ')
    assert re.fullmatch(rf'  Written:   {SIZE}, 4 files, .* s, {SIZE}/s', rest[2])
    assert last == ''
    assert screen.out == ''


def test_progress_fits_a_narrow_terminal(backed_up: Agent, tmp_path: Path) -> None:
    screen = on_terminal(
        *(backed_up, 'restore', '--restore-abs-path', tmp_path / 'target'),
        *('--download-limit', 2 * MIB),
        columns=30,
    )
    assert any(re.match(r'Restoring: \d+%', line) for line in screen.live)
    assert screen.lines[-1] == ''


# A name of each kind: long, with wide characters, control characters and combining
# ones, and one that is no text.
NAMES = (
    'a long directory/with another one in it/{and} a file that is here.txt',
    '雪の降る夜に読む長い物語の本をもう一度.pdf',
    'esc\x1b[31m\n',
    're\u0301sume\u0301',
    'bad\udcffname',
)


@pytest.mark.parametrize('columns', [40, 80, 200])
def test_the_current_file_is_shown_where_there_is_room(
    local: Agent, tmp_path: Path, columns: int
) -> None:
    source = tmp_path / 'source'
    for name in NAMES:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(20 * MIB))
    agent = local.told('--compression', 'none')
    backup = on_terminal(
        *(agent, 'backup', '--path-to-backup', source, '--upload-limit', 30 * MIB),
        columns=columns,
    )
    restore = on_terminal(
        *(agent, 'restore', '--restore-abs-path', tmp_path / 'target'),
        *('--download-limit', 30 * MIB),
        columns=columns,
    )
    seen = {40: '', 80: r'雪の降る.*….*\.pdf', 200: NAMES[1]}[columns]
    for screen in (backup, restore):
        assert screen.code == 0, screen
        assert max(map(columns_of, screen.live)) < columns
        assert not re.search('[\x00-\x1f]', ''.join(screen.live))
        live = [re.match(r'\w+( up)?: (\d+)%', line) for line in screen.live]
        percents = [int(found[2]) for found in live if found]
        assert len(percents) > 5
        assert percents == sorted(percents)
        rates = [line for line in screen.live if '/s, ' in line and ' left' in line]
        assert len(rates) > 5
        named = [
            line for line in screen.live if re.search('雪|esc|bad|re\u0301s', line)
        ]
        assert bool(named) == bool(seen)
        if seen:
            assert any(re.search(seen, line) for line in named)
            escaped = r'esc\x1b[31m\n', r'bad\udcffname'
            assert any(name in line for line in named for name in escaped)
    assert missed(trees.describe(source), tmp_path / 'target') == []


def test_a_signal_ends_the_line(local: Agent, noise: Path) -> None:
    screen = on_terminal(
        *(local, 'backup', '--path-to-backup', noise, '--upload-limit', MIB),
        see=' sent',
        act=lambda pid: os.kill(pid, signal.SIGTERM),
    )
    assert screen.code == -signal.SIGTERM
    assert screen.lines == ['Error: interrupted by SIGTERM', '']
    assert local.store.is_untouched()


def test_quiet_shows_no_progress(local: Agent, noise: Path) -> None:
    screen = on_terminal(
        *(local, 'backup', '--path-to-backup', noise, '--upload-limit', 3 * MIB),
        *('--quiet', '--metadata-out', '-'),
    )
    assert (screen.code, screen.written) == (0, '')
    assert json.loads(screen.out)['files'] == 4


# In a log


def test_progress_without_a_terminal_is_lines(
    local: Agent, noise: Path, tmp_path: Path
) -> None:
    local.program = (sys.executable, '-c', OFTEN)
    made = local.backup(noise, '--upload-limit', 4 * MIB).check()
    assert made.document['files'] == 4
    said = (
        rf'Backing up: \d+%, {SIZE} of 4\.\d MiB, {SIZE} sent, {SIZE}/s, (4 files, )?'
        r'0:0\d(, 0:0\d left)?'
    )
    assert len([line for line in made.notices if re.fullmatch(said, line)]) > 2
    assert '\r' not in made.err
    back = local.restore(tmp_path / 'target', '--download-limit', 4 * MIB).check()
    said = rf'Restoring: \d+%, {SIZE} of 4\.0 MiB, {SIZE}/s, .*0:\d\d left'
    assert len([line for line in back.notices if re.fullmatch(said, line)]) > 2
    again = local.run('verify', '--verify-data', '--download-limit', 4 * MIB).check()
    said = rf'Verifying 1 of 1: {SIZE}, {SIZE}/s, 0:0\d'
    assert any(re.fullmatch(said, line) for line in again.err.splitlines())
    quiet = local.backup(noise, '--upload-limit', 4 * MIB, '--quiet').check()
    assert quiet.err == ''


# On S3


def test_parts_and_retries_are_counted(
    proxied: S3Store, proxy: Proxy, big: Path, tmp_path: Path
) -> None:
    agent = in_parts(Agent(proxied))
    agent.program = (sys.executable, '-c', OFTEN)
    once = iter([True])
    proxy.answer(lambda r: r.part == 1 and next(once, False), error(503, 'SlowDown'))
    held = proxy.hold(lambda request: request.part == 2)
    arguments = ('--path-to-backup', big, '--metadata-out', '-')
    with agent.start('backup', *arguments) as process:
        held.wait()
        until(lambda: ' part' in process.output()[1], process)
        held.release()
        made = process.wait().check()
    # How many are under way when that is said, is the machine's affair.
    assert re.search(r', [2-5] parts, ', made.err), made.err
    assert made.document['retries'] == 1
    assert made.document['bytes_stored'] > 4 * PART
    assert '  Retries:   1 request repeated' in made.err
    # Whose keys are not shown.
    line = made.err.splitlines()[-1]
    assert line.startswith('  Restore, with the same access-key and secret-key: ')
    assert proxied.server.secret_key not in made.err
    restored = run_in_shell(line, tmp_path, agent)
    assert missed(trees.describe(big), restored) == []


def test_restore_command_names_the_job_file(
    local: Agent, noise: Path, tmp_path: Path
) -> None:
    names, values = local.store.options[::2], local.store.options[1::2]
    job = {n.removeprefix('--'): v for n, v in zip(names, values, strict=True)}
    path = job_file(tmp_path / 'a job.ini', {'job': job})
    agent = Agent(local.store)
    agent.options = ('--config', path, '--hostname', 'h', '--backup-name', "it's")
    made = agent.backup(noise).check()
    command = made.err.partition('  Restore:   ')[2]
    assert f"--config '{path}'" in command
    assert '--container' not in command
    restored = run_in_shell(command, tmp_path, agent)
    assert missed(trees.describe(noise), restored) == []


# Metrics


def values(path: Path) -> dict[str, float]:
    """Of the one backup that the file is about."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        (sample,) = family.samples
        labels = {'action': 'backup', 'backup_name': 'bk', 'hostname': 'hosta'}
        assert sample.labels == labels
        found[sample.name.removeprefix('freezer_last_')] = sample.value
    return found


def test_metrics_of_runs_that_succeed_and_fail(
    local: Agent, noise: Path, tmp_path: Path
) -> None:
    path = tmp_path / 'bk.prom'
    agent = local.told('--metrics-file', path)
    # Nothing was done, and nothing is said of it.
    agent.increment(noise, '--dry-run').check()
    assert not path.exists()
    # It has never succeeded.
    agent.increment(noise / 'not there').error  # noqa: B018
    found = values(path)
    assert (found['run_success'], found['success_timestamp_seconds']) == (0, 0)
    document = agent.increment(noise).check().document
    good = values(path)
    assert good['run_success'] == 1
    assert good['success_level'] == 0
    assert good['success_files'] == document['files'] == 4
    assert good['success_read_bytes'] == document['bytes_read']
    assert good['success_stored_bytes'] == document['bytes_stored']
    assert good['success_timestamp_seconds'] >= document['time_stamp']
    # It fails, by an error, and by a signal: what the good one said is still there.
    arguments = ('--path-to-backup', noise, '--upload-limit', MIB // 2)
    agent.backup(noise / 'not there').error  # noqa: B018
    failed = values(path)
    assert failed['run_success'] == 0
    assert failed | {n: good[n] for n in good if n.startswith('run')} == good
    store = tmp_path / 'local store'
    with agent.start('backup', *arguments) as process:
        until(lambda: list(store.rglob('*.partial')), process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    killed = values(path)
    assert killed['run_timestamp_seconds'] > failed['run_timestamp_seconds']
    assert killed['run_success'] == 0
    assert killed | {n: good[n] for n in good if n.startswith('run')} == good
    agent.increment(noise).check()
    assert values(path)['success_level'] == 1
    assert os.listdir(path.parent).count('bk.prom') == 1
    assert not list(path.parent.glob('.freezer-*'))


def test_metrics_that_cannot_be_written(
    local: Agent, noise: Path, tmp_path: Path
) -> None:
    """Said before any work: a backup nobody hears of is no surprise then."""
    foreign = tmp_path / 'node.prom'
    foreign.write_text('node_load1 0.5\n')
    for path in (foreign, tmp_path / 'not' / 'there.prom'):
        agent = local.told('--metrics-file', path)
        assert f'metrics-file {path}' in agent.backup(noise).only_error
    # As where the extra is not installed.
    absent = tmp_path / 'absent'
    (absent / 'prometheus_client').mkdir(parents=True)
    module = absent / 'prometheus_client' / '__init__.py'
    module.write_text('raise ImportError("no module named prometheus_client")\n')
    agent = local.told('--metrics-file', tmp_path / 'a.prom')
    agent.env['PYTHONPATH'] = f'{absent}:{ROOT}'
    assert 'pip install freezer[metrics]' in agent.backup(noise).only_error
    assert local.store.is_untouched()


def test_a_store_that_does_not_answer(local: Agent) -> None:
    """It is named while it is waited for."""
    with Scripted(lambda exchange: exchange.wait_until_closed()) as store:
        options = ('--storage', 's3', '--container', 'bucket')
        keys: dict[str, str | None] = {'ACCESS_KEY': 'AK', 'SECRET_KEY': 'sk'}
        agent = local.told(*options, ENDPOINT=store.endpoint, **keys)
        said = f'Waiting for an answer from {store.endpoint}'
        screen = on_terminal(
            agent, 'info', see=said, act=lambda pid: os.kill(pid, signal.SIGTERM)
        )
    assert screen.written.count(said) == 1
    assert said in screen.lines[0]
