"""Cloud clients that are not there. Freezer 19 does not start without them.

It is copied beside Freezer 19, and runs before it.
"""

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from unittest import mock

# What it imports to talk to Keystone, Nova, Cinder, Glance and Swift; with oslo_service
# it waits for Cinder.
CLIENTS = ('keystoneauth1', 'openstack', 'oslo_service', 'swiftclient')


#: environment variable: address, user and key of a Swift that is there
SWIFT = 'FREEZER_TEST_SWIFT'


class Pretender(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module, and any below it, that says yes to everything."""

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        first = name.partition('.')[0]
        if first not in CLIENTS or (first == 'swiftclient' and SWIFT in os.environ):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module: types.ModuleType = mock.MagicMock(name=spec.name)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def pretend() -> None:
    sys.meta_path.insert(0, Pretender())
    login = os.environ.get(SWIFT)
    if login is not None:
        _swift_of(*login.split())


def _swift_of(url: str, user: str, key: str) -> None:
    """Let it talk to a real Swift, with Swift's own login."""
    client = importlib.import_module('swiftclient.client')
    real = client.Connection
    if isinstance(real, type):
        # Python may read the file that calls this twice.
        client.Connection = lambda **_: real(url, user, key)  # type: ignore[attr-defined]
