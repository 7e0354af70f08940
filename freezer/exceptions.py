"""The exceptions of the agent.

``main`` turns every :class:`FreezerError`, and every
:class:`freezer.storage.exceptions.StorageException`, into one line on standard error
and exit code 1; the traceback goes to the log. A message says what happened, where,
and what to do next, and never contains a secret.
"""


class FreezerError(Exception):
    """Base class; the message is shown to the user."""


class ConfigError(FreezerError):
    """The command line, a job file or the environment is invalid.

    Raised before any work starts.
    """


class EngineError(FreezerError):
    """The archive could not be created or extracted."""


class CloudError(EngineError):
    """An OpenStack service cannot be reached, failed, or refused a request."""


class EncryptionError(FreezerError):
    """Encrypted data cannot be decrypted."""


class PassphraseError(EncryptionError):
    """The passphrase is wrong."""


class TamperedError(EncryptionError):
    """Encrypted data was modified or replaced."""


class UnsafeArchiveError(EngineError):
    """An archive tries to reach outside the directory it is restored into."""


class VerifyError(FreezerError):
    """Backups are damaged, or levels they build on are missing."""


class RestoreError(FreezerError):
    """There is nothing to restore, or the target may not be used."""
