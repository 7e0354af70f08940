"""Opens stored levels: checks the marker, decrypts, decompresses."""

import contextlib
import functools
import logging
from collections.abc import (
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Protocol

from freezer.engine.settings import EngineSettings
from freezer.exceptions import (
    ConfigError,
    EngineError,
    RestoreError,
    TamperedError,
)
from freezer.storage import layout
from freezer.storage.backup import StoredLevel, StoredStream
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.index_file import StoredIndex
from freezer.stream import compression, encryption
from freezer.stream.points import Points
from freezer.utils.blocks import Block
from freezer.utils.lazy import fetched
from freezer.utils.progress import Progress
from freezer.utils.ranges import Range, RangedStream

if TYPE_CHECKING:
    from freezer.engine.sealing import Keyring, SealedLevel

LOG = logging.getLogger(__name__)


class ArchiveFormat(Protocol):
    """The methods of :class:`freezer.engine.engine.Engine` that opening needs."""

    @property
    def unmarked_compression(self) -> str | None: ...

    @property
    def compressions(self) -> Mapping[str, str]: ...

    def is_archive_start(self, head: bytes) -> bool: ...

    def padded(self, state: bytes) -> frozenset[bytes]: ...

    def without(
        self, archive: Iterable[Block], paths: Container[bytes]
    ) -> Iterator[Block]: ...


class LevelOpener:
    """Opens levels, however they are compressed and encrypted.

    :param replaces_keys: see :class:`freezer.engine.sealing.Keyring`
    :ivar passphrase: None if none is given
    :raises ConfigError: the passphrase cannot be read
    """

    def __init__(
        self,
        settings: EngineSettings,
        engine: ArchiveFormat,
        replaces_keys: bool = True,
    ) -> None:
        self.settings = settings
        self._replaces_keys = replaces_keys
        self.engine = engine
        given = settings.passphrase
        self.passphrase = None if given is None else given.value

    @functools.cached_property
    def keyring(self) -> 'Keyring':
        """For format age; a passphrase is required."""
        # Optional: it needs the extra encryption.
        from freezer.engine.sealing import Keyring

        assert self.passphrase is not None
        return Keyring(self.passphrase, self._replaces_keys)

    def open(self, stored: StoredLevel) -> 'OpenedLevel':
        """Check that a level can be opened, as far as its marker shows.

        :raises RestoreError: it cannot
        :raises StorageException: the marker cannot be read
        """
        opened = OpenedLevel(stored, self)
        where = stored.paths.marker
        try:
            compression.check_available(opened.compression)
            if opened.format in encryption.NAMES and self.passphrase is not None:
                encryption.check_available(opened.format)
        except ConfigError as error:
            raise RestoreError(f'{where}: {error}') from error
        if opened.format not in (None, *encryption.NAMES):
            raise RestoreError(
                f'{where}: encryption format {opened.format!r} is not known: it is '
                f'damaged, or of a newer agent; restore with that'
            )
        if opened.format and self.passphrase is None:
            raise RestoreError(
                f'{stored!r} is encrypted: give its passphrase with --encrypt-pass-file'
            )
        wanted = self.settings.encryption
        if wanted and opened.format != wanted:
            how = f'encrypted in format {opened.format}, not in {wanted}'
            raise RestoreError(
                f'{stored!r} is {how if opened.format else "not encrypted"}; restore '
                f'it without --encryption'
            )
        return opened


class OpenedLevel:
    """A level whose marker says that it can be opened.

    :ivar compression: the marker decides; the engine or the option, if the marker does
        not say
    :ivar format: of its encryption; None if it is not encrypted
    """

    def __init__(self, stored: StoredLevel, opener: LevelOpener) -> None:
        self.stored = stored
        self.level = stored.level
        self._opener = opener
        marker = stored.marker
        name = str(
            marker.get('compression')
            or opener.engine.unmarked_compression
            or opener.settings.compression
        )
        self.compression = opener.engine.compressions.get(name, name)
        # Freezer 19 decrypts when a passphrase is given and the marker does not say.
        encrypted = marker.get('encryption', opener.passphrase is not None)
        form = marker.get(layout.FORMAT_KEY) or (encrypted and encryption.OPENSSL)
        self.format: str | None = str(form) if form else None

    @fetched
    def sealed(self) -> 'SealedLevel | None':
        """For levels in format age, else None.

        :raises NotFound: the key is missing
        :raises EncryptionError: it does not open
        """
        if self.format != layout.AGE:
            return None
        # Optional: it needs the extra encryption.
        from freezer.engine.sealing import SealedLevel

        return SealedLevel(self._opener.keyring.key_of(self.stored), self.stored)

    def check_base(self, base: StoredLevel | None) -> 'SealedLevel':
        """Check that a level whose chain is in format age belongs to the chain.

        :param base: the level it will be extracted on
        :raises EncryptionError: the level was exchanged or changed
        """
        try:
            if self.sealed is None:
                raise TamperedError(
                    f'{self.stored!r} is not encrypted in format age, unlike others of '
                    f'its chain: it was replaced'
                )
            self.sealed.check_base(base)
        except NotFound as error:
            raise TamperedError(f'{error.message}: the backup is damaged') from error
        return self.sealed

    def check_seal(self, base: StoredLevel | None) -> bytes:
        """Check all but the data of a level whose chain is in format age.

        :param base: the level it will be extracted on
        :returns: the engine's file
        :raises EncryptionError: the level was exchanged, changed, or is missing
        """
        sealed = self.check_base(base)
        try:
            return sealed.engine_metadata()
        except NotFound as error:
            raise TamperedError(f'{error.message}: the backup is damaged') from error

    def engine_metadata(self) -> bytes:
        """The engine's file, decrypted. Fetched at each call.

        :raises NotFound: it is missing
        :raises IntegrityError: it is damaged
        :raises EncryptionError: it does not open
        """
        if self.sealed is not None:
            return self.sealed.engine_metadata()
        return self.stored.checked_engine_metadata()

    def state(self) -> bytes | None:
        """The engine's file; None, and a warning in the log, if it is lost.

        :raises EncryptionError: it does not open
        """
        try:
            return self.engine_metadata()
        except (NotFound, IntegrityError) as error:
            LOG.warning('%r: %s', self.stored, error)
            return None

    @fetched
    def padded(self) -> frozenset[bytes]:
        """Files that are not to be restored from this level: they could not be read to
        their ends when it was made, and the archive has other bytes in their place.

        :raises RestoreError: the engine's file, which has their names, is lost
        :raises EngineError: it is damaged
        :raises EncryptionError: it does not open
        """
        if not self.stored.marker.get(layout.PADDED_KEY):
            return frozenset()
        state = self.state()
        if state is None:
            raise RestoreError(
                f'{self.stored!r} has files that could not be read to their ends, and '
                f'their names are lost with its engine_metadata: restore another date'
            )
        return self._opener.engine.padded(state)

    def data(self, part: str = '') -> Generator[Block, None, None]:
        """The archive: decrypted, decompressed, each byte checked before it is yielded;
        without the files in :attr:`padded`.

        :param part: which part, of a level that has several
        :raises StorageException, EncryptionError, EngineError: some of it is damaged or
            missing; at its end at the latest
        """
        stream = self.stored.stream(part)
        # Decompression keeps no input, so it needs no copy.
        copied = self.format or self.compression == 'none'
        archive = self.decode(stream.blocks() if copied else stream.views(), part=part)
        return self._without_padded(archive) if self.padded else archive

    def _without_padded(
        self, archive: Generator[Block, None, None]
    ) -> Generator[Block, None, None]:
        # Closed at once: it has downloads in flight.
        with contextlib.closing(archive):
            yield from self._opener.engine.without(archive, self.padded)

    def decode(
        self,
        blocks: Iterable[Block | memoryview],
        points: Points | None = None,
        part: str = '',
    ) -> Generator[Block, None, None]:
        """The archive in the blocks of a stored stream, as :meth:`data`, with all
        files.

        :param points: gets the places recorded where decompression can begin
        :param part: whose stream it is
        """
        stream: Any = self._opener.settings.progress.stored(blocks)
        passphrase = self._opener.passphrase
        if self.sealed is not None:
            stream = self.sealed.data(stream, part)
        elif self.format and passphrase is not None:
            stream = encryption.decrypt(passphrase, stream, self._looks_right)
        return compression.decompress(self.compression, stream, points)

    def archive_ranges(
        self, ranges: Sequence[Range], points: Points | None
    ) -> Generator[Block, None, None]:
        """The bytes of ranges of the archive, concatenated.

        Fetches only the pieces that hold them, and each only once. Each byte is checked
        before it is yielded.

        :param ranges: sorted, without overlap
        :param points: where decompression can begin. Without them a level that is
            compressed is read from its start to the last of the ranges
        :raises StorageException, EncryptionError, EngineError: some of it is damaged or
            missing
        """
        stream: RangedStream = _StoredRanges(
            self.stored.stream(), self._opener.settings.progress
        )
        passphrase = self._opener.passphrase
        if self.sealed is not None:
            stream = self.sealed.data_ranges(stream)
        elif self.format and passphrase is not None:
            stream = encryption.Decrypted(stream, passphrase, self._looks_right)
        yield from compression.decompress_ranges(
            self.compression, stream, points, ranges
        )

    def index(self) -> RangedStream | None:
        """The index, decrypted; None if the level has none.

        :raises StorageException: it is missing or damaged
        :raises EncryptionError: it does not open, or was changed, added or removed
        """
        file = self.stored.index
        stream = None if file is None else _IndexStream(file)
        return stream if self.sealed is None else self.sealed.index(stream)

    def _looks_right(self, head: bytes) -> bool:
        """Whether decrypted bytes begin as they must, so the passphrase is right."""
        is_start = self._opener.engine.is_archive_start
        magic = compression.MAGIC.get(self.compression)
        if magic is None:
            return is_start(head)
        if not head.startswith(magic):
            return False
        if self.compression != compression.ZLIB:
            return True
        # Its two bytes can be there by chance; the head always has a byte of content.
        try:
            opened = compression.decompress(self.compression, [head])
            return is_start(bytes(next(opened, b'')))
        except EngineError:
            return False


class _IndexStream(RangedStream):
    """The index of a level, as it is stored."""

    def __init__(self, file: StoredIndex) -> None:
        self._file = file
        self.size = file.size

    def ranges(self, ranges: Sequence[Range]) -> Generator[Block, None, None]:
        for start, end in ranges:
            yield self._file.read(start, end)


class _StoredRanges(RangedStream):
    """The stream of a level, as it is stored."""

    def __init__(self, stored: StoredStream, progress: Progress) -> None:
        self._stored = stored
        self._progress = progress

    @functools.cached_property
    def size(self) -> int:  # type: ignore[override]
        size = self._stored.size
        if size is None:
            raise IntegrityError(
                f'{self._stored.paths.data} is missing: the backup is damaged'
            )
        return size

    def ranges(self, ranges: Sequence[Range]) -> Generator[Block, None, None]:
        with contextlib.closing(self._stored.block_ranges(ranges)) as blocks:
            yield from self._progress.stored(blocks)

    def head(self, size: int) -> bytes:
        wanted = [(0, min(size, self.size))]
        return b''.join(self._stored.block_ranges(wanted, checked=False))
