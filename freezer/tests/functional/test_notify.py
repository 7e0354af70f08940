"""The commands of --on-success-command and --on-failure-command, and the recipes."""

import contextlib
import email
import email.policy
import http.server
import json
import shlex
import signal
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from freezer.tests import pages
from freezer.tests.agent import ROOT, Agent, Result, job_file
from freezer.tests.functional.waiting import until, until_group_gone
from freezer.tests.machine import with_broken

PAGE = ROOT / 'doc' / 'source' / 'user' / 'progress-and-reports.rst'
SECRET = 'sk/of+the=environment'
# Writes its environment and its standard input into the directory DIR.
RECORD = "sh -c 'env >DIR/env; cat >DIR/result; echo on standard output; echo why >&2'"


@pytest.fixture
def agent(local: Agent, tmp_path: Path) -> Agent:
    """It records each run for which a command is run."""
    options: list[object] = []
    for name in ('success', 'failure'):
        (tmp_path / name).mkdir()
        command = RECORD.replace('DIR', str(tmp_path / name))
        options += [f'--on-{name}-command', command]
    # Where the agent reads secrets, and where others keep theirs.
    names = ('SECRET_KEY', 'OS_S3__SESSION_TOKEN', 'OS_PASSWORD', 'TOKEN')
    return local.told(*options, **dict.fromkeys(names, SECRET))


def recorded(folder: Path) -> dict[str, str]:
    """What a command was told; it must have been run."""
    lines = (folder / 'env').read_text().splitlines()
    found = dict(line.split('=', 1) for line in lines)
    assert SECRET not in found.values()
    assert set(found) >= {'PATH', 'HOME'}
    return {
        name.removeprefix('FREEZER_'): value
        for name, value in found.items()
        if name.startswith('FREEZER_')
    }


def ran(tmp_path: Path) -> list[str]:
    return [path.parent.name for path in sorted(tmp_path.glob('*/env'))]


def test_success(agent: Agent, source: Path, tmp_path: Path) -> None:
    made = agent.backup(source).check()
    assert ran(tmp_path) == ['success']
    told = recorded(tmp_path / 'success')
    assert told.pop('MESSAGE') == made.err.splitlines()[0]
    assert told == {
        'STATUS': 'success',
        'ACTION': 'backup',
        'BACKUP_NAME': agent.name,
        'HOSTNAME': agent.options[agent.options.index('--hostname') + 1],
        'EXIT_CODE': '0',
        'RESULT': 'ok',
        'LEVEL': '0',
        'CONTAINER': agent.options[agent.options.index('--container') + 1],
    }
    assert json.loads((tmp_path / 'success/result').read_text()) == made.document
    assert 'standard output' not in made.out + made.err
    assert 'why' not in made.err


def test_failure(agent: Agent, source: Path, tmp_path: Path) -> None:
    failed = agent.told('--hostname', 'a\x85b').backup(source / 'none')
    assert failed.code == 1
    assert ran(tmp_path) == []
    failed = agent.backup(source / 'none')
    assert ran(tmp_path) == ['failure']
    told = recorded(tmp_path / 'failure')
    assert told['MESSAGE'] == failed.error.removeprefix('Error: ')
    assert (told['STATUS'], told['EXIT_CODE']) == ('failure', '1')
    assert (tmp_path / 'failure/result').read_text() == ''


def test_incomplete(agent: Agent, source: Path, tmp_path: Path) -> None:
    (source / 'bad').write_text('bad')
    made = with_broken(agent, 'bad').backup(source)
    assert made.code == 3
    assert ran(tmp_path) == ['failure']
    told = recorded(tmp_path / 'failure')
    assert (told['STATUS'], told['EXIT_CODE']) == ('incomplete', '3')
    assert json.loads((tmp_path / 'failure/result').read_text()) == made.document
    with_broken(agent, 'bad').backup(source, '--allow-incomplete').check()
    assert ran(tmp_path) == ['failure', 'success']


def test_the_exit_code_of_a_command_is_no_incomplete_backup(
    agent: Agent, tmp_path: Path
) -> None:
    assert agent.run('exec', '--command', "sh -c 'exit 3'").code == 3
    told = recorded(tmp_path / 'failure')
    assert (told['STATUS'], told['EXIT_CODE']) == ('failure', '3')


def test_after_a_signal(agent: Agent, tmp_path: Path) -> None:
    began = tmp_path / 'began'
    command = f"sh -c 'touch {began}; exec sleep 600'"
    with agent.start('exec', '--command', command) as process:
        until(began.exists, process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    told = recorded(tmp_path / 'failure')
    assert told['MESSAGE'] == 'interrupted by SIGTERM'
    assert (told['STATUS'], told['EXIT_CODE']) == ('failure', '143')


def test_a_signal_during_the_command(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    began = tmp_path / 'began'
    # A shell that has a child.
    command = f"sh -c 'echo $$ >{began}; sleep 600; :'"
    local.backup(source).check()
    with local.start('info', '--on-success-command', command) as process:
        until(lambda: began.exists() and began.read_text().endswith('\n'), process)
        process.send(signal.SIGTERM)
        result = process.wait()
    assert result.code == -signal.SIGTERM
    assert result.err == 'Error: interrupted by SIGTERM\n'
    until_group_gone(int(began.read_text()))


@pytest.mark.parametrize('options', [('--dry-run',), ('--help',), ('--version',)])
def test_not_run(
    agent: Agent, source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    agent.run('backup', '--path-to-backup', source, *options).check()
    assert ran(tmp_path) == []


@pytest.mark.parametrize(
    'command, warning',
    [
        ('sh -c "echo no luck >&2; exit 7"', 'sh: exited with 7: no luck'),
        ('sh -c "kill -9 $$"', 'sh: was killed by signal 9'),
        ('/none/such', '/none/such: No such file or directory'),
        ('sleep 600 | /none/such', '/none/such: No such file or directory'),
    ],
)
def test_a_command_that_fails_is_a_warning(
    local: Agent, source: Path, command: str, warning: str
) -> None:
    made = local.backup(source, '--on-success-command', command).check()
    assert f'\nWarning: on-success-command {warning}\n' in made.err


def test_a_command_that_needs_a_shell_is_refused(local: Agent, source: Path) -> None:
    failed = local.backup(source, '--on-failure-command', 'date > /tmp/x')
    assert 'on-failure-command: > is for a shell' in failed.only_error
    assert "write sh -c '…'" in failed.only_error
    assert local.store.markers() == []


# Recipes


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Mail(socketserver.StreamRequestHandler):
    """A mail server that keeps each mail."""

    received: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b'220 ready\r\n')
        while line := self.rfile.readline():
            word = line.split()[0].upper()
            if word == b'DATA':
                self.wfile.write(b'354 go on\r\n')
                lines = iter(self.rfile.readline, b'.\r\n')
                self.received.append(b''.join(lines))
            self.wfile.write(b'221 bye\r\n' if word == b'QUIT' else b'250 done\r\n')


class Hook(http.server.BaseHTTPRequestHandler):
    """A web server that keeps each body."""

    received: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        assert self.headers['Content-Type'] == 'application/json'
        length = int(self.headers['Content-Length'])
        self.received.append(self.rfile.read(length))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


def test_recipes(local: Agent, source: Path, tmp_path: Path) -> None:
    job, mail, hook = [
        block.text
        for block in pages.blocks(PAGE)
        if block.said.get('run by', '').endswith(Path(__file__).name)
    ]
    with (
        socketserver.TCPServer(('127.0.0.1', 0), Mail) as mail_server,
        http.server.HTTPServer(('127.0.0.1', 0), Hook) as web_server,
    ):
        address = f"'127.0.0.1', {mail_server.server_address[1]}"
        url = f'http://127.0.0.1:{web_server.server_address[1]}/hook'
        texts = {
            'freezer-mail': mail.replace("'localhost', 25", address),
            'freezer-webhook': hook.replace('https://hooks.example.com/backups', url),
        }
        options = dict(line.split(' = ') for line in job.splitlines() if ' = ' in line)
        for name, text in texts.items():
            assert text not in (mail, hook)
            script = tmp_path / name
            script.write_text(text)
            command = shlex.join([sys.executable, str(script)])
            options = {
                key: value.replace(f'/usr/local/sbin/{name}', command)
                for key, value in options.items()
            }
        agent = local.told('--config', job_file(tmp_path / 'job', {'job': options}))
        with serving(mail_server), serving(web_server):
            made = agent.backup(source).check()
            failed = agent.backup(source / 'none')
    assert 'Warning' not in made.err + failed.err
    _mailed(agent, failed)
    (body,) = Hook.received
    told = json.loads(body)
    assert told['text'] == made.err.splitlines()[0]
    assert told['status'] == 'success'
    assert told['result'] == made.document


def _mailed(agent: Agent, failed: Result) -> None:
    (content,) = Mail.received
    message = email.message_from_bytes(content, policy=email.policy.default)
    host = agent.options[agent.options.index('--hostname') + 1]
    assert message['Subject'] == f'failure: backup {agent.name} on {host}'
    part = message.get_body()
    assert part is not None
    error = failed.error.removeprefix('Error: ')
    assert error in part.get_content().splitlines()
