"""The checksums S3 knows, beyond the signed SHA-256 of every body.

They are computed here and sent in a header: botocore would send them as a trailer of a
chunked body, which some stores take for content (SeaweedFS #6548).
"""

import base64
import hashlib
import zlib
from collections.abc import Callable
from typing import Any

from freezer.storage.exceptions import StorageConfigError

Body = bytes | bytearray


def md5(body: Body) -> str:
    """In base64, for the header Content-MD5."""
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


class Checksum:
    """:param name: crc32, crc32c, crc64nvme or sha256

    :raises StorageConfigError: it needs a library that is not installed
    """

    def __init__(self, name: str) -> None:
        #: as ``ChecksumAlgorithm`` has it
        self.algorithm = name.upper()
        #: argument of a request, and key of a part in Complete
        self.argument = f'Checksum{self.algorithm}'
        self._digest = _digest(name)

    def arguments(self, body: Body) -> dict[str, Any]:
        """The checksum of a body, as argument of the request that sends it."""
        return {self.argument: base64.b64encode(self._digest(body)).decode()}


def _digest(name: str) -> Callable[[Body], bytes]:
    if name == 'sha256':
        return lambda body: hashlib.sha256(body).digest()
    if name == 'crc32':
        return lambda body: zlib.crc32(body).to_bytes(4, 'big')
    try:
        # Optional: the extra crt.
        from awscrt import checksums

        # Older ones have no crc64nvme.
        checksum = getattr(checksums, name)
    except (ImportError, AttributeError) as error:
        raise StorageConfigError(
            f's3-checksum {name} needs awscrt 0.23 or newer: pip install '
            f'"freezer[crt]", or choose crc32 or sha256'
        ) from error
    size = 4 if name == 'crc32c' else 8
    return lambda body: int(checksum(body)).to_bytes(size, 'big')
