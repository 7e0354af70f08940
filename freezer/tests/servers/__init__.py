"""Real S3 servers for the tests, each on free loopback ports with data of its own.

They are processes, but ``Moto``, a thread of this process. All keep one small contract,
:class:`Server`, so a test that takes "a server" runs on every one of them. Where they
differ, :class:`Properties` says how. By hand, for benchmarks and for looking around::

    python -m freezer.tests.servers seaweedfs
"""

from freezer.tests.servers.base import (
    DOMAIN,
    ProcessServer,
    Properties,
    Server,
    StartError,
    free_ports,
)
from freezer.tests.servers.ceph import CephRGW
from freezer.tests.servers.moto import Moto
from freezer.tests.servers.rclone import RcloneS3
from freezer.tests.servers.seaweedfs import SeaweedFS
from freezer.tests.servers.swift import SwiftS3

#: Every server, by its name.
KINDS: dict[str, type[Server]] = {
    kind.name: kind for kind in (Moto, SeaweedFS, CephRGW, RcloneS3, SwiftS3)
}

__all__ = [
    'DOMAIN',
    'KINDS',
    'CephRGW',
    'Moto',
    'ProcessServer',
    'Properties',
    'RcloneS3',
    'SeaweedFS',
    'Server',
    'StartError',
    'SwiftS3',
    'free_ports',
]
