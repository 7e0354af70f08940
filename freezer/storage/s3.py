"""Backups in S3-compatible object storage: the storage contract in S3's terms.

The container is ``bucket`` or ``bucket/prefix``; below it the keys are Freezer's. A
stream becomes multipart uploads (``_s3/upload.py``), a restore ranged GETs
(``_s3/download.py``); the rest is small objects and listings.

It runs inside Freezer 19.0.0 as well (``tools/install-into-freezer.sh``).
"""

import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import six
from oslo_config import cfg

from freezer.storage import layout
from freezer.storage._s3 import keys
from freezer.storage.base import Backup
from freezer.storage.exceptions import (
    IntegrityError,
    NotFound,
    StorageConfigError,
    StorageException,
)
from freezer.storage.manifested import Manifested
from freezer.utils.blocks import Block

if TYPE_CHECKING:
    # Not at run time: inside Freezer 19 its own modules of these names are there.
    from freezer.storage._s3.bucket import Bucket
    from freezer.storage._s3.journal import Entry, Journal
    from freezer.storage._s3.upload import Plan
    from freezer.storage.base import StorageSettings
    from freezer.utils.streaming import RichQueue

LOG = logging.getLogger(__name__)

MIB = 1024 * 1024
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MIN_PART_SIZE = 5 * MIB
MAX_PART_SIZE = 5 * 1024 * MIB
# What is being written, for the next run to clean up should this one die.
JOURNAL = '~/.freezer/uploads'
# A volume ends well before the store's limit of parts: SeaweedFS counts retried
# parts as well (seaweedfs #6821).
USED_OF_MAX_PARTS = 0.9

KEY_OPTS = (
    cfg.StrOpt(
        'access-key',
        default='',
        secret=True,
        help='S3 access key. Also from ACCESS_KEY in the environment.',
    ),
    cfg.StrOpt(
        'secret-key',
        default='',
        secret=True,
        help='S3 secret key. Also from SECRET_KEY in the environment, where, unlike '
        'on the command line, other users of the machine cannot see it.',
    ),
    cfg.StrOpt(
        'endpoint',
        default='',
        help='Where the S3 service is, as in https://s3.example.com:8443. Also from '
        'ENDPOINT in the environment.',
    ),
)

S3_OPTS = (
    cfg.StrOpt(
        'region',
        default='us-east-1',
        help='Region that requests are signed for. Cloudflare R2 takes auto, Garage '
        'its own name.',
    ),
    cfg.StrOpt(
        'addressing-style',
        default='path',
        choices=['auto', 'path', 'virtual'],
        help='Whether the bucket is in the path or in the host name of a URL.',
    ),
    cfg.StrOpt(
        'ca-bundle',
        help='File with the certificates of the authorities to trust, PEM.',
    ),
    cfg.FloatOpt(
        'connect-timeout', default=10.0, min=0.1, help='Seconds to wait to connect.'
    ),
    cfg.FloatOpt(
        'read-timeout',
        default=60.0,
        min=0.1,
        help='Seconds to wait for the next bytes of an answer.',
    ),
    cfg.FloatOpt(
        'retry-budget',
        default=900.0,
        min=0.0,
        help='Seconds that one request may take with all its repetitions, once the '
        'store has answered at all; before, 20 seconds at most.',
    ),
    cfg.IntOpt(
        'concurrency',
        default=4,
        min=1,
        max=64,
        help='Parts or ranges under way at once. An upload holds one part more than '
        'that in memory.',
    ),
    cfg.IntOpt(
        'max-parts',
        default=10000,
        min=2,
        max=10000,
        help='Parts that one object may have at this store: 1000 at Swift and '
        'Scaleway. At nine tenths of it the next object is begun.',
    ),
)


@dataclass(frozen=True)
class S3Options:
    """The options of group ``s3``, and what applies to every storage.

    :param ca_bundle: path of a PEM file; None for the system's authorities
    :param connect_timeout: seconds
    :param read_timeout: seconds
    :param retry_budget: seconds
    :param concurrency: parts or ranges under way at once
    :param max_parts: parts an object may have
    :param insecure: do not check the server's certificate
    :param proxy: URL of an HTTP proxy
    """

    region: str = 'us-east-1'
    addressing_style: str = 'path'
    ca_bundle: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retry_budget: float = 900.0
    concurrency: int = 4
    max_parts: int = 10000
    insecure: bool = False
    proxy: str | None = None


def _configured() -> S3Options:
    """The options inside Freezer 19, which hands on none.

    It reads its configuration files and OS_* variables, and so group ``s3`` in them.
    """
    cfg.CONF.register_opts(S3_OPTS, 's3')
    return S3Options(**{option.dest: cfg.CONF.s3[option.dest] for option in S3_OPTS})


class S3Storage(Manifested):
    """One bucket, below an optional prefix.

    :param endpoint: ``http(s)://host[:port]``
    :param container: ``bucket`` or ``bucket/prefix``
    :param max_segment_size: bytes of every part but the last; parts of less than 5 MiB
        are not possible on S3, so less counts as 5 MiB
    :param options: without, those of group ``s3`` in oslo.config's global object
    :raises StorageConfigError: something is missing or malformed; nothing was tried
    """

    _type = 's3'
    OPTIONS: ClassVar[Mapping[str | None, Sequence[Any]]] = {
        None: KEY_OPTS,
        's3': S3_OPTS,
    }

    def __init__(
        self,
        access_key: str,
        secret_key: str,
        endpoint: str,
        container: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        options: S3Options | None = None,
    ) -> None:
        keys.check_endpoint(endpoint)
        container = container.rstrip('/')
        keys.check_container(container)
        if max_segment_size > MAX_PART_SIZE:
            raise StorageConfigError(
                f'max-segment-size {max_segment_size}: a part on S3 has at most '
                f'{MAX_PART_SIZE} bytes'
            )
        self.endpoint = endpoint
        self.container = container
        self.options = options or _configured()
        bundle = self.options.ca_bundle
        if bundle and not os.access(bundle, os.R_OK):
            raise StorageConfigError(f's3-ca-bundle {bundle}: cannot be read')
        self._access_key = access_key
        self._secret_key = secret_key
        self._claims: dict[str, list[str]] = {}
        self._entries: dict[str, Entry] = {}
        self._opened: Bucket | None = None
        self._opened_by = 0
        super().__init__(container, max_segment_size, skip_prepare)

    @classmethod
    def from_settings(cls, settings: 'StorageSettings') -> Self:
        given = settings.options
        missing = [
            name
            for name, value in (
                ('access-key', given['access_key']),
                ('secret-key', given['secret_key']),
                ('endpoint', given['endpoint']),
                ('container', settings.container),
            )
            if not value
        ]
        if missing:
            raise StorageConfigError(
                f'{settings.section}: storage s3 needs {", ".join(missing)}: these '
                f'sections get nothing from elsewhere'
                if settings.name
                else _how_to_give(missing)
            )
        group = {
            name.removeprefix('s3_'): value
            for name, value in given.items()
            if name.startswith('s3_')
        }
        options = S3Options(insecure=settings.insecure, proxy=settings.proxy, **group)
        return cls(
            given['access_key'],
            given['secret_key'],
            given['endpoint'],
            settings.container,
            settings.max_segment_size,
            skip_prepare=True,
            options=options,
        )

    def __repr__(self) -> str:
        return f'<S3Storage {self.container} at {self.endpoint}>'

    @property
    def _bucket(self) -> 'Bucket':
        """The wire, opened at its first use: botocore takes 0.3 s to import.

        Opened again in a child process, of which Freezer 19 forks two for a restore:
        they must not talk over the same connections.
        """
        if self._opened is None or self._opened_by != os.getpid():
            from freezer.storage._s3.bucket import Bucket
            from freezer.storage._s3.client import COMPLETE_READ_TIMEOUT, make_client
            from freezer.storage._s3.retry import Retry

            def client(read_timeout: float | None = None) -> Any:
                return make_client(
                    self._access_key,
                    self._secret_key,
                    self.endpoint,
                    self.options,
                    read_timeout,
                )

            patience = max(COMPLETE_READ_TIMEOUT, self.options.read_timeout)
            self._opened = Bucket(
                keys.bucket_of(self.container),
                self.endpoint,
                client(),
                lambda: client(patience),
                Retry(self.options.retry_budget),
                secrets=(self._access_key, self._secret_key),
            )
            self._opened_by = os.getpid()
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def prepare(self) -> None:
        """Make the bucket if it is not there; needs no list of all buckets."""
        if not self._bucket.exists():
            self._bucket.create()
        self.clean_up()

    def clean_up(self) -> None:
        self._journal.clean_up(self._bucket)

    @property
    def _journal(self) -> 'Journal':
        from freezer.storage._s3.journal import Journal

        return Journal(Path(JOURNAL).expanduser())

    # A backup

    def claim(self, backup: Backup) -> None:
        from freezer.storage._s3 import claim
        from freezer.storage._s3.journal import Place

        backup = backup.copy(self)
        path = backup.data_prefix_path
        folder, marker = keys.key_of(path), keys.key_of(backup.metadata_path)
        place = Place(self.endpoint, self._bucket.name, folder, marker)
        token = secrets.token_hex(16)
        self._claims[path] = claim.take(self._bucket, folder, token)
        self._entries[path] = self._journal.begin(place)

    @property
    def _plan(self) -> 'Plan':
        from freezer.storage._s3.upload import Plan

        return Plan(
            part_size=max(self.max_segment_size, MIN_PART_SIZE),
            parts_per_volume=max(1, int(self.options.max_parts * USED_OF_MAX_PARTS)),
            concurrency=self.options.concurrency,
        )

    def write_backup(self, rich_queue: 'RichQueue', backup: Backup) -> None:
        from freezer.storage._s3.upload import StreamUpload

        backup = backup.copy(self)
        path = backup.data_prefix_path
        if path not in self._claims:
            # Freezer 19's engine claims nothing.
            self.claim(backup)
        token = secrets.token_hex(16)
        entry = self._entries[path]
        upload = StreamUpload(
            self._bucket, keys.key_of(path), self._plan, token, opened=entry.add
        )
        try:
            written = upload.write(rich_queue.get_messages())
        finally:
            if upload.left_behind:
                entry.keep()
        self._tokens[path] = token
        LOG.info(
            'stored %s: %d bytes in %d volumes',
            self._bucket.url(keys.key_of(path)),
            written.size,
            len(written.volumes),
        )

    def put_metadata(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        super().put_metadata(engine_metadata_path, freezer_metadata_path, backup)
        path = backup.copy(self).data_prefix_path
        self._close_entry(path)
        claims = self._claims.pop(path, [])
        try:
            self._bucket.delete(claims)
        except StorageException as error:
            # The backup is committed; a claim left behind does it no harm.
            LOG.warning('a claim remains: %s', error.message)

    def discard(self, backup: Backup) -> None:
        path = backup.copy(self).data_prefix_path
        self._claims.pop(path, None)
        with self._bucket.cleaning_up():
            super().discard(backup)
        # Not reached where something remains: the next run finds it in the journal.
        self._close_entry(path)

    def _close_entry(self, path: str) -> None:
        entry = self._entries.pop(path, None)
        if entry is not None:
            entry.close()

    def backup_blocks(self, backup: Backup) -> Iterator[Block]:
        from freezer.storage._s3.download import read_object, read_stream

        backup = backup.copy(self)
        found = self.manifest_of(backup)
        workers = self.options.concurrency
        if found is not None:
            folder = keys.key_of(backup.data_prefix_path)
            yield from read_stream(self._bucket, folder, found, workers)
            return
        key = keys.key_of(backup.data_path)
        try:
            head = self._bucket.head(key)
        except NotFound as error:
            # Freezer 19 lists backups whose upload had failed.
            raise IntegrityError(
                f'{error.message}; the backup is listed and has no data: its upload '
                f'failed'
            ) from error
        yield from read_object(self._bucket, key, head, workers)

    # Paths

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        prefix = keys.tree_prefix(path)
        for item in self._bucket.list(prefix):
            yield item.key[len(prefix) :], item.size

    def listdir(self, path: str) -> list[str]:
        return sorted(set(self._bucket.list_children(keys.tree_prefix(path))))

    def create_dirs(self, path: str) -> None:
        """Nothing: keys have no directories."""

    def put_file(self, from_path: str, to_path: str) -> None:
        with open(from_path, 'rb') as stream:
            self.put_bytes(to_path, stream.read())

    def put_bytes(self, to_path: str, content: bytes) -> None:
        self._bucket.put(keys.key_of(to_path), content)

    def get_file(self, from_path: str, to_path: str) -> None:
        content = self.read_file(from_path)
        with open(to_path, 'wb') as stream:
            stream.write(content)

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        return self._bucket.get(keys.key_of(path), limit)

    def delete_files(self, paths: Sequence[str]) -> None:
        self._bucket.delete([keys.key_of(path) for path in paths])

    def rmtree(self, path: str) -> None:
        prefix = keys.tree_prefix(path)
        self._bucket.delete([item.key for item in self._bucket.list(prefix)])

    # What Freezer 19's engines nova and glance and its mode cinder ask of its S3 driver

    def get_storage_info(self) -> tuple[str, str]:
        """Bucket and prefix."""
        return keys.bucket_of(self.container), keys.key_of(self.container)

    def get_bucket_name(self) -> str:
        return self.get_storage_info()[0]

    def get_object_prefix(self) -> str:
        return self.get_storage_info()[1]

    def _checked(self, bucket_name: str) -> 'Bucket':
        if bucket_name != self._bucket.name:
            raise StorageException(
                f'{bucket_name}: this storage is in bucket {self._bucket.name}'
            )
        return self._bucket

    def get_object(self, bucket_name: str, key: str) -> dict[str, Any]:
        """An object of any size: its ``ContentLength`` in bytes, and its ``Body``, a
        file to read from.

        :raises NotFound: there is none
        """
        from freezer.storage._s3.download import as_file, read_object

        bucket = self._checked(bucket_name)
        head = bucket.head(key)
        blocks = read_object(bucket, key, head, self.options.concurrency)
        return {'Body': as_file(blocks), 'ContentLength': head.size}

    def put_object(self, bucket_name: str, key: str, data: bytes | str) -> None:
        """Write a small object. Atomic: whole or not at all."""
        self._checked(bucket_name)
        self.put_bytes(layout.join(bucket_name, key), six.ensure_binary(data))

    def list_all_objects(self, bucket_name: str, prefix: str) -> list[dict[str, Any]]:
        """``Key`` and ``Size`` of every object whose key starts with the prefix."""
        return [
            {'Key': item.key, 'Size': item.size}
            for item in self._checked(bucket_name).list(prefix)
        ]

    def add_stream(
        self,
        stream: Iterable[Block | str],
        package_name: str,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Store an image as one object, and then its headers beside it, as JSON.

        :param package_name: ``<volume id>/<timestamp>``; the image is
            ``<volume id>/<timestamp>/<volume id>`` below the container
        :raises StorageException: it is too long for one object
        """
        from freezer.storage._s3.journal import Place
        from freezer.storage._s3.upload import ObjectUpload

        path = layout.join(self.container, package_name)
        folder = keys.key_of(path)
        marker = layout.join(path, layout.METADATA)
        image = layout.join(folder, package_name.rpartition('/')[0])
        place = Place(self.endpoint, self._bucket.name, folder, keys.key_of(marker))
        entry = self._journal.begin(place)
        token = secrets.token_hex(16)
        upload = ObjectUpload(self._bucket, image, self._plan, token, entry.add)
        try:
            upload.write_object(stream)
            self.put_bytes(marker, json.dumps(headers).encode())
        except BaseException:
            # What was stored goes with the next run.
            entry.keep()
            raise
        finally:
            entry.close()


def _how_to_give(missing: Sequence[str]) -> str:
    """Names what is missing, with the ways there are to give it."""
    names = ', '.join(missing)
    flags = ' '.join(f'--{name} …' for name in missing)
    job_keys = ', '.join(name.replace('-', '_') for name in missing)
    variables = ', '.join(
        'OS_DEFAULT__CONTAINER'
        if name == 'container'
        else name.replace('-', '_').upper()
        for name in missing
    )
    return (
        f'storage s3 needs {names}: give {flags} on the command line, or '
        f'{job_keys} in the job file (--config), or {variables} in the environment'
    )
