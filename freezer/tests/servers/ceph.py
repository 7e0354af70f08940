"""Ceph's RADOS gateway, in three processes."""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freezer.tests.servers.base import (
    DOMAIN,
    ProcessServer,
    Properties,
    StartError,
    free_ports,
)


class CephRGW(ProcessServer):
    """Ceph's S3 gateway on a cluster of one: mon, OSD and radosgw, no mgr, no cephx.

    The OSD is bluestore on a sparse file: memstore starts faster, but keeps every byte
    in memory.
    """

    name = 'ceph'
    title = 'Ceph RGW'
    properties = Properties(part_limit=None)
    source = 'Debian: ceph-mon ceph-osd radosgw ceph-common'
    programs = (
        'ceph',
        'ceph-mon',
        'ceph-osd',
        'monmaptool',
        'radosgw',
        'radosgw-admin',
    )
    version_command = ('radosgw', '--version')
    #: of a user whose rights a test gives, bucket by bucket: :meth:`limit`
    limited_access_key = 'AKLIMITED'
    limited_secret_key = 'sk/limited+secret'

    def _prepare(self) -> None:
        self._mon_port, self._port = free_ports(2)
        self.endpoint = f'http://127.0.0.1:{self._port}'
        secure = ''
        if self._certificate is not None:
            (secure_port,) = free_ports(1)
            self.secure_endpoint = f'https://127.0.0.1:{secure_port}'
            secure = (
                f' ssl_endpoint=127.0.0.1:{secure_port}'
                f' ssl_certificate={self._certificate}'
            )
        self._fsid, self._osd_uuid = str(uuid.uuid4()), str(uuid.uuid4())
        self._osd_starts = 0
        self._fresh = True
        self._has_limited = False
        (self.directory / 'osd').mkdir()
        (self.directory / 'ceph.conf').write_text(
            _CEPH_CONF.format(
                directory=self.directory,
                fsid=self._fsid,
                mon_port=self._mon_port,
                port=self._port,
                secure=secure,
                domain=DOMAIN,
            )
        )

    def _launch(self) -> None:
        if self._fresh:
            address = f'[v1:127.0.0.1:{self._mon_port}]'
            make = ['monmaptool', '--create', '--addv', 'a', address]
            self._run([*make, '--fsid', self._fsid, 'monmap'])
            self._ceph('ceph-mon', '--mkfs', '-i', 'a', '--monmap', 'monmap')
        # In the foreground (-f): detached, they would outlive this process.
        self._spawn('mon', ['ceph-mon', '-f', '-i', 'a', '-c', 'ceph.conf'])
        if self._fresh:
            self._ceph('ceph', 'osd', 'new', self._osd_uuid)
            mkfs = ('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', self._osd_uuid)
            self._ceph(*mkfs)
        self._start_osd()
        if self._fresh:
            # These wait for the OSD, and make the first pools.
            self._make_user('freezer', self.access_key, self.secret_key, 0)
            self._make_user(
                'readonly', self.readonly_access_key, self.readonly_secret_key, -1
            )
        rgw = ['radosgw', '-f', '-c', 'ceph.conf', '-n', 'client.rgw']
        self._spawn('rgw', [*rgw, '--no-mon-config'])
        self._fresh = False

    def _start_osd(self) -> None:
        self._spawn('osd', ['ceph-osd', '-f', '-i', '0', '-c', 'ceph.conf'])
        self._osd_starts += 1

    def _tend(self) -> None:
        # About one time in four the OSD exits at once, and starts on a second try.
        osd = self._processes.get('osd')
        if osd is not None and osd.poll() is not None and self._osd_starts < 20:
            time.sleep(0.3)
            self._start_osd()
        super()._tend()

    def _ceph(self, *argv: str) -> None:
        # A busy monitor without authentication refuses a command now and then: "EPERM:
        # problem getting command descriptions from mon".
        for left in reversed(range(5)):
            try:
                self._run([*argv, '-c', 'ceph.conf'])
            except StartError:
                if not left:
                    raise
                time.sleep(0.2)
            else:
                return

    def _make_user(self, uid: str, access: str, secret: str, buckets: int) -> None:
        """Create a user. ``buckets``: how many it may make; 0 any number, -1 none."""
        keys = (f'--access-key={access}', f'--secret={secret}')
        who = (f'--uid={uid}', f'--display-name={uid}', f'--max-buckets={buckets}')
        self._ceph('radosgw-admin', 'user', 'create', *who, *keys)

    def make_bucket(self, prefix: str = 'test') -> str:
        bucket = super().make_bucket(prefix)
        resources = [f'arn:aws:s3:::{bucket}', f'arn:aws:s3:::{bucket}/*']
        actions = ['s3:GetObject', 's3:ListBucket']
        self._allow(bucket, 'readonly', [{'Action': actions, 'Resource': resources}])
        return bucket

    @property
    def config(self) -> Path:
        """Of clients: there are no keys."""
        return self.directory / 'ceph.conf'

    def make_pool(self, name: str) -> None:
        """Create a pool for images of RBD."""
        self._ceph('ceph', 'osd', 'pool', 'create', name, '8')
        self._ceph('rbd', 'pool', 'init', name)

    def limit(self, bucket: str, statements: Sequence[dict[str, Any]]) -> None:
        """Let the user of ``limited_access_key`` do this with the bucket, and nothing
        else; the read-only user nothing at all.

        :param statements: ``Action`` and ``Resource`` of each, and ``Effect`` if it is
            not to allow
        """
        if not self._has_limited:
            self._make_user(
                'limited', self.limited_access_key, self.limited_secret_key, -1
            )
            self._has_limited = True
        self._allow(bucket, 'limited', statements)

    def _allow(
        self, bucket: str, user: str, statements: Sequence[dict[str, Any]]
    ) -> None:
        who = {
            'Effect': 'Allow',
            'Principal': {'AWS': [f'arn:aws:iam:::user/{user}']},
        }
        policy = {
            'Version': '2012-10-17',
            'Statement': [who | statement for statement in statements],
        }
        self._client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


_CEPH_CONF = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = v1:127.0.0.1:{mon_port}
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = /dev/null
mon data = {directory}/mon
osd data = {directory}/osd
run dir = {directory}
log file = {directory}/log/$name.log
admin socket =
# One OSD, one copy, few placement groups: a new pool is usable at once.
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
osd crush chooseleaf type = 0
# Each of the many map changes of a start would wait a second for company.
paxos propose interval = 0.05
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 34359738368
osd memory target = 1073741824
[client.rgw]
# Without tcp_nodelay every answer with a body takes 40 ms more.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1{secure}
rgw dns name = {domain}
rgw enable usage log = false
# Space of deleted objects comes back in a minute, not in two hours.
rgw gc obj min wait = 60
rgw gc processor period = 60
"""
