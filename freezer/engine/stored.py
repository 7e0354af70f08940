"""What a storage holds of levels, opened: marker, engine's file, and data."""

import logging
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, RestoreError, TamperedError
from freezer.storage import layout, manifest
from freezer.storage.base import Backup
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.stream import compression, encryption
from freezer.utils.blocks import Block

if TYPE_CHECKING:
    # It needs a package that who does not encrypt has not.
    from freezer.engine.sealing import Keyring, SealedLevel

LOG = logging.getLogger(__name__)


class StoredLevels:
    """Opens levels, however they are compressed and encrypted.

    :param passphrase: None if there is none
    :param is_archive_start: whether bytes (512, or all there are) begin an archive
    """

    def __init__(
        self,
        settings: EngineSettings,
        passphrase: bytes | None,
        is_archive_start: Callable[[bytes], bool],
    ) -> None:
        self._settings = settings
        self._passphrase = passphrase
        self._is_archive_start = is_archive_start
        self._keys: Keyring | None = None

    def markers(self, chain: Mapping[int, Backup]) -> dict[int, dict[str, Any]]:
        """level -> commit marker, where all of a chain can be opened.

        :raises RestoreError: something cannot
        :raises EncryptionError: it is not what was encrypted
        :raises StorageException: a marker cannot be read
        """
        found = {level: self.marker(backup) for level, backup in chain.items()}
        if any(self._format_of(each) == layout.AGE for each in found.values()):
            self._check_seals(chain, found)
        return found

    def marker(self, backup: Backup) -> dict[str, Any]:
        """The commit marker of a level that can be opened, as far as it tells.

        :raises RestoreError: it cannot
        :raises StorageException: it cannot be read
        """
        metadata = backup.metadata()
        try:
            compression.check_available(self._compression_of(metadata))
        except ConfigError as error:
            raise RestoreError(f'{backup.metadata_path}: {error}') from error
        found = self._format_of(metadata)
        if found not in (None, *encryption.NAMES):
            raise RestoreError(
                f'{backup.metadata_path}: encryption format {found!r} is not known: it '
                f'is damaged, or of a newer agent; restore with that'
            )
        if found and self._passphrase is None:
            raise RestoreError(
                f'{backup!r} is encrypted: give its passphrase with --encrypt-pass-file'
            )
        if found:
            try:
                encryption.check_available(found)
            except ConfigError as error:
                raise RestoreError(f'{backup.metadata_path}: {error}') from error
        wanted = self._settings.encryption
        if wanted and found != wanted:
            how = f'encrypted in format {found}, not in {wanted}'
            raise RestoreError(
                f'{backup!r} is {how if found else "not encrypted"}: without '
                f'--encryption it is restored all the same'
            )
        return metadata

    def data(
        self, backup: Backup, marker: Mapping[str, Any]
    ) -> Generator[Block, None, None]:
        """The archive: decrypted, decompressed, each byte checked before it comes.

        :raises StorageException, EncryptionError, EngineError: some of it is not what
            was written, or not there; at its end at the latest
        """
        assert backup.storage is not None
        name = self._compression_of(marker)
        stream = self._settings.progress.stored(backup.storage.backup_blocks(backup))
        sealed = self.sealed(backup, marker)
        if sealed is not None:
            stream = sealed.data(stream)
        elif self._format_of(marker) and self._passphrase is not None:
            stream = encryption.decrypt(
                self._passphrase, stream, lambda head: self._looks_right(name, head)
            )
        return compression.decompress(name, stream)

    def state(self, backup: Backup, marker: Mapping[str, Any]) -> bytes | None:
        """The engine's file; None, and a warning in the log, if it is lost.

        :raises EncryptionError: it does not open
        """
        try:
            sealed = self.sealed(backup, marker)
            if sealed is not None:
                return sealed.engine_metadata()
            return self.plain_state(backup, marker)
        except (NotFound, IntegrityError) as error:
            LOG.warning('%r: %s', backup, error)
            return None

    def plain_state(self, backup: Backup, marker: Mapping[str, Any]) -> bytes:
        """The engine's file of a level that is not in format age.

        :raises NotFound: it is not there
        :raises IntegrityError: it is not what was written
        """
        path = backup.engine_metadata_path
        return manifest.check_state(backup.engine_metadata(), marker, path)

    def sealed(self, backup: Backup, marker: Mapping[str, Any]) -> 'SealedLevel | None':
        """A level, opened; None if it is not in format age.

        :raises NotFound: its key is not there
        :raises EncryptionError: it does not open
        """
        if self._format_of(marker) != layout.AGE:
            return None
        from freezer.engine.sealing import SealedLevel

        return SealedLevel(self.keyring.key_of(backup), backup, marker)

    @property
    def keyring(self) -> 'Keyring':
        """Of format age; there has to be a passphrase."""
        from freezer.engine.sealing import Keyring

        if self._keys is None:
            assert self._passphrase is not None
            self._keys = Keyring(self._passphrase)
        return self._keys

    def _check_seals(
        self, chain: Mapping[int, Backup], markers: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """:raises EncryptionError: a level is not what was written, or not there"""
        base = None
        for level, backup in sorted(chain.items()):
            try:
                sealed = self.sealed(backup, markers[level])
                if sealed is None:
                    raise TamperedError(
                        f'{backup!r} is not encrypted in format age, and others of its '
                        f'chain are: somebody has exchanged it'
                    )
                sealed.check(base)
            except NotFound as error:
                raise TamperedError(
                    f'{error.message}: the backup is damaged'
                ) from error
            base = backup

    def _format_of(self, marker: Mapping[str, Any]) -> str | None:
        """How a level is encrypted; None if it is not."""
        # Freezer 19 decrypts when a passphrase is given and the marker says nothing.
        encrypted = marker.get('encryption', self._passphrase is not None)
        found = marker.get(layout.FORMAT_KEY) or (encrypted and encryption.OPENSSL)
        return str(found) if found else None

    def _compression_of(self, metadata: Mapping[str, Any]) -> str:
        """The marker decides; the option, where it says nothing."""
        return str(metadata.get('compression') or self._settings.compression)

    def _looks_right(self, name: str, head: bytes) -> bool:
        magic = compression.MAGIC.get(name)
        return self._is_archive_start(head) if magic is None else head.startswith(magic)
