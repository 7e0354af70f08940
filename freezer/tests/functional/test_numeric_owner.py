"""Owners on a machine whose users have other numbers."""

import os
import subprocess
from pathlib import Path

import pytest

from freezer.tests.agent import Agent
from freezer.tests.functional.test_unsupported import ACL, acl

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason='only root restores owners'),
]

# Number on this machine, and on the other; daemon is 1 everywhere.
UID, OTHER = 1, 4242


@pytest.fixture
def elsewhere(local: Agent, tmp_path: Path) -> Agent:
    """The agent on a machine where daemon has another number, and bin none."""
    script = []
    for name in ('passwd', 'group'):
        made = tmp_path / name
        lines = Path('/etc', name).read_text().splitlines(keepends=True)
        made.write_text(
            ''.join(
                line.replace(f':{UID}:', f':{OTHER}:')
                if line.startswith('daemon:')
                else line
                for line in lines
                if not line.startswith('bin:')
            )
        )
        script.append(f'mount --bind "{made}" /etc/{name}')
    runner = ('unshare', '--mount', 'sh', '-c', f'{" && ".join(script)} && exec "$@"')
    if subprocess.run([*runner, 'sh', 'true'], check=False).returncode:
        pytest.skip('nothing can be mounted here')
    return local.run_by(*runner, 'sh')


@pytest.fixture
def owned(source: Path) -> Path:
    """Files of a user whose number differs, of one who is not there, and of nobody."""
    (source / 'folder').mkdir()
    for name, uid in (('folder', 1), ('folder/file', 1), ('gone', 2), ('none', 12345)):
        path = source / name
        if name != 'folder':
            path.write_text(name)
        os.chown(path, uid, uid)
    return source


def owners(top: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(top)): (path.stat().st_uid, path.stat().st_gid)
        for path in top.rglob('*')
        if path.name != 'file' or path.parent.name == 'folder'
    }


BY_NAME = {
    'folder': (OTHER, OTHER),
    'folder/file': (OTHER, OTHER),
    'gone': (2, 2),
    'none': (12345, 12345),
}
BY_NUMBER = {**BY_NAME, 'folder': (UID, UID), 'folder/file': (UID, UID)}


@pytest.mark.parametrize('include', [(), ('--include', '**')])
@pytest.mark.parametrize(
    ('options', 'expected'), [((), BY_NAME), (('--numeric-owner',), BY_NUMBER)]
)
def test_restore(
    local: Agent,
    elsewhere: Agent,
    owned: Path,
    tmp_path: Path,
    include: tuple[str, ...],
    options: tuple[str, ...],
    expected: dict[str, tuple[int, int]],
) -> None:
    local.increment(owned).check()
    (owned / 'folder' / 'file').write_text('changed')
    local.increment(owned).check()
    target = tmp_path / 'target'
    elsewhere.restore(target, *options, *include).check()
    assert owners(target) == expected
    # Into a target that has these files already, too.
    elsewhere.restore(target, '--overwrite', *options, *include).check()
    assert owners(target) == expected


@pytest.mark.parametrize('include', [(), ('--include', 'folder/file')])
def test_untrusted(
    local: Agent,
    elsewhere: Agent,
    owned: Path,
    tmp_path: Path,
    include: tuple[str, ...],
) -> None:
    local.backup(owned).check()
    options = ('--untrusted', '--numeric-owner')
    elsewhere.restore(tmp_path / 'target', *options, *include).check()
    assert (tmp_path / 'target' / 'folder' / 'file').stat().st_uid == UID


@pytest.mark.parametrize(('options', 'uid'), [((), OTHER), (('--numeric-owner',), UID)])
def test_acl(
    local: Agent,
    elsewhere: Agent,
    owned: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    uid: int,
) -> None:
    os.setxattr(owned / 'none', ACL, acl(UID))
    local.backup(owned).check()
    elsewhere.restore(tmp_path / 'target', *options).check()
    assert os.getxattr(tmp_path / 'target' / 'none', ACL) == acl(uid)


def test_list_and_dump_have_both(local: Agent, elsewhere: Agent, owned: Path) -> None:
    """They show what is in the backup, wherever they run."""
    local.backup(owned).check()
    shown = {agent.run('list', '--json').check().out for agent in (local, elsewhere)}
    (out,) = shown
    assert '"uid": 1, "gid": 1, "user": "daemon", "group": "daemon"' in out
    assert '"uid": 12345, "gid": 12345, "user": "", "group": ""' in out
    dumped = elsewhere.run('dump', '--include', 'folder/file').check().out
    assert dumped == 'folder/file'


def test_job_file(local: Agent, elsewhere: Agent, owned: Path, tmp_path: Path) -> None:
    local.backup(owned).check()
    job = tmp_path / 'job.conf'
    job.write_text('[job]\nnumeric_owner = true\n')
    elsewhere.restore(tmp_path / 'target', '--config', job).check()
    assert owners(tmp_path / 'target') == BY_NUMBER
