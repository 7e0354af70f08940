"""What the agent raises when it cannot do what it was asked.

``main`` turns every :class:`FreezerError`, and every
:class:`freezer.storage.exceptions.StorageException`, into one line on standard error
and exit code 1; the traceback goes to the log. A message says what happened, where,
and what to do next, and never contains a secret.
"""


class FreezerError(Exception):
    """Base of all errors that have a line for the user."""


class ConfigError(FreezerError):
    """The command line, a job file or the environment asks for something impossible.

    Raised before any work starts.
    """


class EngineError(FreezerError):
    """The archive could not be made or extracted."""


class EncryptionError(FreezerError):
    """What is encrypted cannot be opened."""


class PassphraseError(EncryptionError):
    """Not with this passphrase."""


class TamperedError(EncryptionError):
    """It is not what was encrypted, or not where it was put."""


class UnsafeArchiveError(EngineError):
    """An archive tries to reach outside the directory it is restored into."""


class VerifyError(FreezerError):
    """Backups are damaged, or lack what they build on."""


class RestoreError(FreezerError):
    """There is nothing to restore, or it may not be restored there."""
