"""Trees of files for tests: made, changed, described and compared.

Paths are bytes throughout, because names of files are. :func:`make_tree` makes a tree
with a bit of everything a backup can meet, :func:`mutate_tree` changes it as a day of
use would, and :func:`describe` with :func:`differences` tell whether two trees are
the same in all that a restore must bring back. The same seed gives the same names,
contents and changes.

What the platform has not got (extended attributes, ACLs, other owners for ordinary
users, devices) is left out of the tree; anything else which fails, fails.
"""

import dataclasses
import errno
import hashlib
import os
import random
import shutil
import stat
import struct
from collections.abc import Callable, Iterator, Sequence

#: Blocks a restored file may take beyond those of the original, in bytes: file
#: systems differ in how they round, and in where they keep attributes.
SLACK = 64 * 1024

#: Longest path a mutation may lead to, the path of the root included.
MAX_PATH = 3500

_HOLE = 192 * 1024
_NS = 10**9
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL)

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

NAMES = (
    b'plain', b'with space', b' leading space', b'trailing space ', b' ', b'.hidden',
    b'...', b'..a', b'trailing dot.', b'-', b'-rf', b'--checkpoint-action=exec=false',
    b'~', b'#hash#', b"single ' quote", b'double " quote', b'back\\slash',
    b'back\\\\slashes\\n\\012', b'trailing backslash\\', b'new\nline',
    b'\nleading newline', b'trailing newline\n', b'\n', b'tab\there', b'\ttab',
    b'return\r', b'escape\x1b[31m', b'bell\x07\x7f\x01', b'star*', b'*', b'question?',
    b'[bracket]', b'[a-z', b'{brace,s}', b'!bang', b'$(dollar)`tick`',
    b'semi;colon&|<>', b'percent%s%d%%', b'co:lon', b'equals=sign', b'latin1 \xe9\xff',
    b'\xff\xfe', b'cut utf-8 \xe2\x82', 'nfc é'.encode(), 'nfd e\u0301'.encode(),
    'é'.encode(), 'e\u0301'.encode(), 'снег 雪 ❄\U0001f328'.encode(),
    'right\u202eto left'.encode(), b'n' * 99, b'n' * 100, b'n' * 101, b'x' * 254 + b' ',
    b'y' * 255, 'ü'.encode() * 127,
)  # fmt: skip

MTIMES_NS = (
    -(2**31) * _NS + 1, -86400 * 365 * _NS + 123456789, -2 * _NS, -_NS - 500000000, -1,
    0, 1, 86400 * 365 * _NS, 315532799 * _NS + 999999999, 1000000000 * _NS + 1,
    1234567890 * _NS + 123456789, 1600000000 * _NS, 1600000000 * _NS + 100000000,
    2147483648 * _NS + 5, 4102444800 * _NS + 987654321, 8589934592 * _NS + 1,
)  # fmt: skip

_FILE_MODES = (
    0o644, 0o644, 0o600, 0o400, 0o755, 0o777, 0o000, 0o4755, 0o2755, 0o6711, 0o1644,
    0o7777,
)  # fmt: skip
_DIRECTORY_MODES = (
    0o755, 0o755, 0o700, 0o555, 0o500, 0o777, 0o1777, 0o2755, 0o2775, 0o3770, 0o000,
    0o711,
)  # fmt: skip
_IDS = (0, 1, 42, 1000, 65534, 70000, 2097152)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a restore must bring back of one name."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    digest: str = ''
    target: bytes = b''
    #: All names in the tree of this file or symbolic link, when it has several.
    links: tuple[bytes, ...] = ()
    xattrs: tuple[tuple[str, bytes], ...] = ()
    device: tuple[int, int] = (0, 0)
    #: Bytes allocated on the disk.
    allocated: int = 0


_KINDS = {
    stat.S_IFREG: 'file',
    stat.S_IFDIR: 'directory',
    stat.S_IFLNK: 'symlink',
    stat.S_IFIFO: 'fifo',
    stat.S_IFSOCK: 'socket',
    stat.S_IFCHR: 'character device',
    stat.S_IFBLK: 'block device',
}


def is_root() -> bool:
    """Whether owners can be given away here."""
    return os.geteuid() == 0


def walk(root: Path, prefix: bytes = b'') -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield each name below root, relative to it, parents first, in byte order."""
    top = os.fsencode(root)
    for name in sorted(os.listdir(top)):
        path = os.path.join(top, name)
        status = os.lstat(path)
        yield prefix + name, status
        if stat.S_ISDIR(status.st_mode):
            yield from walk(path, prefix + name + b'/')


def describe(root: Path) -> dict[bytes, Entry]:
    """Return what a restore must bring back, by path relative to root.

    The root itself is ``b'.'``. Reading leaves everything but access times alone.
    """
    top = os.fsencode(root)
    found = [(b'.', os.lstat(top)), *walk(top)]
    groups: dict[tuple[int, int], list[bytes]] = {}
    for path, status in found:
        if not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    entries = {}
    for path, status in found:
        full = os.path.join(top, path)
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        links = groups.get((status.st_dev, status.st_ino), [])
        # Tar restores the names of one fifo or device as several.
        kept = kind in ('file', 'symlink')
        entries[path] = Entry(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            size=status.st_size if kind == 'file' else 0,
            digest=_digest(full) if kind == 'file' else '',
            target=os.readlink(full) if kind == 'symlink' else b'',
            links=tuple(sorted(links)) if len(links) > 1 and kept else (),
            xattrs=_xattrs(full),
            device=(os.major(status.st_rdev), os.minor(status.st_rdev))
            if kind.endswith('device')
            else (0, 0),
            allocated=status.st_blocks * 512 if kind == 'file' else 0,
        )
    return entries


def differences(
    expected: dict[bytes, Entry], actual: dict[bytes, Entry], slack: int = SLACK
) -> list[str]:
    """Return a line for each way in which ``actual`` is not ``expected``; none is best.

    Holes are compared by what a file takes on the disk: ``actual`` may take ``slack``
    bytes more, and any amount less.
    """
    lines = []
    for path in sorted(expected.keys() | actual.keys()):
        name = repr(path)[1:]
        if path not in actual:
            lines.append(f'{name}: missing ({expected[path].kind})')
            continue
        if path not in expected:
            lines.append(f'{name}: not expected ({actual[path].kind})')
            continue
        old, new = expected[path], actual[path]
        name = f'{name} ({old.kind})'
        for field in (f.name for f in dataclasses.fields(Entry)[:-1]):
            left, right = getattr(old, field), getattr(new, field)
            if left != right:
                show = oct if field == 'mode' else repr
                lines.append(f'{name}: {field} {show(left)} expected, is {show(right)}')
        if new.allocated > old.allocated + slack and new.allocated > old.size // 2:
            lines.append(
                f'{name}: not sparse: {old.allocated} bytes on disk expected, '
                f'is {new.allocated} of {new.size}'
            )
    return lines


def _digest(path: bytes) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(names)
        )
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return ()
        raise


def set_xattr(path: bytes, name: str, value: bytes) -> bool:
    """Set an extended attribute; return whether that can be done here."""
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        unwritable = error.errno == errno.EACCES and not is_root()
        if unwritable or error.errno in (*_UNSUPPORTED, errno.ENOSPC):
            return False
        raise
    return True


def acl(user: int, permissions: int, owner: int = 6) -> bytes:
    """Return the POSIX ACL which adds one user, as the kernel takes it."""
    nobody = 0xFFFFFFFF
    entries = [(1, owner, nobody), (2, permissions, user), (4, 4, nobody)]
    entries += [(0x10, 7, nobody), (0x20, 0, nobody)]
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in entries)


#: ``cap_net_bind_service=ep``, as the kernel takes it.
_CAPABILITY = struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0)


class _Maker:
    """What making a tree and changing one have in common."""

    def __init__(self, root: Path, seed: int, size: int) -> None:
        self.root = os.fsencode(root)
        self.rng = random.Random(seed)
        self.size = size
        self.serial = 0

    def data(self, size: int) -> bytes:
        if self.rng.random() < 0.3:
            return (b'line %d\n' % self.rng.randrange(1000) * (size // 7 + 1))[:size]
        return self.rng.randbytes(size)

    def name(self, directory: bytes) -> bytes:
        """Return a path in directory which does not exist yet."""
        while True:
            name = self.rng.choice(NAMES)
            if self.rng.random() < 0.5:
                self.serial += 1
                suffix = b'%d' % self.serial
                name = name[: 250 - len(suffix)] + suffix
            path = os.path.join(directory, name)
            if not os.path.lexists(path):
                return path

    def write(self, path: bytes) -> None:
        """Write a regular file of a random sort."""
        sorts = (
            'empty',
            'small',
            'small',
            'block',
            'medium',
            'large',
            *2 * ('sparse',),
        )
        sort = self.rng.choice(sorts)
        with open(path, 'xb') as file:
            if sort == 'small':
                file.write(self.data(self.rng.randrange(1, 512)))
            elif sort == 'block':
                file.write(self.data(self.rng.choice((511, 512, 513, 10240, 4096))))
            elif sort == 'medium':
                file.write(self.data(self.rng.randrange(1, 20000)))
            elif sort == 'large':
                file.write(self.data(self.rng.randrange(self.size // 2, self.size + 1)))
        if sort == 'sparse':
            self.punch(path)

    def punch(self, path: bytes) -> None:
        """Give a file new contents with holes at its start, middle or end, or only."""
        with open(path, 'r+b') as file:
            file.truncate(0)
            holes = self.rng.choice(('', 'start', 'middle', 'end', 'start middle end'))
            end = self.rng.choice((0, 1, 4095, 4096))
            if not holes:
                file.truncate(_HOLE + end)
                return
            if 'start' in holes:
                file.seek(_HOLE, os.SEEK_CUR)
            file.write(self.data(self.rng.choice((1, 512, 4096, 5000))))
            if 'middle' in holes:
                # Enough pieces for the map of holes not to fit one header.
                for _ in range(self.rng.choice((1, 5, 40))):
                    file.seek(_HOLE // 4, os.SEEK_CUR)
                    file.write(self.data(self.rng.choice((1, 512, 4097))))
            if 'end' in holes:
                file.truncate(file.tell() + _HOLE + end)

    def target(self, directory: bytes) -> bytes:
        """Return what a symbolic link in directory may point to."""
        names = sorted(os.listdir(directory))
        choices = [
            b'.',
            b'..',
            b'../' * 40 + b'nowhere',
            b'/',
            b'/nonexistent/absolute',
        ]
        choices += [
            b'dangling',
            b'with space and\nnewline',
            b'back\\slash',
            b'\xff\xfe',
        ]
        # xfs stores up to 1024 bytes.
        choices += [b't' * 99, b't' * 100, b't/' * 500 + b't']
        if names:
            choices += [self.rng.choice(names)] * 3
        return self.rng.choice(choices)

    def chmod(self, path: bytes) -> None:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return
        directory = stat.S_ISDIR(status.st_mode)
        mode = self.rng.choice(_DIRECTORY_MODES if directory else _FILE_MODES)
        if not is_root():
            mode |= 0o500 if directory else 0o400
        os.chmod(path, mode)

    def chown(self, path: bytes) -> None:
        owner, group = self.rng.choice(_IDS), self.rng.choice(_IDS)
        if is_root():
            status = os.lstat(path)
            try:
                os.lchown(path, owner, group)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                return
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))

    def attributes(self, path: bytes) -> None:
        """Give a file extended attributes, an ACL or a capability."""
        status = os.lstat(path)
        what = self.rng.choice(('user', 'user', 'user', 'acl', 'default', 'privileged'))
        value = self.rng.choice((b'', b'value', b'\x00\xff\n=\\', self.data(300)))
        kind = stat.S_IFMT(status.st_mode)
        owner = 7 if kind == stat.S_IFDIR else 6
        more = acl(self.rng.choice(_IDS), self.rng.randrange(8), owner)
        name = self.rng.choice(('plain', 'with=equals', 'ü', 'sp c'))
        if what == 'privileged' and is_root():
            if kind == stat.S_IFREG and self.rng.random() < 0.5:
                set_xattr(path, 'security.capability', _CAPABILITY)
            else:
                set_xattr(path, 'trusted.freezer', value)
        elif what == 'acl' and kind != stat.S_IFLNK:
            set_xattr(path, 'system.posix_acl_access', more)
        elif what == 'default' and kind == stat.S_IFDIR:
            set_xattr(path, 'system.posix_acl_default', more)
        elif what == 'user' and kind in (stat.S_IFREG, stat.S_IFDIR):
            set_xattr(path, f'user.{name}', value)

    def times(self, path: bytes) -> None:
        mtime = self.rng.choice(
            (*MTIMES_NS, self.rng.randrange(1, 2 * 10**18), self.rng.randrange(10**18))
        )
        try:
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW, errno.EPERM):
                raise

    def adorn(self, path: bytes) -> None:
        """Give a new name an owner, a mode, attributes and a time."""
        if self.rng.random() < 0.3:
            self.chown(path)
        if self.rng.random() < 0.5:
            self.chmod(path)
        if self.rng.random() < 0.3:
            self.attributes(path)
        if self.rng.random() < 0.7:
            self.times(path)

    def special(self, path: bytes) -> None:
        """Make a fifo, or a device if that may be."""
        device = self.rng.choice((None, (stat.S_IFCHR, 1, 3), (stat.S_IFBLK, 7, 300)))
        if device and is_root():
            kind, major, minor = device
            try:
                os.mknod(path, kind | 0o600, os.makedev(major, minor))
            except PermissionError:
                os.mkfifo(path)
        else:
            os.mkfifo(path)

    # Of changes

    def find(self, kind: int | None = None) -> list[bytes]:
        return [
            os.path.join(self.root, path)
            for path, status in walk(self.root)
            if kind is None or stat.S_IFMT(status.st_mode) == kind
        ]

    def one(self, kind: int | None = None) -> bytes:
        found = self.find(kind)
        if not found:
            raise LookupError
        return self.rng.choice(found)

    def file(self) -> bytes:
        return self.one(stat.S_IFREG)

    def directory(self) -> bytes:
        return self.one(stat.S_IFDIR)

    def place(self) -> bytes:
        """Return a directory for something new; the root may be it."""
        return self.rng.choice([self.root, *self.find(stat.S_IFDIR)])

    def apart(self, count: int) -> list[bytes]:
        """Return directories none of which is within another."""
        chosen: list[bytes] = []
        found = self.find(stat.S_IFDIR)
        self.rng.shuffle(found)
        for path in found:
            if not any(
                _within(path, other) or _within(other, path) for other in chosen
            ):
                chosen.append(path)
                if len(chosen) == count:
                    return chosen
        raise LookupError

    def move(self, old: bytes, new: bytes) -> None:
        """Rename, unless paths would grow beyond what can be opened."""
        longest = 0
        if stat.S_ISDIR(os.lstat(old).st_mode):
            longest = max((len(path) for path, _ in walk(old)), default=0)
        if len(new) + longest > MAX_PATH:
            raise LookupError
        os.rename(old, new)

    def remove(self, path: bytes) -> None:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def populate(self, path: bytes) -> None:
        os.mkdir(path)
        for _ in range(self.rng.randrange(4)):
            self.write(self.name(path))
        if self.rng.random() < 0.3:
            inner = self.name(path)
            os.mkdir(inner)
            self.write(self.name(inner))

    def swap(self, one: bytes, two: bytes) -> bytes:
        if one == two:
            raise LookupError
        aside = self.name(self.root)
        self.move(one, aside)
        self.move(two, one)
        self.move(aside, two)
        return one + b' <-> ' + two

    def anything(self) -> bytes:
        return self.rng.choice([self.root, *self.find()])


def make_tree(root: Path, seed: int, files: int = 40, size: int = 100_000) -> None:
    """Make a mixed tree of about ``files`` names in the directory root.

    The root is made if it is not there. ``size`` is what the largest files hold.
    Whatever the number, there are one of each sort of file and a path of more than
    1024 bytes.
    """
    maker = _Maker(root, seed, size)
    rng, top = maker.rng, maker.root
    os.makedirs(top, exist_ok=True)
    directories = [top]
    made: list[bytes] = []
    for _ in range(max(3, files // 4)):
        parent = rng.choice(directories)
        if len(parent) > len(top) + 1200:
            parent = top
        path = maker.name(parent)
        os.mkdir(path)
        directories.append(path)
    deep = top
    for letter in (b'd', b'e', b'e', b'p' * 5, b'\xff'):
        deep = os.path.join(deep, (letter * 250)[:250])
        os.mkdir(deep)
        directories.append(deep)
    sorts = ['file'] * 12 + ['symlink'] * 3 + ['hard link'] * 2 + ['special']
    wanted = ['file', 'file', 'symlink', 'hard link', 'special']
    wanted += rng.choices(sorts, k=max(0, files - len(directories) - len(wanted)))
    # The deep directory gets a file; an empty directory is likely among the others.
    for number, sort in enumerate(wanted):
        parent = deep if number == 0 else rng.choice(directories)
        path = maker.name(parent)
        if sort == 'symlink':
            os.symlink(maker.target(parent), path)
        elif sort == 'hard link':
            os.link(rng.choice(made), path, follow_symlinks=False)
        elif sort == 'special':
            maker.special(path)
        else:
            maker.write(path)
        made.append(path)
    for path in made:
        maker.adorn(path)
    for path in reversed(directories):
        maker.adorn(path)


class _Mutator(_Maker):
    """The changes; each returns what it did, or raises LookupError."""

    # Contents

    def edit(self) -> bytes:
        path = self.file()
        status = os.lstat(path)
        if not status.st_size:
            raise LookupError
        with open(path, 'r+b') as file:
            file.seek(self.rng.randrange(status.st_size))
            old = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([old[0] ^ 0x55]))
        if self.rng.random() < 0.3:
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        return path

    def append(self) -> bytes:
        path = self.file()
        with open(path, 'ab') as file:
            file.write(self.data(self.rng.randrange(1, 9000)))
        return path

    def truncate(self) -> bytes:
        path = self.file()
        os.truncate(path, self.rng.randrange(os.lstat(path).st_size + 1))
        return path

    def make_sparse(self) -> bytes:
        path = self.file()
        self.punch(path)
        return path

    def save(self) -> bytes:
        """Replace a file as editors do: write another and rename it."""
        path = self.file()
        new = self.name(os.path.dirname(path))
        self.write(new)
        os.rename(new, path)
        return path

    # Names

    def create(self) -> bytes:
        path = self.name(self.place())
        self.write(path)
        self.adorn(path)
        return path

    def create_directory(self) -> bytes:
        path = self.name(self.place())
        self.populate(path)
        self.adorn(path)
        return path

    def delete(self) -> bytes:
        path = self.one()
        self.remove(path)
        return path

    def rename(self) -> bytes:
        path = self.one()
        parent = self.place() if self.rng.random() < 0.5 else os.path.dirname(path)
        if _within(parent, path):
            raise LookupError
        new = self.name(parent)
        self.move(path, new)
        return path + b' -> ' + new

    def rename_directory(self) -> bytes:
        path = self.directory()
        new = self.name(os.path.dirname(path))
        self.move(path, new)
        return path + b' -> ' + new

    def move_directory(self) -> bytes:
        old, parent = self.apart(2)
        new = os.path.join(parent, os.path.basename(old))
        if os.path.lexists(new):
            new = self.name(parent)
        self.move(old, new)
        return old + b' -> ' + new

    def rename_over(self) -> bytes:
        old, new = self.file(), self.file()
        os.rename(old, new)
        return old + b' -> ' + new

    def swap_files(self) -> bytes:
        one, two = self.file(), self.file()
        return self.swap(one, two)

    def swap_directories(self) -> bytes:
        return self.swap(*self.apart(2))

    def rotate(self) -> bytes:
        one, two, three = self.apart(3)
        aside = self.name(self.root)
        self.move(one, aside)
        self.move(three, one)
        self.move(two, three)
        self.move(aside, two)
        return b' -> '.join((one, two, three, one))

    def shift(self) -> bytes:
        """Rename in a chain which ends with a new name and starts with a new entry."""
        one, two = self.apart(2)
        last = self.name(os.path.dirname(two))
        self.move(two, last)
        self.move(one, two)
        if self.rng.random() < 0.7:
            self.populate(one)
        return b' -> '.join((one, two, last))

    def make_way(self) -> bytes:
        """Rename A to B and make a new A."""
        old = self.one()
        new = self.name(os.path.dirname(old))
        directory = os.path.isdir(old) and not os.path.islink(old)
        self.move(old, new)
        if directory == (self.rng.random() < 0.8):
            self.populate(old)
        else:
            self.write(old)
        return old + b' -> ' + new

    def invert(self) -> bytes:
        """Put a directory into what was in it."""
        inner = self.directory()
        outer = os.path.dirname(inner)
        if outer == self.root:
            raise LookupError
        aside = self.name(os.path.dirname(outer))
        self.move(inner, aside)
        self.move(outer, os.path.join(aside, os.path.basename(self.name(aside))))
        if self.rng.random() < 0.5:
            os.rename(aside, outer)
        return outer + b' into ' + inner

    def lift(self) -> bytes:
        """Move what is in a directory up, and delete the directory."""
        path = self.directory()
        for name in os.listdir(path):
            self.move(os.path.join(path, name), self.name(os.path.dirname(path)))
        os.rmdir(path)
        return path

    def recycle(self) -> bytes:
        """Delete a directory and make another at once, likely with the same inode."""
        old = self.directory()
        parent = self.place()
        if _within(parent, old):
            parent = os.path.dirname(old)
        new = self.name(parent)
        shutil.rmtree(old)
        self.populate(new)
        if self.rng.random() < 0.3:
            moved = self.one()
            if not _within(new, moved) and os.path.dirname(moved) != new:
                self.move(moved, self.name(new))
        return old + b' gone, made ' + new

    # Types

    def replace(self) -> bytes:
        """Put something of another type in place of a name."""
        path = self.one()
        was = stat.S_IFMT(os.lstat(path).st_mode)
        kinds = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO]
        kind = self.rng.choice([kind for kind in kinds if kind != was])
        self.remove(path)
        if kind == stat.S_IFREG:
            self.write(path)
        elif kind == stat.S_IFDIR:
            self.populate(path)
        elif kind == stat.S_IFLNK:
            os.symlink(self.target(os.path.dirname(path)), path)
        else:
            self.special(path)
        return path + f': {_KINDS[was]} -> {_KINDS[kind]}'.encode()

    def directory_to_link(self) -> bytes:
        """Move a directory, and leave a symbolic link to it."""
        path = self.directory()
        new = self.name(os.path.dirname(path))
        self.move(path, new)
        os.symlink(os.path.basename(new), path)
        return path + b' -> ' + new

    def retarget(self) -> bytes:
        path = self.one(stat.S_IFLNK)
        os.unlink(path)
        os.symlink(self.target(os.path.dirname(path)), path)
        return path

    # Hard links

    def link(self) -> bytes:
        old = self.one()
        if os.path.isdir(old) and not os.path.islink(old):
            raise LookupError
        new = self.name(self.place())
        os.link(old, new, follow_symlinks=False)
        return old + b' = ' + new

    def unlink_one(self) -> bytes:
        """Change one name of a file with several: break, replace or remove it."""
        found = [
            path for path in self.find(stat.S_IFREG) if os.lstat(path).st_nlink > 1
        ]
        if not found:
            return self.link()
        path = self.rng.choice(found)
        how = self.rng.choice(('copy', 'replace', 'remove', 'move'))
        if how == 'copy':
            new = self.name(os.path.dirname(path))
            shutil.copyfile(path, new)
            os.rename(new, path)
        elif how == 'replace':
            os.unlink(path)
            self.write(path)
        elif how == 'move':
            os.rename(path, self.name(self.place()))
        else:
            os.unlink(path)
        return path + b' ' + how.encode()

    def relink(self) -> bytes:
        """Make a name another name of another file."""
        old, new = self.file(), self.file()
        if os.path.samefile(old, new):
            raise LookupError
        os.unlink(new)
        os.link(old, new)
        return old + b' = ' + new

    # Metadata

    def change_mode(self) -> bytes:
        path = self.anything()
        self.chmod(path)
        return path

    def change_owner(self) -> bytes:
        if not is_root():
            raise LookupError
        path = self.anything()
        self.chown(path)
        return path

    def touch(self) -> bytes:
        path = self.anything()
        if self.rng.random() < 0.5:
            self.times(path)
        else:
            os.utime(path, follow_symlinks=False)
        return path

    def change_attributes(self) -> bytes:
        path = self.anything()
        names = _xattrs(path)
        if names and self.rng.random() < 0.5:
            os.removexattr(path, self.rng.choice(names)[0], follow_symlinks=False)
        else:
            self.attributes(path)
        return path


def _within(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b'/')


#: A change: it returns what it did, or raises LookupError if it found no victim.
Mutation = Callable[[_Mutator], bytes]

MUTATIONS: tuple[Mutation, ...] = tuple(
    each for name, each in vars(_Mutator).items() if name[0] != '_'
)


def mutate_tree(
    root: Path,
    seed: int,
    count: int | None = None,
    size: int = 100_000,
    mutations: Sequence[Mutation] = MUTATIONS,
) -> list[str]:
    """Change a tree made by :func:`make_tree` as use would; return what was done.

    ``count`` is the number of changes, by default some three to twelve, drawn from
    ``mutations``. For an
    ordinary user, changes which permissions forbid are passed over.
    """
    mutator = _Mutator(root, seed, size)
    done: list[str] = []
    for _ in range(count or mutator.rng.randrange(3, 13)):
        mutation = mutator.rng.choice(mutations)
        try:
            what = mutation(mutator)
        except (LookupError, PermissionError):
            continue
        what = what.replace(mutator.root + b'/', b'')
        done.append(f'{mutation.__name__}: {repr(what)[1:]}')
    return done
