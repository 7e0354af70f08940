"""The commit of a backup whose manifest and marker know each other by a token.

It stands apart from :mod:`freezer.storage.physical` to work on Freezer 19's module of
that name as well (``tools/install-into-freezer.sh``). So it builds on nothing but the
verbs of a driver.
"""

import abc
import hashlib
from collections.abc import Generator, Iterable, Mapping
from typing import Any

from freezer.storage import layout, manifest
from freezer.storage.base import Backup
from freezer.storage.details import Details, look
from freezer.storage.exceptions import ManifestError, NotFound
from freezer.storage.physical import PhysicalStorage
from freezer.storage.verify import Stat, Verification, examine


class Manifested(PhysicalStorage):
    """Backups with a manifest, which the marker names.

    A driver's ``write_backup`` stores the stream, its digests and the manifest, and
    puts the manifest's token into ``_tokens``.
    """

    def __init__(
        self, storage_path: str, max_segment_size: int, skip_prepare: bool = False
    ) -> None:
        # Level folder -> token of the manifest that write_backup left there.
        self._tokens: dict[str, str] = {}
        # Level folder -> manifest of what is about to be read.
        self._found: dict[str, manifest.Manifest] = {}
        super().__init__(storage_path, max_segment_size, skip_prepare)

    @abc.abstractmethod
    def stat(self, path: str) -> Stat:
        """A file's size and ETag.

        :raises NotFound: there is none
        """

    @abc.abstractmethod
    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        """Pieces of a file, in order, each checked; one that is wrong ends nothing.

        Holds a bounded number of pieces in memory.

        :param etag: of the file to be read, where there are such; None for whichever
            is there
        """

    def put_identity(self, identity: bytes, backup: Backup) -> None:
        folder = backup.copy(self).data_prefix_path
        self.put_bytes(layout.join(folder, layout.IDENTITY), identity)

    def put_metadata(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        backup = backup.copy(self)
        self.create_dirs(backup.data_prefix_path)
        self.put_file(engine_metadata_path, backup.engine_metadata_path)
        self.put_marker(engine_metadata_path, freezer_metadata_path, backup)

    def put_marker(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        """Write the marker, with what it says of the manifest and the engine's file."""
        backup = backup.copy(self)
        with open(freezer_metadata_path, 'rb') as marker_file:
            marker = marker_file.read()
        token = self._tokens.pop(backup.data_prefix_path, None)
        if token is not None:
            with open(engine_metadata_path, 'rb') as state:
                digest = hashlib.file_digest(state, 'sha256').hexdigest()
            marker = manifest.add_token(marker, token, digest)
        self.put_bytes(backup.metadata_path, marker)

    def manifest_of(
        self, backup: Backup, marker: Mapping[str, Any] | None = None
    ) -> manifest.Manifest | None:
        """A backup's manifest; None for one that Freezer 19 wrote, which has none.

        :param marker: what is in the backup's marker, where that is known
        :raises ManifestError: the backup must have one and it is missing or wrong
        """
        backup = backup.copy(self)
        marker = backup.metadata() if marker is None else marker
        token = marker.get(manifest.MARKER_KEY)
        if token is None:
            return None
        path = layout.join(backup.data_prefix_path, layout.MANIFEST)
        try:
            document = self.read_file(path, manifest.MAX_MANIFEST_BYTES)
        except NotFound as error:
            raise ManifestError(f'{path} is missing: the backup is damaged') from error
        found = manifest.load(document, path)
        if found.token != token:
            raise ManifestError(f'{path} belongs to another backup')
        return found

    def size_of(self, backup: Backup) -> int | None:
        backup = backup.copy(self)
        found = self.manifest_of(backup)
        if found is not None:
            self._found[backup.data_prefix_path] = found
            return found.size
        try:
            return self.stat(backup.data_path).size
        except NotFound:
            # Who reads it says what that means.
            return None

    def manifest_to_read(self, backup: Backup) -> manifest.Manifest | None:
        """As :meth:`manifest_of`, once without asking after :meth:`size_of`.

        :param backup: on this storage
        """
        found = self._found.pop(backup.data_prefix_path, None)
        return found or self.manifest_of(backup)

    def verify(self, backup: Backup, data: bool) -> Verification | None:
        return examine(self, backup.copy(self), data)

    def details(self, backup: Backup) -> Details:
        return look(self, backup.copy(self))

    def discard(self, backup: Backup) -> None:
        backup = backup.copy(self)
        self.delete_files([backup.metadata_path])
        self.rmtree(backup.data_prefix_path)
        self._tokens.pop(backup.data_prefix_path, None)

    def info(self) -> list[dict[str, Any]]:
        """What the container holds, in Freezer 19's form; sizes in bytes."""
        sizes = [size for _path, size in self.list_tree(self.storage_path)]
        return [
            {
                'container_name': self.storage_path,
                'size': sum(sizes),
                'objects_count': len(sizes),
            }
        ]
