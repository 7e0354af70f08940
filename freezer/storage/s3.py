"""Backups in S3-compatible object storage: the storage contract in S3's terms.

The container is ``bucket`` or ``bucket/prefix``; below it the keys are Freezer's. A
stream becomes multipart uploads (``_s3/upload.py``), a restore ranged GETs
(``_s3/download.py``); the rest is small objects and listings.
"""

import logging
import os
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from oslo_config import cfg

from freezer.storage import manifest
from freezer.storage._s3 import keys
from freezer.storage.base import Backup, Named, StorageSettings
from freezer.storage.exceptions import (
    IntegrityError,
    NotFound,
    StorageConfigError,
    StorageException,
)
from freezer.storage.physical import PhysicalStorage
from freezer.storage.verify import Stat
from freezer.utils.streaming import Block, RichQueue

if TYPE_CHECKING:
    from freezer.storage._s3.bucket import Bucket
    from freezer.storage._s3.journal import Entry, Journal

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


class S3Storage(PhysicalStorage):
    """One bucket, below an optional prefix.

    :param endpoint: ``http(s)://host[:port]``
    :param container: ``bucket`` or ``bucket/prefix``
    :param max_segment_size: bytes of every part but the last; parts of less than 5 MiB
        are not possible on S3, so less counts as 5 MiB
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
        self.options = options or S3Options()
        bundle = self.options.ca_bundle
        if bundle and not os.access(bundle, os.R_OK):
            raise StorageConfigError(f's3-ca-bundle {bundle}: cannot be read')
        self._access_key = access_key
        self._secret_key = secret_key
        self._claims: dict[str, list[str]] = {}
        self._entries: dict[str, Entry] = {}
        self._opened: Bucket | None = None
        super().__init__(container, max_segment_size, skip_prepare)

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
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
        """The wire, opened at its first use: botocore takes 0.3 s to import."""
        if self._opened is None:
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
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def prepare(self) -> None:
        """Make the bucket if it is not there; needs no list of all buckets."""
        if not self._bucket.exists():
            self._bucket.create()
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

    def write_backup(self, rich_queue: RichQueue, backup: Backup) -> None:
        from freezer.storage._s3.journal import Entry
        from freezer.storage._s3.upload import Plan, StreamUpload

        backup = backup.copy(self)
        path = backup.data_prefix_path
        plan = Plan(
            part_size=max(self.max_segment_size, MIN_PART_SIZE),
            parts_per_volume=max(1, int(self.options.max_parts * USED_OF_MAX_PARTS)),
            concurrency=self.options.concurrency,
        )
        token = secrets.token_hex(16)
        entry = self._entries.get(path) or Entry(None)
        upload = StreamUpload(
            self._bucket, keys.key_of(path), plan, token, opened=entry.add
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
            yield from read_object(self._bucket, key, workers)
        except NotFound as error:
            # Freezer 19 lists backups whose upload had failed.
            raise IntegrityError(
                f'{error.message}; the backup is listed and has no data: its upload '
                f'failed'
            ) from error

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        from freezer.storage._s3.download import read_pieces

        workers = self.options.concurrency
        return read_pieces(self._bucket, keys.key_of(path), etag, pieces, workers)

    # Paths

    def stat(self, path: str) -> Stat:
        head = self._bucket.head(keys.key_of(path))
        return Stat(head.size, head.etag or None)

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

    def remove_older_than(
        self,
        engine: Named,
        remove_older_timestamp: int,
        hostname_backup_name: str,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> list[list[Backup]]:
        if not dry_run:
            self._journal.clean_up(self._bucket)
        return super().remove_older_than(
            engine, remove_older_timestamp, hostname_backup_name, keep, dry_run
        )

    def rmtree(self, path: str) -> None:
        prefix = keys.tree_prefix(path)
        self._bucket.delete([item.key for item in self._bucket.list(prefix)])


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
