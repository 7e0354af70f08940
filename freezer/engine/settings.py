"""What an engine is built from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from freezer.stream.encryption import Passphrase
from freezer.utils.progress import Progress


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How an archive is made, and extracted.

    :param compression: a name of :data:`freezer.stream.compression.NAMES`
    :param passphrase: None for no encryption
    :param encryption: a name of :data:`freezer.stream.encryption.NAMES`; None for
        Freezer's, and for whichever is there when it is restored
    :param include: patterns: what of a backup to list or restore; none is all of it
    :param max_restore_size: bytes that the archives of a chain may come to; 0 is any
    :param untrusted: leave out of a restore what could give somebody rights
    :param sync: write the source's file system to its device before it is read
    :param origin: the absolute path that is backed up, even if a snapshot of it is
        read; empty if it is not known
    :param own_paths: directories of this machine that hold the backups
    :param options: the engine's own options, by the keys of its PluginOptions
    :param progress: gets the state of the work reported
    """

    compression: str = 'gzip'
    passphrase: Passphrase | None = None
    encryption: str | None = None
    include: tuple[str, ...] = ()
    max_restore_size: int = 0
    untrusted: bool = False
    sync: bool = False
    origin: str = ''
    own_paths: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    progress: Progress = dataclasses.field(
        default_factory=Progress, repr=False, compare=False
    )
