"""What an engine is told."""

import dataclasses

from freezer.utils.progress import Progress


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How an archive is made, and extracted.

    :param compression: a name of :data:`freezer.stream.compression.NAMES`
    :param encrypt_pass_file: path, or None for no encryption
    :param encryption: a name of :data:`freezer.stream.encryption.NAMES`; None for
        Freezer's, and for whichever is there when it is restored
    :param include: patterns: what of a backup to list or restore; none is all of it
    :param max_restore_size: bytes that the archives of a chain may come to; 0 is any
    :param untrusted: leave out of a restore what could give somebody rights
    :param progress: is told how far it is
    """

    compression: str = 'gzip'
    encrypt_pass_file: str | None = None
    encryption: str | None = None
    dereference_symlink: str = 'none'
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    max_restore_size: int = 0
    untrusted: bool = False
    progress: Progress = dataclasses.field(
        default_factory=Progress, repr=False, compare=False
    )
