"""Backups in S3-compatible object storage: the storage contract in S3's terms.

The container is ``bucket`` or ``bucket/prefix``; below it the keys are Freezer's. A
stream becomes multipart uploads (``_s3/upload.py``), a restore ranged GETs
(``_s3/download.py``); the rest is small objects and listings.

It runs inside Freezer 19.0.0 as well (``tools/install-into-freezer.sh``).
"""

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import six

from freezer.storage import layout, manifest
from freezer.storage._s3 import keys
from freezer.storage._s3.options import MIN_PART_SIZE, STALE_AFTER, S3Options
from freezer.storage.base import Backup
from freezer.storage.exceptions import (
    AccessDenied,
    BucketNotFound,
    Conflict,
    IntegrityError,
    NotFound,
    StorageConfigError,
    StorageException,
)
from freezer.storage.housekeeping import OldVersions, Tidied
from freezer.storage.manifested import Manifested
from freezer.storage.verify import Stat
from freezer.utils import collection
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    # Not at run time: inside Freezer 19 its own modules of these names are there.
    from freezer.storage._s3.bucket import Bucket
    from freezer.storage._s3.claim import Claim
    from freezer.storage._s3.journal import Entry, Journal
    from freezer.storage._s3.survey import Survey
    from freezer.storage._s3.upload import Plan
    from freezer.storage.base import Named, StorageSettings
    from freezer.storage.check import CheckReport
    from freezer.storage.levels import LevelPolicy
    from freezer.storage.manifest import Manifest
    from freezer.utils.streaming import RichQueue

LOG = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAX_PART_SIZE = 5 * 2**30
# What is being written, for the next run to clean up should this one die.
JOURNAL = '~/.freezer/uploads'
# A volume ends well before the store's limit of parts: SeaweedFS counts retried
# parts as well (seaweedfs #6821).
USED_OF_MAX_PARTS = 0.9


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
        self.options = options or S3Options.configured()
        self.options.check(
            endpoint,
            keys.bucket_of(container),
            (access_key, secret_key),
            self._part_size(max_segment_size),
        )
        self._access_key = access_key
        self._secret_key = secret_key
        self._claims: dict[str, Claim] = {}
        self._manifests: dict[str, Manifest] = {}
        self._entries: dict[str, Entry] = {}
        self._opened: Bucket | None = None
        self._opened_by = 0
        self._survey: Survey | None = None
        self._cancelled = threading.Event()
        super().__init__(container, max_segment_size, skip_prepare)

    @classmethod
    def from_settings(cls, settings: 'StorageSettings') -> Self:
        given = settings.options
        profile = given.get('s3_profile')
        missing = [
            name
            for name, value in (
                ('access-key', profile or given['access_key']),
                ('secret-key', profile or given['secret_key']),
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
        options = S3Options(
            **group,
            insecure=settings.insecure,
            proxy=settings.proxy,
            sending=settings.sending,
            receiving=settings.receiving,
            progress=settings.progress,
        )
        try:
            return cls(
                given['access_key'],
                given['secret_key'],
                given['endpoint'],
                settings.container,
                settings.max_segment_size,
                skip_prepare=True,
                options=options,
            )
        except StorageConfigError as error:
            if not settings.name:
                raise
            raise StorageConfigError(f'{settings.section}: {error.message}') from error

    @staticmethod
    def _part_size(max_segment_size: int) -> int:
        return max(max_segment_size, MIN_PART_SIZE)

    def __repr__(self) -> str:
        return f'<S3Storage {self.container} at {self.endpoint}>'

    @property
    def _bucket(self) -> 'Bucket':
        """The wire, opened at its first use: botocore takes 0.3 s to import.

        Opened again in a child process, of which Freezer 19 forks two for a restore:
        they must not talk over the same connections.
        """
        if self._opened is None or self._opened_by != os.getpid():
            with collection.suspended():
                self._opened = self._open(self.options)
            self._opened_by = os.getpid()
        return self._opened

    def _open(self, options: S3Options) -> 'Bucket':
        from freezer.storage._s3.bucket import Bucket
        from freezer.storage._s3.client import (
            COMPLETE_READ_TIMEOUT,
            Credentials,
            make_client,
        )
        from freezer.storage._s3.clock import StoreClock
        from freezer.storage._s3.parameters import Parameters
        from freezer.storage._s3.retry import Retry
        from freezer.storage._s3.wire import Wire

        credentials = Credentials(self._access_key, self._secret_key, options)
        wire = Wire(options.sending, options.receiving)
        clock = StoreClock(self.endpoint)

        def client(read_timeout: float | None = None) -> Any:
            made = make_client(credentials, self.endpoint, options, read_timeout)
            wire.attach(made)
            clock.attach(made)
            return made

        patience = max(COMPLETE_READ_TIMEOUT, options.read_timeout)
        return Bucket(
            keys.bucket_of(self.container),
            self.endpoint,
            client(),
            lambda: client(patience),
            Retry(options.retry_budget, wire.now, progress=options.progress),
            secrets=credentials.secrets,
            parameters=Parameters(options),
            list_version=options.list_version,
            wire=wire,
            clock=clock,
            progress=options.progress,
        )

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def prepare(self) -> None:
        self._make_ready()
        self._journal.clean_up(self._bucket)

    def _make_ready(self) -> None:
        """Make the bucket if it is not there; needs no list of all buckets."""
        if not self._bucket.exists():
            self._make_bucket()
        elif self.options.locks and not self._bucket.locks_objects():
            # Told here, because most stores tell it after the first volume.
            raise StorageConfigError(
                f'{self._bucket.url()} at {self.endpoint} has no object lock, which '
                f's3-object-lock-mode and s3-legal-hold need; most stores have to be '
                f'told when a bucket is made'
            )

    def _make_bucket(self) -> None:
        if not self.options.create_bucket:
            raise BucketNotFound(
                f'{self._bucket.url()} at {self.endpoint} does not exist, and is not '
                f'to be made (s3-create-bucket is off): check --container and '
                f'--endpoint'
            )
        try:
            self._bucket.create(locks=self.options.locks)
        except AccessDenied as error:
            raise BucketNotFound(
                f'{self._bucket.url()} at {self.endpoint} does not exist, and the keys '
                f'may not make it: check --container, or have it made: {error.message}'
            ) from error

    @property
    def _journal(self) -> 'Journal':
        from freezer.storage._s3.journal import Journal

        return Journal(Path(JOURNAL).expanduser())

    def check(self) -> 'CheckReport':
        from freezer.storage._s3.check import check, hint
        from freezer.storage._s3.scratch import Scratch
        from freezer.storage.check import CheckReport

        folder = layout.join(self.container, layout.CHECK, secrets.token_hex(16))
        # Locks are tried out apart: what else is written must be removable.
        bucket = self._open(
            replace(
                self.options,
                object_lock_mode=None,
                object_lock_days=None,
                legal_hold=False,
            )
        )
        scratch = Scratch(bucket, keys.key_of(folder), self._plan, self.options)
        try:
            rows = check(scratch, self._make_ready)
        except StorageException as error:
            advice = hint(
                error,
                self._bucket,
                self.options.addressing_style,
                lambda style: self._open(replace(self.options, addressing_style=style)),
            )
            if not advice:
                raise
            raise type(error)(f'{error.message}; {advice}') from error
        finally:
            bucket.close()
        return CheckReport(self.container, rows)

    # A backup

    def plan(
        self,
        engine: 'Named',
        hostname_backup_name: str,
        policy: 'LevelPolicy',
        now: float,
    ) -> tuple[Backup | None, int]:
        """For keys that may not list, a new chain, if that is what is asked for."""
        try:
            return super().plan(engine, hostname_backup_name, policy, now)
        except AccessDenied as error:
            if policy.needs_listing:
                raise AccessDenied(
                    f'{error.message}; keys that may not list can make full backups '
                    f'only: without --incremental, and without removing old ones'
                ) from error
            LOG.info('what is there is not known: %s', error.message)
            return None, 0

    def claim(self, backup: Backup) -> None:
        from freezer.storage._s3 import claim
        from freezer.storage._s3.journal import Place

        self._cancelled.clear()
        backup = backup.copy(self)
        path = backup.data_prefix_path
        keys.check_folder(path)
        folder, marker = keys.key_of(path), keys.key_of(backup.metadata_path)
        self._claims[path] = claim.take(self._bucket, folder)
        place = Place(self.endpoint, self._bucket.name, folder, marker)
        self._entries[path] = self._journal.begin(place)

    @property
    def _plan(self) -> 'Plan':
        from freezer.storage._s3.upload import Plan

        part_size = self._part_size(self.max_segment_size)
        by_count = int(self.options.max_parts * USED_OF_MAX_PARTS)
        by_size = self.options.max_object_size // part_size
        return Plan(
            part_size=part_size,
            parts_per_volume=max(1, min(by_count, by_size)),
            concurrency=self.options.at_once(part_size),
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
            self._bucket,
            keys.key_of(path),
            self._plan,
            token,
            opened=entry.add,
            cancelled=self._cancelled,
        )
        try:
            written = upload.write(rich_queue.get_messages())
        finally:
            if upload.left_behind:
                entry.keep()
        self._tokens[path] = token
        self._manifests[path] = written
        LOG.info(
            'stored %s: %d bytes in %d volumes',
            self._bucket.url(keys.key_of(path)),
            written.size,
            len(written.volumes),
        )

    def cancel(self) -> None:
        self._cancelled.set()

    def put_metadata(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        from freezer.storage._s3.threads import beside

        backup = backup.copy(self)
        path = backup.data_prefix_path
        claim = self._claims.get(path)
        token = self._tokens.get(path)
        # Before the marker: keys that may only write could not take it away.
        with beside(lambda: self._read_back(backup)) as read_back:
            self.put_file(engine_metadata_path, backup.engine_metadata_path)
        blind = read_back.result()
        if blind and claim is not None and not claim.stands_unseen(self._bucket):
            raise self._taken_for_dead(path)
        self.put_marker(engine_metadata_path, freezer_metadata_path, backup)
        if not blind:
            self._look_last(backup, token, claim)
        self._close_entry(path)
        self._claims.pop(path, None)
        if claim is None:
            return
        self._say_unseen(path, claim, blind)
        if not claim.listed:
            # It goes on keeping others out, as a listing cannot.
            return
        try:
            self._bucket.delete(claim.keys)
        except StorageException as error:
            # The backup is committed; a claim left behind does it no harm.
            LOG.warning('a claim remains: %s', error.message)

    def _look_last(
        self, backup: Backup, token: str | None, claim: 'Claim | None'
    ) -> None:
        """See that the marker is there, and that nobody took the claim away.

        After the marker was written: whoever took the claim away before this looks for
        the marker after it.

        :raises IntegrityError: the store does not have the marker
        :raises Conflict: the claim is gone
        """
        from freezer.storage._s3.threads import beside

        def stands() -> bool:
            return claim is None or claim.stands(self._bucket)

        with beside(stands) as standing:
            if token and backup.metadata().get(manifest.MARKER_KEY) != token:
                raise IntegrityError(
                    f'{self._bucket.url(keys.key_of(backup.metadata_path))} at '
                    f'{self.endpoint} is not what was written: run the backup again'
                )
        if not standing.result():
            raise self._taken_for_dead(backup.data_prefix_path)

    def _read_back(self, backup: Backup) -> bool:
        """See that the store has what it confirmed; whether the keys may not look.

        :raises IntegrityError: the store does not have it
        """
        from freezer.storage._s3.sight import Sight
        from freezer.storage._s3.threads import beside
        from freezer.storage._s3.upload import confirm

        path = backup.data_prefix_path
        written = self._manifests.pop(path, None)
        if written is None:
            return False
        sight = Sight()
        marker = {manifest.MARKER_KEY: written.token}
        with beside(
            lambda: sight.look(lambda: self.manifest_of(backup, marker))
        ) as look:
            confirm(self._bucket, keys.key_of(path), written, sight)
        found = look.result()
        if found is not None and found != written:
            raise IntegrityError(
                f'{self._bucket.url(keys.key_of(path))} at {self.endpoint}: the '
                f'manifest is not what was written: run the backup again'
            )
        return sight.blind

    def _taken_for_dead(self, path: str) -> Conflict:
        return Conflict(
            f'{self._bucket.url(keys.key_of(path))} at {self.endpoint}: another '
            f'machine took this backup for dead (s3-stale-after), and may have deleted '
            f'some of it: run it again, and raise --s3-stale-after there'
        )

    def _say_unseen(self, path: str, claim: 'Claim', blind: bool) -> None:
        """One line about what could not be looked at, if there is something."""
        unseen = []
        if blind:
            unseen.append(
                'the keys may not read it (s3:GetObject), so it was not read back: '
                'that the store confirmed every object is what is known'
            )
        if not claim.listed:
            unseen.append(
                'the keys may not list (s3:ListBucket), so other backups of this name '
                'are not known'
                + ('' if claim.exclusive else ', nor kept from the same second')
            )
        if unseen:
            where = f'{self._bucket.url(keys.key_of(path))} at {self.endpoint}'
            NOTICES.warning('%s is stored; %s', where, '; '.join(unseen))

    def discard(self, backup: Backup) -> None:
        path = backup.copy(self).data_prefix_path
        self._claims.pop(path, None)
        self._manifests.pop(path, None)
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
        found = self.manifest_to_read(backup)
        at_once = self.options.at_once
        if found is not None:
            folder = keys.key_of(backup.data_prefix_path)
            yield from read_stream(self._bucket, folder, found, at_once)
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
        yield from read_object(self._bucket, key, head, at_once)

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        from freezer.storage._s3.download import read_pieces

        return read_pieces(
            self._bucket, keys.key_of(path), etag, pieces, self.options.at_once
        )

    # Paths

    def stat(self, path: str) -> Stat:
        head = self._bucket.head(keys.key_of(path))
        return Stat(
            head.size,
            head.etag or None,
            head.storage_class,
            head.lock_mode,
            head.locked_until,
            head.legal_hold,
        )

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        prefix = keys.tree_prefix(path)
        for item in (self._survey or self._bucket).list(prefix):
            yield item.key[len(prefix) :], item.size

    def listdir(self, path: str) -> list[str]:
        return sorted(set(self._bucket.list_children(keys.tree_prefix(path))))

    def create_dirs(self, path: str) -> None:
        """Nothing: keys have no directories."""

    def put_file(self, from_path: str, to_path: str) -> None:
        with open(from_path, 'rb') as stream:
            self.put_bytes(to_path, stream.read())

    def put_bytes(self, to_path: str, content: bytes) -> None:
        from freezer.storage._s3.parameters import Kind

        self._bucket.put(keys.key_of(to_path), content, Kind.RECORD)

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

    # Housekeeping

    def time(self) -> float:
        return self._bucket.store_time()

    @property
    def tidies(self) -> bool:
        return self.options.stale_after is not None or self.options.purge_versions

    @contextlib.contextmanager
    def housekeeping(self) -> Iterator[None]:
        self._survey = self._new_survey()
        try:
            yield
        finally:
            self._survey = None

    def _new_survey(self) -> 'Survey':
        from freezer.storage._s3.survey import Survey

        return Survey(self._bucket, keys.tree_prefix(self.container))

    def tidy(self, dry_run: bool = False) -> Tidied:
        from freezer.storage._s3 import leftovers

        bucket = self._bucket
        survey = self._survey or self._new_survey()
        found = self._journal.clean_up(bucket, dry_run=dry_run)
        # What the journal named is not to be counted twice in a dry run.
        live = self._journal.folders(bucket)
        after = self.options.stale_after
        after = STALE_AFTER if after is None else after
        found += leftovers.clear_stale(bucket, survey, live, after, dry_run=dry_run)
        return Tidied(tuple(found), self._old_versions(dry_run))

    def _old_versions(self, dry_run: bool) -> tuple[OldVersions, ...]:
        from freezer.storage._s3 import leftovers

        root = keys.tree_prefix(self.container)
        purge = self.options.purge_versions
        if not self._bucket.keeps_versions(must_know=purge):
            return ()
        count = size = 0
        for version in leftovers.old_versions(self._bucket, root):
            count += 1
            size += version.size
        if purge and not dry_run:
            leftovers.purge(self._bucket, root)
        if not count:
            return ()
        return (OldVersions(self._bucket.url(root), count, size, purge),)

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
        blocks = read_object(bucket, key, head, self.options.at_once)
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
        from freezer.storage._s3.images import store_image
        from freezer.storage._s3.journal import Place

        path = layout.join(self.container, package_name)
        folder = keys.key_of(path)
        marker = layout.join(folder, layout.METADATA)
        place = Place(self.endpoint, self._bucket.name, folder, marker)
        store_image(
            self._bucket,
            stream,
            layout.join(folder, package_name.rpartition('/')[0]),
            headers,
            self._plan,
            self._journal.begin(place),
        )


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
