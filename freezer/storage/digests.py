"""The digests of the pieces of a stream: 32 bytes each, by the name in the manifest."""

import functools
import hashlib
from collections.abc import Callable

from freezer.storage.exceptions import StorageConfigError

SHA256 = 'sha256'
BLAKE3 = 'blake3'
NAMES = (SHA256, BLAKE3)

Digest = Callable[[bytes | bytearray | memoryview], bytes]


@functools.cache
def function(name: str) -> Digest:
    """Computes the digest of some bytes.

    :raises StorageConfigError: it needs a library that is not installed
    """
    if name == SHA256:
        return lambda data: hashlib.sha256(data).digest()
    try:
        # Optional: the extra blake3.
        from blake3 import blake3
    except ImportError as error:
        raise StorageConfigError(
            'digests with BLAKE3 need the package blake3: pip install freezer[blake3]'
        ) from error
    return lambda data: bytes(blake3(data).digest())
