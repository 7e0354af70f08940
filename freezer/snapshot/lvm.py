"""Snapshots of logical volumes of LVM, of thin pools as well."""

import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from freezer.exceptions import ConfigError, FreezerError
from freezer.snapshot import mounts, programs
from freezer.snapshot.folder import (
    ATTEMPTS,
    BASE,
    PAUSE_SECONDS,
    PrivateFolder,
    is_mounted,
    remove_abandoned,
    unmount,
)
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView
from freezer.utils import human, owner
from freezer.utils.paths import absolute
from freezer.utils.tree import is_within

LOG = logging.getLogger(__name__)

_PURPOSE: Final = '--snapshot lvm'
_PROGRAMS: Final = {
    **dict.fromkeys(('lvs', 'lvcreate', 'lvremove'), 'lvm2'),
    **dict.fromkeys(('mount', 'umount'), 'mount'),
    **mounts.FINDMNT,
}
_FIELDS: Final = (
    *('vg_name', 'lv_name', 'lv_uuid', 'lv_path', 'lv_size', 'lv_tags', 'lv_layout'),
    *('lv_kernel_major', 'lv_kernel_minor', 'origin', 'lv_snapshot_invalid'),
    *('lv_health_status', 'vg_free', 'vg_size', 'vg_extent_size'),
)
# As lvm(8) says.
_NAME: Final = re.compile(r'[A-Za-z0-9_+.][A-Za-z0-9_+.-]*')
_SIZE: Final = re.compile(
    r'(?P<number>\d+(?:\.\d+)?)(?P<unit>[bskmgtpe]?)(?:(?<=[kmgtpe])i?b)?', re.I
)
_PERCENT: Final = re.compile(r'(?P<number>\d+)%(?P<whole>vg|free|origin|pvs)', re.I)
_SECTOR: Final = 512


@dataclass(frozen=True)
class Volume:
    """A logical volume, and its group. Sizes in bytes.

    :ivar origin: name of the volume that it is a snapshot of, or empty
    """

    group: str
    name: str
    uuid: str
    path: str
    device: str
    size: int
    tags: Sequence[str]
    origin: str
    is_thin: bool
    is_invalid: bool
    health: str
    free: int
    group_size: int
    extent: int

    def __str__(self) -> str:
        return f'{self.group}/{self.name}'

    @property
    def is_abandoned(self) -> bool:
        """Whether it is a snapshot of a run that was killed."""
        return any(map(owner.is_abandoned, self.tags))

    def is_named(self, text: str) -> bool:
        """Whether a text is its name, or a path of its device."""
        if text in (self.name, str(self), self.path):
            return True
        try:
            status = os.stat(text)
        except OSError:
            return False
        return stat.S_ISBLK(status.st_mode) and _number(status.st_rdev) == self.device


def _number(device: int) -> str:
    return f'{os.major(device)}:{os.minor(device)}'


def _volumes(*where: str) -> Sequence[Volume]:
    """All volumes, or those of a group."""
    command = ('lvs', '--reportformat', 'json', '--units', 'b', '--nosuffix')
    fields = ('--binary', '--options', ','.join(_FIELDS))
    (found,) = programs.report(*command, *fields, *where, key='report')
    return [_volume(each) for each in found['lv']]


def _volume(report: Mapping[str, str]) -> Volume:
    return Volume(
        group=report['vg_name'],
        name=report['lv_name'],
        uuid=report['lv_uuid'],
        path=report['lv_path'],
        device=f'{report["lv_kernel_major"]}:{report["lv_kernel_minor"]}',
        size=int(report['lv_size']),
        tags=report['lv_tags'].split(','),
        origin=report['origin'],
        is_thin='thin' in report['lv_layout'].split(','),
        is_invalid=report['lv_snapshot_invalid'] == '1',
        health=report['lv_health_status'],
        free=int(report['vg_free']),
        group_size=int(report['vg_size']),
        extent=int(report['vg_extent_size']),
    )


class SnapshotSize:
    """``--lvm-snapsize``.

    :raises ConfigError: malformed
    """

    def __init__(self, text: str) -> None:
        self._size = _SIZE.fullmatch(text)
        self._percent = _PERCENT.fullmatch(text)
        if not (self._size or self._percent) or not float(self._match['number']):
            raise ConfigError(
                f'lvm-snapsize {text!r}: neither a size nor a percentage: write 5G, '
                f'or 80%FREE, 20%ORIGIN, 10%VG'
            )

    @property
    def _match(self) -> re.Match[str]:
        match = self._size or self._percent
        assert match is not None
        return match

    @property
    def arguments(self) -> Sequence[str]:
        """Of lvcreate."""
        if self._percent:
            return ('--extents', self._percent[0].upper())
        return ('--size', self._match['number'] + (self._match['unit'] or 'm'))

    def needed(self, origin: Volume) -> int:
        """Bytes that the group must have free at least."""
        number = float(self._match['number'])
        if self._percent:
            whole = {'origin': origin.size, 'vg': origin.group_size}
            share = whole.get(self._percent['whole'].lower(), 0)
            return max(origin.extent, int(share * number / 100))
        unit = (self._match['unit'] or 'm').lower()
        factor = _SECTOR if unit == 's' else 1 << 10 * 'bkmgtpe'.index(unit)
        # LVM makes no snapshot larger than its origin and the table of its blocks.
        return min(int(number * factor), origin.size)


class LvmSnapshot(Snapshot):
    """Makes one and mounts it in a private directory.

    A tag names the process, so that a later run finds the snapshots of killed runs
    whatever they are called.
    """

    name = 'lvm'

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._source = options['lvm_srcvol'] or ''
        self._group = options['lvm_volgroup'] or ''
        self._name = options['lvm_snapname'] or ''
        self._writable = options['lvm_snapperm'] == 'rw'
        self._base = absolute(options['lvm_dirmount'] or BASE)
        self._size = SnapshotSize(options['lvm_snapsize'])
        if self._name and not _NAME.fullmatch(self._name):
            raise ConfigError(
                f'lvm-snapname {self._name!r}: a volume cannot have this name: use '
                f'letters, digits and _'
            )
        self._mark = ''
        self._origin: Volume | None = None
        self._folder: PrivateFolder | None = None
        self._device = 0
        self._mounted = ''

    @classmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        return cls(settings.options)

    def path_problem(self, path: str) -> str | None:
        mount = mounts.locate(path, mounts.mounted()).mount
        if mount.kind == 'btrfs':
            # A mount of the snapshot would be one of the volume: they have one UUID.
            return 'it is on btrfs, for which there is --snapshot btrfs'
        try:
            kind = Path(f'/sys/dev/block/{mount.device}/dm/uuid').read_text('ascii')
        except OSError:
            kind = ''
        if kind.startswith('LVM-'):
            return None
        where = mount.source or mount.kind
        return f'it is on {where} ({mount.kind}), which is no volume of LVM'

    def validate(self, path: str) -> None:
        programs.require_root(_PURPOSE)
        programs.require(_PROGRAMS, _PURPOSE)
        if is_within(absolute(path), self._base):
            raise ConfigError(
                f'path-to-backup {path} is in lvm-dirmount {self._base}: give the path '
                f'where the volume itself is mounted'
            )
        if problem := self.path_problem(path):
            raise FreezerError(f'{_PURPOSE} {path}: {problem}')
        volumes = _volumes()
        volume = _origin_of(mounts.locate(path, mounts.mounted()), volumes)
        if self._source and not volume.is_named(self._source):
            raise ConfigError(
                f'lvm-srcvol {self._source}: {path} is on the volume {volume}: omit '
                f'lvm-srcvol, or back up a path on that volume'
            )
        if self._group and self._group != volume.group:
            raise ConfigError(
                f'lvm-volgroup {self._group}: {path} is on the volume {volume}: omit '
                f'lvm-volgroup, or back up a path in that group'
            )
        left = _leftovers(volume, volumes)
        self._check_space(volume, sum(each.size for each in left if not each.is_thin))
        names = {each.name for each in volumes if each.group == volume.group}
        if self._name in names.difference(each.name for each in left):
            raise ConfigError(
                f'lvm-snapname {self._name}: {volume.group} has a volume of this name: '
                f'choose another, or omit the option'
            )

    def _check_space(self, volume: Volume, reclaimed: int) -> None:
        needed, free = self._size.needed(volume), volume.free + reclaimed
        if not volume.is_thin and free < needed:
            raise FreezerError(
                f'{_PURPOSE}: the volume group {volume.group} has '
                f'{human.size(free)} free, and the snapshot needs '
                f'{human.size(needed)}: make room, or choose a smaller lvm-snapsize'
            )

    def remove_leftovers(self, path: str) -> Sequence[str]:
        # Not those of validate(): another agent may have removed one, and its name and
        # device number may be those of a new snapshot.
        volumes = _volumes()
        origin = _origin_of(mounts.locate(path, mounts.mounted()), volumes)
        found = _leftovers(origin, volumes)
        for each in found:
            for mount in reversed(mounts.mounted()):
                if mount.device == each.device:
                    unmount(mount.target)
            _remove(each)
        remove_abandoned(self._base)
        return [str(each) for each in found]

    def create(self, path: str) -> SnapshotView:
        mounted = mounts.mounted()
        place = mounts.locate(path, mounted)
        origin = _origin_of(place, _volumes())
        name = self._name or f'freezer_backup_snap_{secrets.token_hex(4)}'
        # Known before anything is made, so that remove() finds it whatever happens.
        self._origin, self._mark = origin, owner.new_mark()
        self._folder = PrivateFolder(self._base, self._mark)
        # One of a thin pool would not be activated otherwise.
        size = ('--setactivationskip', 'n') if origin.is_thin else self._size.arguments
        permission = ('--permission', 'rw' if self._writable else 'r')
        what = ('--snapshot', '--name', name, '--addtag', self._mark)
        taken = time.time_ns()
        programs.run(
            *('lvcreate', '--quiet', '--yes', *what, *permission, *size),
            f'{origin.group}/{origin.name}',
        )
        LOG.info('made the snapshot %s/%s of %s', origin.group, name, origin)
        kind = place.mount.kind
        options = self._options(kind)
        # A program mounts what the kernel calls fuseblk.
        kind = 'auto' if kind.startswith('fuse') else kind
        device = f'/dev/{origin.group}/{name}'
        self._mounted = self._folder.mount('root', kind, device, options)
        self._device = os.stat(self._mounted).st_dev
        view = os.path.normpath(os.path.join(self._mounted, place.inside))
        return SnapshotView(view, taken, tuple(mounts.below(place, mounted)))

    def _options(self, kind: str) -> str:
        if kind != 'xfs':
            return 'ro'
        # Its UUID is mounted already. LVM froze the file system, so there is nothing
        # to recover but files that were deleted while they were open.
        return 'ro,nouuid' if self._writable else 'ro,nouuid,norecovery'

    def _made(self) -> Volume | None:
        assert self._origin is not None
        for each in _volumes(self._origin.group):
            if self._mark in each.tags:
                return each
        return None

    def check(self) -> None:
        made = self._made()
        # First: a file system on a full snapshot may have shut down.
        if made is not None and made.is_invalid:
            raise FreezerError(
                f'the snapshot {made} is full: more than {human.size(made.size)} '
                f'changed on {self._origin} during the backup: choose a larger '
                f'lvm-snapsize, and run the backup again'
            )
        if made is None or not is_mounted(self._mounted, self._device):
            raise FreezerError(
                'the snapshot was unmounted or removed while it was read: run the '
                'backup again'
            )
        if made.health:
            raise FreezerError(
                f'the snapshot {made} cannot be relied on: LVM reports {made.health}: '
                f'see lvs --all'
            )

    def remove(self) -> None:
        if not self._mark:
            return
        assert self._folder is not None
        self._folder.remove()
        made = self._made()
        if made is not None:
            _remove(made)
        self._mark = ''


def _origin_of(place: mounts.Place, volumes: Sequence[Volume]) -> Volume:
    """The volume that a path is on.

    :raises FreezerError: LVM does not know it
    """
    for volume in volumes:
        if volume.device == place.mount.device:
            return volume
    raise FreezerError(
        f'{_PURPOSE} {place.path}: lvs does not list {place.mount.source}'
    )


def _leftovers(origin: Volume, volumes: Sequence[Volume]) -> Sequence[Volume]:
    return [
        each
        for each in volumes
        if (each.group, each.origin) == (origin.group, origin.name)
        and each.is_abandoned
    ]


def _remove(volume: Volume) -> None:
    """:raises FreezerError: it is still there"""
    # Another volume may get its name, if two agents remove it.
    select = ('--select', f'lv_uuid={volume.uuid}')
    for attempt in range(ATTEMPTS):
        try:
            programs.run('lvremove', '--quiet', '--yes', *select, str(volume))
        except programs.ProgramError as error:
            present = {each.uuid for each in _volumes(volume.group)}
            if volume.uuid not in present:
                return
            if attempt + 1 == ATTEMPTS:
                raise FreezerError(
                    f'{error}: remove the snapshot with lvremove {volume}'
                ) from error
            LOG.info('%s; trying again', error)
            time.sleep(PAUSE_SECONDS)
        else:
            return
