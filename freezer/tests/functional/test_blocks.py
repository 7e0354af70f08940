"""The engine blocks, with the real command: images in files, and block devices."""

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from freezer.tests import machine
from freezer.tests.agent import PART, Agent, LocalStore, S3Store, in_parts, iso, private
from freezer.tests.functional.waiting import until
from freezer.tests.mounts import loop_device, mounting
from freezer.tests.proxy import Proxy

MIB = 1 << 20
SIZE = 24 * MIB + 5000
BLOCK = 4096


def digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def make_image(path: Path, seed: int = 1, size: int = SIZE) -> Path:
    """A third has data, and a third of that is zeros which are allocated."""
    chance = random.Random(seed)
    with path.open('wb') as file:
        for number in range(3):
            file.seek(number * size // 3)
            file.write(chance.randbytes(size // 9) + bytes(size // 9))
        file.truncate(size)
    return path


class Changes:
    """What happens to a disk between two levels."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._chance = random.Random(seed)

    def __iter__(self) -> Iterator[None]:
        """Each step changes it."""
        for step in (self.write, self.discard, self.grow, self.shrink, self.mix):
            step()
            yield

    def write(self) -> None:
        size = self._path.stat().st_size
        with self._path.open('r+b') as file:
            for _ in range(30):
                file.seek(self._chance.randrange(size - BLOCK))
                file.write(self._chance.randbytes(self._chance.randrange(1, BLOCK)))

    def discard(self) -> None:
        size = self._path.stat().st_size
        for length in (MIB, 3 * MIB + 77):
            place = self._chance.randrange(size - length)
            command = ['fallocate', '--punch-hole', '--offset', str(place)]
            command += ['--length', str(length), str(self._path)]
            subprocess.run(command, check=True)

    def grow(self) -> None:
        with self._path.open('ab') as file:
            file.write(self._chance.randbytes(3 * BLOCK + 5))
            file.truncate(file.tell() + 70 * MIB)

    def shrink(self) -> None:
        os.truncate(self._path, SIZE - 5 * MIB - 3)

    def mix(self) -> None:
        self.grow()
        self.write()
        self.discard()


def blocks(agent: Agent) -> Agent:
    return agent.told('--engine', 'blocks')


@pytest.mark.parametrize(
    ('place', 'options'),
    [
        ('local', ('--encryption', 'openssl')),
        ('s3', ()),
        ('s3', ('--encryption', 'age')),
    ],
)
def test_each_level_restores(
    place: str, options: Sequence[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image = make_image(tmp_path / 'disk image')
    if place == 's3':
        agent = blocks(in_parts(Agent(request.getfixturevalue('store'))))
    else:
        agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    if options:
        passphrase = private(tmp_path / 'pass', 'correct horse\n')
        agent = agent.told(*options, '--encrypt-pass-file', passphrase)
    document = agent.increment(image).check().document
    # Neither holes nor zeros are stored.
    assert document['bytes_read'] < SIZE // 3 + MIB
    states = [(document['time_stamp'], digest(image))]
    for level, _ in enumerate(Changes(image, 2), 1):
        document = agent.increment(image).check().document
        assert document['curr_backup_level'] == level
        assert document['bytes_read'] < MIB
        states.append((document['time_stamp'], digest(image)))
    assert len({found for _date, found in states}) == 6
    target = tmp_path / 'new' / 'target'
    for date, expected in states:
        when = ('--restore-from-date', iso(date))
        # Over what the previous one left, which is larger, smaller, or missing.
        agent.restore(target, *when, '--overwrite').check()
        assert digest(target) == expected, date
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_blocks * 512 < SIZE // 2
    verified = agent.run('verify', '--verify-data').check()
    assert 'Verified 6 backups' in verified.err
    assert 'Only the stored bytes' not in verified.err


def test_damage_is_found_by_verify(tmp_path: Path) -> None:
    """Also where no digest of the storage shows it: an archive that was replaced."""
    store = LocalStore(tmp_path / 'store')
    image = make_image(tmp_path / 'image', size=MIB)
    agents = [blocks(Agent(store, name)).told('--compression', 'none') for name in 'ab']
    for agent in agents:
        agent.increment(image).check()
        Changes(image, 3).write()
        agent.increment(image).check()
    files = store.files()
    folders = {
        path.split('/')[2][-1] + path.split('/')[4][0]: os.path.dirname(path)
        for path in files
        if path.endswith('/data')
    }
    for name in ('data', 'manifest', 'digests/00000000'):
        store.put(f'{folders["a1"]}/{name}', files[f'{folders["b1"]}/{name}'])
    marker = folders['a1'].replace('data/', 'metadata/', 1) + '/metadata'
    other = folders['b1'].replace('data/', 'metadata/', 1) + '/metadata'
    store.put(marker, files[other])
    found = agents[0].run('verify', '--verify-data')
    assert found.code == 1
    assert 'another level or chain' in str(found)
    assert 'another level or chain' in agents[0].restore(tmp_path / 'target').error


def test_a_damaged_level_and_a_lost_index(tmp_path: Path) -> None:
    """Neither makes anyone believe that another level is damaged."""
    store = LocalStore(tmp_path / 'store')
    image = make_image(tmp_path / 'image', size=MIB)
    agent = blocks(Agent(store))
    for _ in range(2):
        agent.increment(image).check()
        Changes(image, 3).write()
    data, _above = sorted(path for path in store.files() if path.endswith('/data'))
    (index,) = (path for path in store.files() if '/1_' in path and '/index' in path)
    store.delete(index)
    made = agent.run('admin', '--rebuild-index').check()
    assert 'digests of its blocks are not made' in made.err
    content = store.files()[data]
    store.put(data, content[:-1] + bytes([content[-1] ^ 1]))
    found = agent.run('verify', '--verify-data')
    assert (found.code, 'another level' in str(found)) == (1, False)


# Devices


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """Of 32 MiB, all of which is noise."""
    file = tmp_path / 'device'
    file.write_bytes(random.Random(9).randbytes(32 * MIB))
    with loop_device(file) as device:
        yield device


@pytest.mark.root
def test_a_device(device: Path, tmp_path: Path) -> None:
    agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    # Its end is no whole block, and no whole sector.
    image = make_image(tmp_path / 'image')
    states = []
    for _ in range(2):
        agent.increment(image).check()
        states.append(image.read_bytes())
        Changes(image, 4).discard()
        Changes(image, 5).write()
    noise = device.read_bytes()
    refused = agent.restore(device)
    assert 'is a device: --overwrite' in refused.error
    assert device.read_bytes() == noise
    agent.restore(device, '--overwrite').check()
    content = device.read_bytes()
    assert content[:SIZE] == states[-1]
    # What comes after the image stays.
    assert content[SIZE:] == noise[SIZE:]
    # And back: the device itself, level after level.
    disk = blocks(Agent(LocalStore(tmp_path / 'store'), 'disk'))
    link = tmp_path / 'link'
    link.symlink_to(device)
    first = disk.increment(link).check()
    assert first.notices == []
    with device.open('r+b') as file:
        file.seek(5 * MIB)
        file.write(b'changed')
        os.fsync(file.fileno())
    document = disk.increment(device).check().document
    assert (document['curr_backup_level'], document['bytes_read']) == (
        1,
        64 + 17 + BLOCK + 17 + 32,
    )
    disk.restore(tmp_path / 'target').check()
    assert (tmp_path / 'target').read_bytes() == device.read_bytes()


@pytest.mark.root
def test_images_that_grew_on_a_device(device: Path, tmp_path: Path) -> None:
    """What came to them is zeros, and not what the device had there."""
    agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    image = tmp_path / 'image'
    image.touch()
    noise = device.read_bytes()
    for size in (0, 3 * MIB + 5, 2 * MIB - 77, 6 * MIB):
        os.truncate(image, size)
        agent.increment(image).check()
        device.write_bytes(noise)
        agent.restore(device, '--overwrite').check()
        content = device.read_bytes()
        assert content[:size] == image.read_bytes()
        assert content[6 * MIB :] == noise[6 * MIB :]
        with image.open('r+b') as file:
            file.write(random.Random(size).randbytes(size // 3))


@pytest.mark.root
def test_a_level_that_a_device_has_no_room_for(device: Path, tmp_path: Path) -> None:
    """The newest one is smaller."""
    agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    image = make_image(tmp_path / 'image', size=3 * MIB)
    agent.increment(image).check()
    with image.open('ab') as file:
        file.truncate(31 * MIB)
        file.write(random.Random(1).randbytes(9 * MIB))
    agent.increment(image).check()
    os.truncate(image, 31 * MIB + 5)
    agent.increment(image).check()
    agent.restore(device, '--overwrite').check()
    content = device.read_bytes()
    assert content[: 31 * MIB + 5] == image.read_bytes()
    assert content[31 * MIB + 5 :] == bytes(MIB - 5)


@pytest.mark.root
def test_a_device_that_must_not_be_overwritten(device: Path, tmp_path: Path) -> None:
    agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    image = make_image(tmp_path / 'image')
    agent.increment(image).check()
    os.truncate(image, 40 * MIB)
    date = agent.increment(image).check().document['time_stamp']
    noise = device.read_bytes()
    # The newest level is too large, and level 0 would fit.
    refused = agent.restore(device, '--overwrite')
    assert f'has {32 * MIB} bytes, and the image {40 * MIB}' in refused.error
    assert device.read_bytes() == noise
    subprocess.run(['mkfs.ext4', '-q', str(device)], check=True)
    place = tmp_path / 'place'
    place.mkdir()
    with mounting() as mount:
        mount(device, place)
        (place / 'file').write_text('content')
        before = ('--restore-from-date', iso(date - 1))
        for arguments in (before, ()):
            refused = agent.restore(device, '--overwrite', *arguments)
            assert 'mounted or in use' in refused.error
        assert (place / 'file').read_text() == 'content'
        made = blocks(Agent(LocalStore(tmp_path / 'store'), 'disk')).backup(device)
        assert 'mounted or in use' in made.check().notices[0]


# Faults


def test_a_backup_that_is_killed(
    proxied: S3Store, proxy: Proxy, tmp_path: Path
) -> None:
    image = tmp_path / 'image'
    image.write_bytes(os.urandom(4 * PART))
    agent = blocks(in_parts(Agent(proxied)))
    agent.increment(image).check()
    image.write_bytes(os.urandom(4 * PART))
    held = proxy.hold(lambda request: request.part == 3)
    arguments = ('--path-to-backup', image, '--incremental')
    with agent.start('backup', *arguments) as process:
        held.wait()
        process.send(signal.SIGKILL)
        process.wait()
    held.release()
    proxy.clear()
    assert len(proxied.markers()) == 1
    document = agent.increment(image).check().document
    assert document['curr_backup_level'] == 1
    assert proxied.open_uploads() == []
    agent.restore(tmp_path / 'target').check()
    assert digest(tmp_path / 'target') == digest(image)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_restore_that_is_killed(
    number: signal.Signals, proxied: S3Store, tmp_path: Path
) -> None:
    image = tmp_path / 'image'
    image.write_bytes(os.urandom(4 * PART))
    agent = blocks(in_parts(Agent(proxied)))
    agent.increment(image).check()
    Changes(image, 6).write()
    agent.increment(image).check()
    target = tmp_path / 'target'
    arguments = ('--restore-abs-path', target, '--download-limit', '1M')
    with agent.start('restore', *arguments) as process:
        until(lambda: target.exists() and target.stat().st_blocks, process)
        process.send(number)
        stopped = process.wait()
    # It may have its size already.
    said = f'{target} is incomplete, do not use it' in stopped.err
    assert (stopped.code, said) == (-number, number == signal.SIGTERM)
    assert digest(target) != digest(image)
    assert 'is not empty' in agent.restore(target).error
    agent.restore(target, '--overwrite').check()
    assert digest(target) == digest(image)


# Mistakes


@pytest.mark.root
def test_no_space_for_the_index(tmp_path: Path) -> None:
    agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    image = tmp_path / 'image'
    image.write_bytes(random.Random(3).randbytes(8 * MIB))
    with machine.mounted(
        'none', tmp_path / 't', *['-t', 'tmpfs', '-o', 'size=20k']
    ) as t:
        failed = agent.told(TMPDIR=str(t)).increment(image)
        assert f'{t}: no space is left for temporary files' in failed.only_error
    assert agent.store.is_untouched()


def test_what_an_image_has_not(tmp_path: Path) -> None:
    agent = blocks(Agent(LocalStore(tmp_path / 'store')))
    image = make_image(tmp_path / 'image', size=MIB)
    agent.backup(image).check()
    target = ('--restore-abs-path', tmp_path / 'target')
    for action, *arguments in (
        ('list',),
        ('find', '--include', 'x'),
        ('diff', '--from-date', iso(0)),
        ('dump', '--include', 'x'),
        ('restore', *target, '--include', 'x'),
        ('restore', *target, '--keep-extra'),
        ('backup', '--path-to-backup', image, '--consistency-check'),
    ):
        refused = agent.run(str(action), *arguments)
        assert 'engine blocks do not consist of files' in refused.error, action
    assert not (tmp_path / 'target').exists()
    for path, why in ((tmp_path, 'neither a regular file'), ('/missing', 'No such')):
        assert why in agent.backup(path).error
    assert 'needs --path-to-backup' in agent.run('backup').error
    assert 'needs --restore-abs-path' in agent.run('restore').error
    assert 'is a directory' in agent.restore(tmp_path).error
