"""Restores of what the target cannot hold: all else is restored, and exit code 3."""

import os
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.tests import trees
from freezer.tests.agent import Agent, LocalStore, Result, missed
from freezer.tests.functional.test_confinement import NO_RIGHTS
from freezer.tests.mounts import mounting

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason='only root mounts, and makes devices'),
]

ACL = 'system.posix_acl_access'


def acl(uid: int) -> bytes:
    """rw for the owner, and r for another user."""
    entries = (
        *((1, 6, 2**32 - 1), (2, 4, uid), (4, 0, 2**32 - 1)),
        *((16, 4, 2**32 - 1), (32, 0, 2**32 - 1)),
    )
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in entries)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system without attributes and ACLs."""
    path = tmp_path / 'bare'
    path.mkdir()
    with mounting() as mount:
        mount('-t', 'ramfs', 'none', path)
        yield path


@pytest.fixture
def special(source: Path) -> Path:
    """A source with attributes; its plain files come before and after them."""
    (source / 'folder').mkdir()
    for name in ('a', 'attribute', 'acl', 'capable', 'folder/z'):
        (source / name).write_text(name)
    os.setxattr(source / 'attribute', 'user.color', b'red')
    os.setxattr(source / 'acl', ACL, acl(1))
    os.setxattr(source / 'folder', 'system.posix_acl_default', acl(1))
    capability = struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(source / 'capable', 'security.capability', capability)
    return source


def assert_named(result: Result, *names: str) -> None:
    """Exit code 3, one error, and a warning for each name."""
    assert result.code == INCOMPLETE, result
    lines = result.err.splitlines()
    (error,) = (line for line in lines if line.startswith('Error: '))
    assert '--no-attributes' in error
    warnings = [line for line in lines if line.startswith('Warning: ')]
    for name in names:
        assert any(name in line for line in warnings), (name, result)
    assert len(warnings) == len(names), result


def contents(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): path.read_text()
        for path in top.rglob('*')
        if path.is_file()
    }


@pytest.mark.parametrize('options', [(), ('--include', '**')])
def test_attributes_and_acls(
    local: Agent, special: Path, bare: Path, options: tuple[str, ...]
) -> None:
    local.increment(special).check()
    (special / 'later').write_text('later')
    local.increment(special).check()
    target = bare / 'target'
    result = local.restore(target, '--json', *options)
    assert_named(result, 'attribute', 'acl', 'folder', 'capable')
    assert result.document['incomplete'] == 4
    assert contents(target) == contents(special)
    # Without them it is what was asked for.
    result = local.restore(bare / 'again', '--no-attributes', *options).check()
    assert 'Warning' not in result.err
    assert contents(bare / 'again') == contents(special)


def test_target_that_holds_all(local: Agent, special: Path, tmp_path: Path) -> None:
    local.backup(special).check()
    result = local.restore(tmp_path / 'target', '--json').check()
    assert result.document['incomplete'] == 0
    assert missed(trees.describe(special), tmp_path / 'target') == []


def test_no_attributes(local: Agent, special: Path, tmp_path: Path) -> None:
    local.backup(special).check()
    target = tmp_path / 'target'
    local.restore(target, '--no-attributes').check()
    for path in (target / 'attribute', target / 'acl', target / 'capable'):
        assert os.listxattr(path) == []
    assert os.listxattr(target / 'folder') == []


def test_plain_files(local: Agent, source: Path, bare: Path) -> None:
    """Nothing is lost, so nothing is reported."""
    (source / 'link').symlink_to('file')
    local.backup(source).check()
    result = local.restore(bare / 'target').check()
    assert 'Warning' not in result.err
    assert missed(trees.describe(source), bare / 'target') == []


def test_increment_into_what_was_restored(
    local: Agent, special: Path, bare: Path
) -> None:
    local.backup(special).check()
    target = bare / 'target'
    assert local.restore(target).code == INCOMPLETE
    (target / 'extra').write_text('extra')
    result = local.restore(target, '--overwrite')
    assert_named(result, 'attribute', 'acl', 'folder', 'capable')
    assert contents(target) == contents(special)


def test_devices_and_capabilities_without_rights(
    local: Agent, special: Path, tmp_path: Path
) -> None:
    os.mknod(special / 'device', 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    local.increment(special).check()
    (special / 'later').write_text('later')
    local.increment(special).check()
    target = tmp_path / 'target'
    result = local.run_by(*NO_RIGHTS).restore(target)
    assert_named(result, 'device', 'capable')
    assert not (target / 'device').exists()
    assert contents(target) == contents(special)


def test_owners_that_cannot_be_set(local: Agent, source: Path, tmp_path: Path) -> None:
    """As root of NFS or of a container: it may not give files away."""
    os.chown(source / 'file', 1, 1)
    (source / 'mine').write_text('mine')
    local.increment(source).check()
    (source / 'later').write_text('later')
    local.increment(source).check()
    target = tmp_path / 'target'
    runner = ('setpriv', '--bounding-set=-chown', '--inh-caps=-all')
    result = local.run_by(*runner).restore(target)
    assert_named(result, 'file')
    assert 'Cannot change ownership to uid 1, gid 1' in result.err
    assert contents(target) == contents(source)


def test_owners_of_others_without_root(source: Path) -> None:
    """As tar and restic: who is not root gets the files as their own."""
    os.chown(source / 'file', 1, 1)
    with tempfile.TemporaryDirectory(prefix='freezer-') as name:
        user = Path(name)
        local = Agent(LocalStore(user / 'store'))
        local.backup(source).check()
        for path in (user, *user.rglob('*')):
            os.chown(path, 2, 2)
        user.chmod(0o755)
        agent = local.run_by('setpriv', '--reuid=2', '--regid=2', '--clear-groups')
        agent.told(HOME=name).restore(user / 'target').check()
        assert (user / 'target' / 'file').stat().st_uid == 2


def test_acl_of_an_unknown_user(local: Agent, source: Path, tmp_path: Path) -> None:
    """As with owners, the number counts then."""
    os.setxattr(source / 'file', ACL, acl(1))
    local.backup(source).check()
    passwd = tmp_path / 'passwd'
    lines = Path('/etc/passwd').read_text().splitlines(keepends=True)
    passwd.write_text(''.join(one for one in lines if not one.startswith('daemon:')))
    script = f'mount --bind "{passwd}" /etc/passwd && exec "$@"'
    runner = ('unshare', '--mount', 'sh', '-c', script, 'sh')
    if subprocess.run([*runner, 'true'], check=False).returncode:
        pytest.skip('nothing can be mounted here')
    result = local.run_by(*runner).restore(tmp_path / 'target').check()
    assert './file: Warning: Cannot acl_from_text' in result.err
    assert os.getxattr(tmp_path / 'target' / 'file', ACL) == acl(1)


def test_what_is_no_loss_fails(local: Agent, source: Path, tmp_path: Path) -> None:
    """A full disk is an error, as before."""
    (source / 'file').write_bytes(os.urandom(1 << 20))
    local.backup(source).check()
    small = tmp_path / 'small'
    small.mkdir()
    with mounting() as mount:
        mount('-t', 'tmpfs', '-o', 'size=100k', 'none', small)
        error = local.restore(small / 'target').error
    assert 'tar could not extract' in error
