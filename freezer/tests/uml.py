"""Runs a script under another kernel, User-Mode Linux, which has LVM.

The kernel is an ordinary process. Its root is this machine's file tree: what the script
writes outside of ``/mnt``, ``/run`` and ``/srv`` lands on this machine. It has a volume
group ``vg0`` on a file, one processor and no network. ``uml.c`` lets it run where the
processor has AMX.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.commands import run_command

_MODULES = Path('/usr/lib/uml/modules')
_PROGRAMS = ('linux.uml', 'lvcreate', 'modprobe', 'mkfs.ext4', 'gcc')
_TIMEOUT = 840

_LVM = """
devices {
    filter = [ "a|^/dev/ubd.*|", "r|.*|" ]
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
    use_devicesfile = 0
}
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
global { thin_check_executable = "" }
"""

# The first process of the kernel.
_INIT = """#!/bin/bash
cd {folder}
exec </dev/null >>output 2>&1
. ./environment
export PATH=$PATH:/usr/sbin:/sbin LVM_SYSTEM_DIR={folder}/lvm
export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
mount -t proc proc /proc
mount -t sysfs sys /sys
for place in /mnt /run /srv; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/lock/lvm /run/lvm
ln -sfn /proc/self/fd /dev/fd
for module in dm-mod dm-snapshot dm-thin-pool; do
    modprobe -d {folder}/modules $module
done
pvcreate --quiet --yes /dev/ubda && vgcreate --quiet vg0 /dev/ubda && bash -eux script
echo $? >code.new
sync
mv code.new code
halt -f
"""


def run(folder: Path, script: str, size: int, env: Mapping[str, str]) -> str:
    """Run a script as root in a new directory; returns its output.

    The test is skipped if this user or this machine cannot run it, and fails if the
    script does.

    :param size: bytes of the volume group
    """
    if not trees.is_root():
        pytest.skip('only root has devices')
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacking or not _MODULES.is_dir():
        pytest.skip(f'no {", ".join(lacking) or _MODULES}')
    (folder / 'lvm').mkdir(parents=True)
    (folder / 'lvm' / 'lvm.conf').write_text(_LVM)
    (folder / 'modules' / 'lib').mkdir(parents=True)
    (folder / 'modules' / 'lib' / 'modules').symlink_to(_MODULES)
    with (folder / 'disk').open('wb') as disk:
        disk.truncate(size)
    exports = (f'export {name}={shlex.quote(value)}\n' for name, value in env.items())
    (folder / 'environment').write_text(''.join(exports))
    (folder / 'script').write_text(script)
    init = folder / 'init'
    init.write_text(_INIT.format(folder=folder))
    init.chmod(0o755)
    library = folder / 'uml.so'
    compiler = ('gcc', '-shared', '-fPIC', '-Wall', '-o', library)
    run_command(*compiler, Path(__file__).with_suffix('.c'), '-ldl', check=True)
    command = [
        *('linux.uml', 'root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'rw'),
        *('mem=512M', f'ubd0={folder}/disk', f'uml_dir={folder}', 'umid=uml'),
        *('con=null', 'con0=null,null', 'ssl=null', f'init={init}'),
    ]
    with (folder / 'console').open('wb') as console:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            timeout=_TIMEOUT,
            env={**os.environ, 'PATH': _path(), 'LD_PRELOAD': str(library)},
        )
    output = (folder / 'output').read_text()
    code = folder / 'code'
    assert code.exists(), f'{output}\n{(folder / "console").read_text()}'
    assert code.read_text() == '0\n', output
    return output


def _path() -> str:
    return f'{os.environ["PATH"]}:/usr/sbin:/sbin'
