"""nova-compute without a hypervisor: a server has the bytes of its image in a file.

Run by the Python of the cloud, with the arguments of nova-compute. The driver is the
fake one of Nova, except that the image of a server gets the bytes of the file: that one
would leave it without data. A server that boots from a volume has no file.
"""

# Nova must be imported by its program first: that one patches other modules.
# ruff: noqa: I001

import sys
import types
from pathlib import Path
from typing import Any

from nova.cmd import compute
import nova.virt
from nova import conf
from nova.compute import task_states
from nova.image import glance
from nova.virt import fake


class DisksDriver(fake.FakeDriver):  # type: ignore[misc]
    """Forgets its servers when nova-compute ends; the files stay."""

    vcpus, memory_mb, local_gb = 64, 65536, 1000

    def spawn(self, context: Any, instance: Any, *args: Any, **more: Any) -> None:
        super().spawn(context, instance, *args, **more)
        if instance.image_ref:
            target = str(_file(instance))
            glance.API().download(context, instance.image_ref, dest_path=target)

    def snapshot(
        self, context: Any, instance: Any, image_id: str, update_task_state: Any
    ) -> None:
        pending = task_states.IMAGE_PENDING_UPLOAD
        update_task_state(task_state=pending)
        update_task_state(
            task_state=task_states.IMAGE_UPLOADING, expected_state=pending
        )
        changes = {
            'status': 'active',
            'disk_format': 'raw',
            'container_format': 'bare',
            'properties': {'os_type': 'linux'},
        }
        with _file(instance).open('rb') as data:
            glance.API().update(context, image_id, changes, data, purge_props=False)

    def destroy(self, context: Any, instance: Any, *args: Any, **more: Any) -> None:
        super().destroy(context, instance, *args, **more)
        _file(instance).unlink(missing_ok=True)


def _file(instance: Any) -> Path:
    return Path(conf.CONF.instances_path) / str(instance.uuid)


if __name__ == '__main__':
    # Nova looks for drivers in its own package.
    module: Any = types.ModuleType('nova.virt.disks')
    module.DisksDriver = DisksDriver
    sys.modules[module.__name__] = nova.virt.disks = module
    sys.argv[0] = 'nova-compute'
    sys.exit(compute.main())
