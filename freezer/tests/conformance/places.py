"""Containers to test drivers on, each with a way to it that is not the driver's."""

import abc
import contextlib
import urllib.error
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions

from freezer.storage._s3.options import MIN_PART_SIZE, OPTIONS
from freezer.storage.base import Storage, StorageSettings
from freezer.storage.ftp import options as ftp_options
from freezer.storage.ftp.storage import FtpsStorage, FtpStorage
from freezer.storage.local.storage import LocalStorage
from freezer.storage.repository import Repository
from freezer.storage.s3 import S3Storage
from freezer.storage.ssh import options as ssh_options
from freezer.storage.ssh.storage import SshStorage
from freezer.storage.swift import options as swift_options
from freezer.storage.swift.storage import SwiftStorage
from freezer.tests import servers
from freezer.tests.conformance.variants import Way
from freezer.tests.servers.ftpd import Pyftpd, Vsftpd
from freezer.tests.servers.sshd import Sshd
from freezer.tests.servers.swift import SwiftS3

PART = MIN_PART_SIZE
# Of max_parts nine tenths are used: three parts a volume.
MAX_PARTS = 4
PARTS_PER_VOLUME = 3


class Place(abc.ABC):
    """A container that does not exist before the driver prepares it."""

    @property
    def members(self) -> 'Sequence[Place]':
        """The containers of which each has all backups."""
        return [self]

    def repository(self, **rates: Any) -> Repository:
        """Another one, as another agent would have it.

        :param rates: ``sending`` and ``receiving``
        """
        return Repository(self.storages(**rates))

    def storages(self, **rates: Any) -> dict[str, Storage]:
        return {'': self.storage(**rates)}

    @abc.abstractmethod
    def storage(self, **rates: Any) -> Storage:
        """Another driver object."""

    @abc.abstractmethod
    def files(self) -> dict[str, int]:
        """Size of everything there, by its path below the container."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes: ...

    @abc.abstractmethod
    def write(self, path: str, content: bytes) -> None: ...

    @abc.abstractmethod
    def delete(self, path: str) -> None: ...

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that are open."""
        return []

    @property
    def keeps_backslash(self) -> bool:
        """Whether a backslash in a name stays one."""
        return True


class LocalPlace(Place):
    def __init__(self, root: Path) -> None:
        self.root = root

    def storage(self, **rates: Any) -> LocalStorage:
        return LocalStorage.from_settings(
            StorageSettings(str(self.root), PART, **rates)
        )

    def files(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.root)): path.stat().st_size
            for path in self.root.rglob('*')
            if path.is_file()
        }

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content)

    def delete(self, path: str) -> None:
        (self.root / path).unlink()


class SshPlace(LocalPlace):
    """A directory of an SSH server, which is on this machine."""

    def __init__(self, server: Sshd, root: Path) -> None:
        super().__init__(root)
        self.server = server

    def storage(self, **rates: Any) -> SshStorage:  # type: ignore[override]
        given = ssh_options.OPTIONS.defaults() | self.server.options()
        # What should be final must not take minutes to show that it is not.
        given['ssh_retry_budget'] = 5.0
        options = {n: rates.pop(n) for n in list(rates) if n.startswith('ssh_')}
        return SshStorage.from_settings(
            StorageSettings(str(self.root), PART, options=given | options, **rates)
        )


class FtpPlace(LocalPlace):
    """A directory of an FTP server, which is on this machine."""

    def __init__(self, server: Pyftpd | Vsftpd, root: Path) -> None:
        super().__init__(root)
        self.server = server

    def storage(self, **rates: Any) -> FtpStorage:  # type: ignore[override]
        given = ftp_options.OPTIONS.defaults() | self.server.options()
        # What should be final must not take minutes to show that it is not.
        given['ftp_retry_budget'] = 5.0
        options = {n: rates.pop(n) for n in list(rates) if n.startswith('ftp_')}
        kind = FtpsStorage if self.server.tls else FtpStorage
        return kind.from_settings(
            StorageSettings(str(self.root), PART, options=given | options, **rates)
        )


@dataclass
class SwiftPlace(Place):
    """A container, which the test comes to through Swift's own API."""

    server: SwiftS3
    container: str
    prefix: str = 'a prefix/ü'

    def storage(self, **options: Any) -> SwiftStorage:
        rates = {n: options.pop(n) for n in ('sending', 'receiving') if n in options}
        given = swift_options.OPTIONS.defaults() | self.server.options()
        # What should be final must not take minutes to show that it is not.
        given['swift_retry_budget'] = 5.0
        return SwiftStorage.from_settings(
            StorageSettings(
                f'{self.container}/{self.prefix}',
                PART,
                options={**given, **options},
                **rates,
            )
        )

    def files(self) -> dict[str, int]:
        start = f'{self.prefix}/'
        try:
            found = self.server.account.keys(self.container, start)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {}
        return {key.removeprefix(start): size for key, size in found.items()}

    def read(self, path: str) -> bytes:
        return self.server.account.get(self.container, f'{self.prefix}/{path}')

    def write(self, path: str, content: bytes) -> None:
        self.server.account.make(self.container)
        self.server.account.put(self.container, f'{self.prefix}/{path}', content)

    def delete(self, path: str) -> None:
        self.server.account.delete(self.container, f'{self.prefix}/{path}')

    def remove(self) -> None:
        """Give back the space: the server lives as long as all tests."""
        self.server.account.remove(self.container)


@dataclass
class S3Place(Place):
    """A bucket, to which the driver and we may come in different ways."""

    server: servers.Server
    bucket: str
    prefix: str
    way: Way

    @property
    def keeps_backslash(self) -> bool:
        return self.server.properties.keeps_backslash

    def storage(self, **options: Any) -> S3Storage:
        given = OPTIONS.defaults() | {
            'access_key': self.server.access_key,
            'secret_key': self.server.secret_key,
            'endpoint': self.way.endpoint,
            's3_max_parts': MAX_PARTS,
            # What should be final must not take minutes to show that it is not.
            's3_retry_budget': 5.0,
        }
        rates = {n: options.pop(n) for n in ('sending', 'receiving') if n in options}
        return S3Storage.from_settings(
            StorageSettings(
                f'{self.bucket}/{self.prefix}',
                PART,
                proxy=self.way.proxy,
                options={**given, **self.way.options, **options},
                **rates,
            )
        )

    def files(self) -> dict[str, int]:
        start = f'{self.prefix}/'
        return {
            key.removeprefix(start): size
            for key, size in self.server.keys(self.bucket, start).items()
        }

    def read(self, path: str) -> bytes:
        return self.server.get(self.bucket, f'{self.prefix}/{path}')

    def write(self, path: str, content: bytes) -> None:
        self.server.put(self.bucket, f'{self.prefix}/{path}', content)

    def delete(self, path: str) -> None:
        self.server.delete(self.bucket, f'{self.prefix}/{path}')

    def uploads(self) -> list[str]:
        return [key for key, _id in self.server.uploads(self.bucket)]

    def remove(self) -> None:
        """Give back the space: the server lives as long as all tests."""
        with contextlib.suppress(botocore.exceptions.ClientError):
            for key in self.server.keys(self.bucket):
                self.server.delete(self.bucket, key)


class MultiplePlace(Place):
    """Everything done here is done to each member."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = places

    @property
    def members(self) -> Sequence[Place]:
        return list(self.places.values())

    def storages(self, **rates: Any) -> dict[str, Storage]:
        return {name: place.storage(**rates) for name, place in self.places.items()}

    def storage(self, **rates: Any) -> Storage:
        raise AssertionError('several storages: use storages()')

    def files(self) -> dict[str, int]:
        return {
            f'{name}:{path}': size
            for name, place in self.places.items()
            for path, size in place.files().items()
        }

    def read(self, path: str) -> bytes:
        (content,) = {place.read(path) for place in self.members}
        return content

    def write(self, path: str, content: bytes) -> None:
        for place in self.members:
            place.write(path, content)

    def delete(self, path: str) -> None:
        for place in self.members:
            place.delete(path)

    def uploads(self) -> list[str]:
        return [key for place in self.members for key in place.uploads()]

    @property
    def keeps_backslash(self) -> bool:
        return all(place.keeps_backslash for place in self.members)


def new_s3_place(server: servers.Server, way: Way | None = None) -> S3Place:
    bucket = f'conformance-{uuid.uuid4().hex[:12]}'
    return S3Place(server, bucket, 'a prefix/ü', way or Way(server.endpoint))


def new_swift_place(server: SwiftS3) -> SwiftPlace:
    return SwiftPlace(server, f'conformance {uuid.uuid4().hex[:12]} ü%')
