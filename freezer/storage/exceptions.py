"""All exceptions of storages: a closed set.

Drivers translate the errors of their protocol into these, chained to the cause.
:class:`StorageException` keeps the name and the single ``message`` argument it has in
Freezer 19, because code outside this tree catches it.

The attribute ``temporary`` of a class says whether another attempt may help; for S3 a
table in ``_s3/transport/errors.py`` selects the class.
"""

from typing import Any

from freezer.utils.text import shortened


class StorageException(Exception):
    """A storage operation failed; ``message`` is a line for the user, cut where a store
    makes it too long.

    :ivar retry_after: seconds that the store asks to wait before the next request
    """

    temporary = False
    retry_after: float | None = None

    def __init__(self, message: str) -> None:
        message = shortened(message)
        super().__init__(message)
        self.message = message


class StorageConfigError(StorageException):
    """Options are missing, malformed or contradictory; nothing was attempted."""


class OptionsMissing(StorageConfigError):
    """Options that the environment can set are missing; the others are right.

    :ivar storage: the driver, which cannot connect without them
    """

    def __init__(self, message: str, storage: Any) -> None:
        super().__init__(message)
        self.storage = storage


class NotFound(StorageException):
    """The object, file, upload or bucket does not exist."""


class BucketNotFound(NotFound):
    """The bucket does not exist."""


class UploadNotFound(NotFound):
    """The store no longer knows the multipart upload: expired, aborted or completed."""


class AccessDenied(StorageException):
    """The store accepts the keys, but denies the request."""


class BadCredentials(StorageException):
    """The store does not accept the keys."""


class Conflict(StorageException):
    """Another object exists at this path, or it changed while it was read."""


class Unreachable(StorageException):
    """No response: name resolution, connection, TLS or a time-out."""

    temporary = True


class WrongScheme(StorageException):
    """The server speaks https where http is configured, or the reverse."""


class LocalFailure(StorageException):
    """The request failed on this machine, not on the network or at the store."""


class CertificateError(StorageException):
    """The server's TLS certificate is not trusted."""


class HostKeyError(StorageException):
    """The server's SSH host key is unknown, or not the known one."""


class Throttled(StorageException):
    """The store asks for fewer requests."""

    temporary = True


class ServerError(StorageException):
    """The store reported an internal error."""

    temporary = True


class Rejected(StorageException):
    """The store rejected the request: another attempt would fail as well."""


class Archived(StorageException):
    """The object is in an archive storage class and must be restored there first."""


class ClockSkew(StorageException):
    """This machine's clock and the store's are too far apart for signed requests."""


class IncompleteAnswer(StorageException):
    """The response ended early, or does not match the request."""

    temporary = True


class MalformedAnswer(StorageException):
    """The response has a value that S3 does not have; it would have it again."""


class IntegrityError(StorageException):
    """Stored data differs from the data that was written, or is incomplete."""


class ManifestError(IntegrityError):
    """A manifest or its digests are missing, damaged, or of an unknown version."""


class Cancelled(StorageException):
    """The operation was cancelled, because its backup or restore failed or stopped."""


class PartialDelete(StorageException):
    """Some objects could not be deleted; the message has their number and names."""
