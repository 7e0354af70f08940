"""Cloud clients that are not there. Freezer 19 does not start without them.

It is copied beside Freezer 19, and runs before it.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from unittest import mock

# What it imports to talk to Keystone, Nova, Cinder, Glance, Swift and hosts with SSH;
# with oslo_service it waits for Cinder.
CLIENTS = ('keystoneauth1', 'openstack', 'oslo_service', 'paramiko', 'swiftclient')


class Pretender(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module, and any below it, that says yes to everything."""

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition('.')[0] not in CLIENTS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module: types.ModuleType = mock.MagicMock(name=spec.name)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def pretend() -> None:
    sys.meta_path.insert(0, Pretender())
