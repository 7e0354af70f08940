"""Backups in OpenStack Swift: the storage contract in Swift's terms.

The container is ``container`` or ``container/prefix``; below it the names are
Freezer's. A stream becomes segments and an object that stands for them, which Freezer
19 reads as well (``large.py``).
"""

import logging
import secrets
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Self

from freezer.storage import layout, manifest
from freezer.storage.backup import Backup, PendingBackup, Stat
from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import (
    AccessDenied,
    BucketNotFound,
    OptionsMissing,
    StorageConfigError,
)
from freezer.storage.object_backups import keys
from freezer.storage.object_backups.pending import Names, ObjectPendingBackup
from freezer.storage.object_backups.plan import PATIENCE
from freezer.storage.object_backups.storage import ObjectStorage
from freezer.storage.object_backups.volumes import UploadPlan
from freezer.storage.swift.options import (
    ENVIRONMENT,
    SwiftOptions,
    check_container,
    missing,
)
from freezer.utils.progress import Progress
from freezer.utils.rate import UNLIMITED, Rate

if TYPE_CHECKING:
    from freezer.storage.swift.container import Container

LOG = logging.getLogger(__name__)

#: of one object, unless an operator changed it
MAX_SEGMENT_SIZE = 5 * 2**30
# Smaller ones would only make more requests.
_MIN_SEGMENT_SIZE = 1024 * 1024
# Their names have so many digits. One volume: Freezer 19 knows no more.
_MOST_SEGMENTS = 10**8

#: in messages
NAMES = Names('swift-stale-after', 'reading', 'listings')


class SwiftStorage(ObjectStorage):
    """One container, below an optional prefix.

    :param storage_path: ``container`` or ``container/prefix``
    :param max_segment_size: bytes of every segment but the last
    :param others_wait: whether other storages, with the same backup, wait for this one
    """

    _type = 'swift'
    needs_utf8 = True

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        options: SwiftOptions,
        progress: Progress | None = None,
        others_wait: Callable[[], bool] = bool,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self.container = storage_path.rstrip('/')
        check_container(self.container)
        if max_segment_size > MAX_SEGMENT_SIZE:
            raise StorageConfigError(
                f'max-segment-size {max_segment_size}: an object on Swift has at most '
                f'{MAX_SEGMENT_SIZE} bytes'
            )
        self.options = options
        self._progress = progress
        self._others_wait = others_wait
        self._rates = sending, receiving
        self._opened: Container | None = None
        self._lock = threading.Lock()
        super().__init__(self.container, max_segment_size, skip_prepare)

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        given = settings.options
        where = f'{settings.section}: ' if settings.name else ''
        if not settings.container:
            raise StorageConfigError(
                f'{where}storage swift needs a container: give --container … on the '
                f'command line, or container in the job file (--config)'
            )
        try:
            options = SwiftOptions.parse(given, settings.insecure, settings.proxy)
            storage = cls(
                settings.container,
                settings.max_segment_size,
                skip_prepare=True,
                options=options,
                progress=settings.progress,
                others_wait=settings.others_wait,
                sending=settings.sending,
                receiving=settings.receiving,
            )
            needed = missing(given)
            if not needed:
                # Imported last: it finds out whether a package is missing.
                from freezer.storage.swift.login import check_packages

                check_packages(options.login)
        except StorageConfigError as error:
            if not settings.name:
                raise
            raise StorageConfigError(f'{where}{error.message}') from error
        if needed and settings.name:
            raise StorageConfigError(
                f'{where}storage swift needs {", ".join(needed)} in this section'
            )
        if needed:
            # Last, because another environment may set them.
            raise OptionsMissing(_how_to_give(needed), storage)
        return storage

    def __repr__(self) -> str:
        return f'<SwiftStorage {self.container} at {self.options.login.where}>'

    @property
    def _bucket(self) -> 'Container':
        """The container, with connections that are opened at its first use."""
        with self._lock:
            if self._opened is None:
                # Slow to import.
                from freezer.storage.http.wire import Wire
                from freezer.storage.swift.container import Container
                from freezer.storage.swift.requests import Requests

                wire = Wire(*self._rates)
                requests = Requests(self.options, wire, self._progress)
                self._opened = Container(requests, keys.bucket_of(self.container))
            return self._opened

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _make_ready(self) -> None:
        container = self._bucket
        if container.exists():
            return
        if not self.options.create_container:
            raise BucketNotFound(
                f'{container.where()} does not exist, and swift-create-container is '
                f'off: check --container and the project'
            )
        try:
            container.create()
        except AccessDenied as error:
            raise BucketNotFound(
                f'{container.where()} does not exist, and the user may not create it: '
                f'check --container, or have it created: {error.message}'
            ) from error

    def begin(self, backup: Backup) -> PendingBackup:
        container = self._bucket.limited(PATIENCE, self._others_wait)
        return ObjectPendingBackup(
            self, container, backup, self._plan, self._journal, NAMES
        )

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        self._bucket.forget(keys.key_of(path))
        return super().read_pieces(path, etag, pieces)

    def stat(self, path: str) -> Stat:
        head = self._bucket.examine(keys.key_of(path))
        return Stat(head.size, head.etag or None)

    @property
    def _plan(self) -> UploadPlan:
        size = max(self.max_segment_size, _MIN_SEGMENT_SIZE)
        return UploadPlan(size, _MOST_SEGMENTS, self._at_once(size))

    def _at_once(self, size: int) -> int:
        return self.options.at_once(size)

    @property
    def _stale_after(self) -> float | None:
        return self.options.stale_after

    def check(self) -> CheckReport:
        from freezer.storage.swift.check import Scratch, check

        folder = layout.join(self.container, layout.CHECK, secrets.token_hex(16))
        scratch = Scratch(
            self._bucket, keys.key_of(folder), self._plan, self.options.at_once
        )
        return check(self.container, scratch, self._make_ready)


def _how_to_give(names: list[str]) -> str:
    """The message that names the missing options, and all ways to give them."""
    flags = ' '.join(f'--{name} …' for name in names)
    job_keys = [name.replace('-', '_') for name in names]
    variables = ', '.join(ENVIRONMENT[key] for key in job_keys)
    return (
        f'storage swift needs {", ".join(names)}: give {flags} on the command line, or '
        f'{", ".join(job_keys)} in the job file (--config), or {variables} in the '
        f'environment; or --os-cloud with a name of clouds.yaml'
    )
