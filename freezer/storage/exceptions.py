"""Everything a storage can fail with: a closed set.

Drivers translate what their protocol raises into one of these, chained to the cause.
:class:`StorageException` keeps the name and the single ``message`` argument it has in
Freezer 19, because code outside this tree catches it.

Whether another attempt may help is a property of the class, ``temporary``; what decides
it for S3 is one table in ``_s3/transport/errors.py``.
"""


class StorageException(Exception):
    """A storage could not do what it was asked; ``message`` is a line for the user.

    :ivar retry_after: seconds in which the store asks not to be called again
    """

    temporary = False
    retry_after: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class StorageConfigError(StorageException):
    """Options are missing, malformed or contradict each other; nothing was tried."""


class NotFound(StorageException):
    """There is no such object, file, upload or bucket."""


class BucketNotFound(NotFound):
    """There is no such bucket."""


class UploadNotFound(NotFound):
    """The store no longer knows the multipart upload: expired, aborted or completed."""


class AccessDenied(StorageException):
    """The store knows who asks, and refuses."""


class BadCredentials(StorageException):
    """The store does not accept the keys."""


class Conflict(StorageException):
    """Something else is where this was to be written, or changed while it was read."""


class Unreachable(StorageException):
    """No answer: name resolution, connection, TLS or time."""

    temporary = True


class CertificateError(StorageException):
    """The server's TLS certificate is not trusted."""


class Throttled(StorageException):
    """The store asks to be called less often."""

    temporary = True


class ServerError(StorageException):
    """The store failed, and says so."""

    temporary = True


class Rejected(StorageException):
    """The store refuses the request itself: another attempt would fail as well."""


class Archived(StorageException):
    """The object is in a storage class that has to be asked for it first."""


class ClockSkew(StorageException):
    """This machine's clock and the store's are too far apart for signed requests."""


class IncompleteAnswer(StorageException):
    """The answer ended early, or is not what was asked for."""

    temporary = True


class IntegrityError(StorageException):
    """Stored bytes are not the bytes that were written, or are not all there."""


class ManifestError(IntegrityError):
    """A manifest or its digests are missing, damaged, or of an unknown version."""


class Cancelled(StorageException):
    """It was given up, because what it was for had failed or was interrupted."""


class PartialDelete(StorageException):
    """Some objects could not be deleted; the message counts and names them."""
