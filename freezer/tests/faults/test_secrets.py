"""No secret in what the agent says, logs, keeps and hands on; files that have one."""

import base64
import contextlib
import os
import re
import signal
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import trustme

from freezer.tests import servers, trees
from freezer.tests.agent import (
    NO_LANDLOCK,
    Agent,
    Result,
    S3Store,
    job_file,
    missed,
    private,
    wrap_tar,
)
from freezer.tests.conformance.variants import certified
from freezer.tests.proxy import BROKEN, Proxy

pytestmark = pytest.mark.usefixtures('cold')

PASSPHRASE = 'Pass phrase/7+'
SSE_KEY = bytes(range(200, 232))
WRONG = 'sk/quite+wrong'
PROXY = 'Proxy/word+'
# What botocore would log itself, in case somebody asks for more than --debug does.
LOUD = ','.join(
    f'{name}=DEBUG'
    for name in ('botocore', 'botocore.auth', 'botocore.endpoint', 'urllib3')
)
SIGNATURE = re.compile(r'Signature=([0-9a-f]{64})')


def forms(secret: bytes) -> set[bytes]:
    """The ways in which it may have been written."""
    found = {secret, base64.b64encode(secret), secret.hex().encode()}
    texts = {quote(form) for form in found} | {quote_plus(form) for form in found}
    return found | {text.encode() for text in texts}


class Watch:
    """Looks at the agents of this test, and at what they start, while it is entered.

    They are known by where their temporary files are: other tests have other secrets.
    """

    def __init__(self) -> None:
        self._ours = f'TMPDIR={os.environ["TMPDIR"]}'.encode()
        self.command_lines: set[bytes] = set()
        self.environments: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> 'Watch':
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for process in Path('/proc').glob('[0-9]*'):
                with contextlib.suppress(OSError):
                    # In this order: a child has the agent's until it is a program.
                    line = (process / 'cmdline').read_bytes()
                    environment = (process / 'environ').read_bytes()
                    if self._ours not in environment.split(b'\0'):
                        continue
                    self.command_lines.add(line)
                    # The agent itself may well have been given keys there. It has no
                    # command line when it ends.
                    if line and b'--action' not in line:
                        self.environments.add(environment)


@pytest.fixture
def front(
    seaweedfs: servers.SeaweedFS, authority: trustme.CA, bundle: Path
) -> Iterator[tuple[Proxy, tuple[object, ...]]]:
    """A way to the store by https, and what the agent has to be told for it."""
    with Proxy(seaweedfs.endpoint, certified(authority, '127.0.0.1')) as proxy:
        yield proxy, ('--s3-ca-bundle', bundle)


# What tar is: it keeps what can be seen of it, and of the agent's temporary files.
TAR = """\
cat /proc/$$/cmdline /proc/$$/environ >> {seen}
find $TMPDIR -mindepth 1 -printf '%m %y %f\\n' >> {modes}
find $TMPDIR -type f -exec cat {{}} + >> {seen}
exec $TAR "$@"
"""


@pytest.mark.parametrize(
    'given, debug',
    [('environment', True), ('job file', False), ('command line', True)],
)
def test_60_no_secret_in_output_log_files_or_children(
    front: tuple[Proxy, tuple[object, ...]],
    seaweedfs: servers.SeaweedFS,
    source: Path,
    tmp_path: Path,
    given: str,
    debug: bool,
) -> None:
    proxy, told = front
    log, out = tmp_path / 'log', tmp_path / 'out'
    seen, modes = tmp_path / 'seen', tmp_path / 'modes'
    store = S3Store(seaweedfs, proxy.endpoint)
    agent = Agent(
        store,
        options=(
            *(*told, '--log-file', log, '--s3-retry-budget', '2'),
            *('--encrypt-pass-file', private(tmp_path / 'pass', PASSPHRASE.encode())),
            *('--s3-sse-customer-key-file', private(tmp_path / 'sse.key', SSE_KEY)),
            *(['--debug'] if debug else []),
        ),
        env=wrap_tar(tmp_path / 'bin', TAR.format(seen=seen, modes=modes)),
    )
    if debug:
        agent = agent.told(OS_DEFAULT__DEFAULT_LOG_LEVELS=LOUD)
    if given == 'job file':
        keys = {'access_key': seaweedfs.access_key, 'secret_key': seaweedfs.secret_key}
        job = job_file(tmp_path / 'job', {'job': keys})
        agent = agent.told('--config', job, ACCESS_KEY=None, SECRET_KEY=None)
    if given == 'command line':
        typed = ['--access-key', seaweedfs.access_key]
        typed += ['--secret-key', seaweedfs.secret_key]
        agent = agent.told(*typed, ACCESS_KEY=None, SECRET_KEY=None)
    with Watch() as watch:
        results = list(_runs(agent, proxy, source, tmp_path, out))
    assert missed(trees.describe(source), tmp_path / 'target') == []

    said = ''.join(result.out + result.err for result in results).encode()
    logged = log.read_bytes()
    assert (b'DEBUG' in logged) is debug
    assert (b'Traceback' in logged) is debug
    assert b'SignatureDoesNotMatch' in said
    kept = b''.join(_contents(Path(os.environ['HOME'])))
    assert os.listdir(os.environ['TMPDIR']) == []
    children = seen.read_bytes()
    assert b'--create' in children
    assert b'--extract' in children
    places = {
        'standard output and error': said,
        'log': logged,
        'result': out.read_bytes(),
        'home': kept,
        'tar, and temporary files': children,
        'command lines of children': b'\n'.join(
            line for line in watch.command_lines if b'--action' not in line
        ),
        'environment of children': b'\n'.join(watch.environments),
    }
    assert any(b'--action' in line for line in watch.command_lines)
    secrets = {
        'secret key': seaweedfs.secret_key.encode(),
        'wrong secret key': WRONG.encode(),
        'SSE-C key': SSE_KEY,
        'passphrase': PASSPHRASE.encode(),
        'password of the proxy': PROXY.encode(),
    }
    signatures = {
        match[1].encode()
        for request in proxy.requests
        if (match := SIGNATURE.search(request.headers.get('authorization', '')))
    }
    assert len(signatures) > 20
    for place, content in places.items():
        for name, secret in secrets.items():
            for form in forms(secret):
                assert form not in content, f'{name} in {place}'
        for signature in signatures:
            assert signature not in content, f'signature of a request in {place}'
        assert seaweedfs.access_key.encode() not in content, f'access key in {place}'
    # Temporary files are one's own, and so is the folder they are in.
    lines = modes.read_text().splitlines()
    assert '600 f state' in lines
    for line in lines:
        assert line.startswith(('600 f ', '700 d ')), line


def _runs(
    agent: Agent, proxy: Proxy, source: Path, folder: Path, out: Path
) -> Iterator[Result]:
    """What is done with a storage, and what goes wrong with it."""
    yield agent.backup(source).check()
    (source / 'more').write_text('more')
    yield agent.increment(source, '--metadata-out', out).check()
    # Else Landlock would keep the tar that looks on from noting what it sees.
    yield agent.run_by(*NO_LANDLOCK).restore(folder / 'target').check()
    yield agent.run('verify', '--verify-data').check()
    yield agent.run('admin', '--remove-older-than', '30').check()
    keys = {'access_key': servers.Server.access_key, 'secret_key': WRONG}
    wrong = agent.told('--config', job_file(folder / 'wrong', {'job': keys}))
    if '--secret-key' in agent.options:
        # It beats the job file.
        wrong = wrong.told('--secret-key', WRONG)
    failed = [wrong.backup(source), wrong.run('info')]
    proxy.answer(lambda request: request.method == 'PUT', BROKEN)
    failed.append(agent.backup(source))
    failed.append(agent.run('info', '--proxy', f'ftp://user:{PROXY}@host'))
    failed.append(agent.run('info', '--proxy', f'http://u:{quote(PROXY)}@127.0.0.1:9'))
    assert [result.code for result in failed] == [1] * 5, failed
    failed.append(agent.run('info', '--no-such-option', PASSPHRASE))
    assert failed[-1].code == 2
    yield from failed


def _contents(folder: Path) -> Iterable[bytes]:
    return (path.read_bytes() for path in folder.rglob('*') if path.is_file())


def test_60_nothing_remains_after_a_signal(
    front: tuple[Proxy, tuple[object, ...]],
    seaweedfs: servers.SeaweedFS,
    source: Path,
    tmp_path: Path,
) -> None:
    proxy, told = front
    store = S3Store(seaweedfs, proxy.endpoint)
    log = tmp_path / 'log'
    agent = Agent(store, options=(*told, '--debug', '--log-file', log))
    held = proxy.hold(lambda r: r.method == 'PUT' and r.key.endswith('/data'))
    with agent.start('backup', '--path-to-backup', source) as process:
        held.wait()
        (folder,) = Path(os.environ['TMPDIR']).iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        process.send(signal.SIGTERM)
        result = process.wait()
    assert result.code == -signal.SIGTERM, result
    assert os.listdir(os.environ['TMPDIR']) == []
    assert store.markers() == []
    for text in (result.err, log.read_text()):
        assert seaweedfs.secret_key not in text


# Files that give a secret away


def _warned(agent: Agent, source: Path, path: Path, mode: int, log: Path) -> None:
    """Others who may read the file are a warning, and one that may be quiet."""
    path.chmod(mode)
    made = agent.told('--log-file', log).backup(source).check()
    expected = f'{path} holds a secret, and others can read it (mode {mode:04o})'
    shared = mode == 0o644
    assert (f'Warning: {expected}' in made.err) is shared
    assert (expected in log.read_text()) is shared
    assert len(made.notices) == shared
    assert made.document['warnings'] == shared


@pytest.mark.parametrize(
    'kind, mode',
    [
        *((kind, 0o644) for kind in ('job', 'section', 'oslo', 'pass', 'sse')),
        *((kind, 0o600) for kind in ('job', 'oslo')),
    ],
)
def test_60_secret_files_that_others_can_read_cause_a_warning(
    front: tuple[Proxy, tuple[object, ...]],
    seaweedfs: servers.SeaweedFS,
    source: Path,
    tmp_path: Path,
    kind: str,
    mode: int,
) -> None:
    proxy, told = front
    store = S3Store(seaweedfs, proxy.endpoint)
    agent = Agent(store, options=told)
    keys = {'access_key': seaweedfs.access_key, 'secret_key': seaweedfs.secret_key}
    path = tmp_path / 'file'
    if kind == 'job':
        agent = agent.told('--config', job_file(path, {'job': keys}), SECRET_KEY=None)
    elif kind == 'section':
        where = {'endpoint': proxy.endpoint, 'container': store.container}
        bundle = {'storage': 's3', 's3_ca_bundle': told[1]}
        section = keys | where | bundle
        agent = agent.told('--config', job_file(path, {'storage:one': section}))
    elif kind == 'oslo':
        path.write_text('[DEFAULT]\nsecret_key = sk/of the file\n')
        agent = agent.told('--config-file', path)
    elif kind == 'pass':
        path.write_text(PASSPHRASE)
        agent = agent.told('--encrypt-pass-file', path)
    else:
        path.write_bytes(SSE_KEY)
        agent = agent.told('--s3-sse-customer-key-file', path)
    _warned(agent, source, path, mode, tmp_path / 'log')


def test_60_readable_files_without_secrets_cause_no_warning(
    seaweedfs: servers.SeaweedFS, source: Path, tmp_path: Path
) -> None:
    job = job_file(tmp_path / 'job', {'job': {'compression': 'none'}})
    job.chmod(0o644)
    agent = Agent(S3Store(seaweedfs), options=['--config', job])
    assert agent.backup(source).check().notices == []
