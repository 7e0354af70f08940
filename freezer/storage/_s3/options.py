"""The options of a driver object, and whether they make sense together. Pure."""

import base64
import binascii
import ipaddress
import math
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

from freezer.storage._s3.checksums import Checksum
from freezer.storage.exceptions import StorageConfigError
from freezer.utils.progress import Progress
from freezer.utils.rate import UNLIMITED, Rate

#: a little below what most stores take; AWS alone takes more since 2025
MAX_OBJECT_SIZE = 49 * 2**40 // 10
STALE_AFTER = 24 * 3600.0
#: bytes, and numbers of connections; decision 0008
MEMORY_UNDER_WAY = 128 * 2**20
LEAST_AT_ONCE, MOST_AT_ONCE = 4, 16
DEFAULT_REGION = 'us-east-1'

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
_MAX_TAGS = 10
_MAX_TAG_KEY, _MAX_TAG_VALUE = 128, 256
_ACCOUNT = re.compile(r'[0-9]{12}\Z')
# What botocore signs for: a label of a host name.
_REGION = re.compile(r'(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z')
_AWS = ('.amazonaws.com', '.amazonaws.com.cn')
# What botocore puts into a host name; it takes path style for any other bucket.
_HOST_BUCKET = re.compile(r'[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z')


@dataclass(frozen=True)
class S3Options:
    """The options of group ``s3``, and what applies to every storage.

    :param region: None for the profile's, or us-east-1
    :param ca_bundle: path of a PEM file; None for the system's authorities
    :param connect_timeout: seconds
    :param read_timeout: seconds
    :param retry_budget: seconds
    :param concurrency: parts or ranges under way at once; see :meth:`at_once`
    :param max_parts: parts an object may have
    :param max_object_size: bytes
    :param sse_customer_key_file: path of a file of 32 bytes, or of those in base64
    :param tags: ``name=value`` each
    :param stale_after: seconds; None where none is given, and a day counts
    :param insecure: do not check the server's certificate
    :param proxy: URL of an HTTP proxy
    :param sending: what may be sent, with all others that have the same one
    :param receiving: what may be received, likewise
    :param progress: is told of parts and repetitions
    """

    region: str | None = None
    addressing_style: str = 'path'
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    signature_version: str = 's3v4'
    ca_bundle: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retry_budget: float = 900.0
    concurrency: int | None = None
    max_parts: int = 10000
    max_object_size: int = MAX_OBJECT_SIZE
    storage_class: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    sse_customer_key_file: str | None = None
    tags: tuple[str, ...] = ()
    acl: str | None = None
    object_lock_mode: str | None = None
    object_lock_days: int | None = None
    legal_hold: bool = False
    requester_pays: bool = False
    expected_bucket_owner: str | None = None
    create_bucket: bool = True
    list_version: int = 2
    checksum: str = 'none'
    stale_after: float | None = None
    purge_versions: bool = False
    insecure: bool = False
    # It may hold a password.
    proxy: str | None = field(default=None, repr=False)
    sending: Rate = UNLIMITED
    receiving: Rate = UNLIMITED
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)

    def check(
        self, endpoint: str, bucket: str, keys: tuple[str, str], part_size: int
    ) -> None:
        """Refuse what is contradictory or half set, before anything is tried.

        :param keys: access key and secret key; empty for none
        :param part_size: bytes
        :raises StorageConfigError: names every problem
        """
        url = urllib.parse.urlsplit(endpoint)
        problems = [
            *self._credential_problems(*keys),
            *self._address_problems(url, bucket),
            *self._encryption_problems(url),
            *self._object_problems(),
            *self._size_problems(part_size),
        ]
        if problems:
            raise StorageConfigError('; '.join(problems))

    def _credential_problems(self, access_key: str, secret_key: str) -> Iterator[str]:
        if self.profile and (access_key or secret_key):
            yield (
                's3-profile and access-key or secret-key: give one or the other '
                '(ACCESS_KEY and SECRET_KEY in the environment count)'
            )
        if not self.profile and not (access_key and secret_key):
            yield 'access-key and secret-key: give both, or s3-profile'
        if self.profile and self.session_token:
            yield 's3-session-token: a profile brings its own'
        owner = self.expected_bucket_owner
        if owner and not _ACCOUNT.match(owner):
            yield f's3-expected-bucket-owner {owner!r}: an account has 12 digits'

    def _address_problems(
        self, url: urllib.parse.SplitResult, bucket: str
    ) -> Iterator[str]:
        if self.region and not _REGION.match(self.region):
            yield f's3-region {self.region!r}: letters, digits and hyphens'
        if self.addressing_style == 'virtual':
            if _is_address(url.hostname or ''):
                yield 's3-addressing-style virtual: needs an endpoint with a host name'
            dots = '.' in bucket and url.scheme == 'https'
            if dots or not _HOST_BUCKET.match(bucket):
                yield (
                    f's3-addressing-style virtual: bucket {bucket} cannot be part of a '
                    f'host name'
                )
        if self.ca_bundle:
            # Not so for insecure: it is said once for all storages of a job.
            if url.scheme == 'http':
                yield 's3-ca-bundle: there is no certificate at an http endpoint'
            if self.insecure:
                yield 's3-ca-bundle and insecure contradict each other'
            yield from _bundle_problems(self.ca_bundle)

    def _encryption_problems(self, url: urllib.parse.SplitResult) -> Iterator[str]:
        if self.sse_kms_key_id and self.sse != 'aws:kms':
            yield 's3-sse-kms-key-id needs s3-sse aws:kms'
        if self.sse_customer_key_file:
            if self.sse:
                yield 's3-sse and s3-sse-customer-key-file contradict each other'
            if url.scheme == 'http':
                yield (
                    's3-sse-customer-key-file: the key would cross the network '
                    'readable; give an https endpoint'
                )
            if self.insecure:
                yield (
                    's3-sse-customer-key-file and insecure: the key would go to '
                    'whoever answers; give s3-ca-bundle instead'
                )
            try:
                self.customer_key()
            except StorageConfigError as error:
                yield error.message

    def _object_problems(self) -> Iterator[str]:
        if bool(self.object_lock_mode) != bool(self.object_lock_days):
            yield 's3-object-lock-mode and s3-object-lock-days: give both or none'
        if len(self.tags) > _MAX_TAGS:
            yield f's3-tags: an object has at most {_MAX_TAGS}'
        names = [name for name, _value in self.tag_pairs()]
        if len(set(names)) != len(names):
            yield 's3-tags: a name is given twice'
        for tag in self.tags:
            name, equals, value = tag.partition('=')
            if not name or not equals:
                yield f's3-tags {tag!r}: write name=value,name=value'
            elif len(name) > _MAX_TAG_KEY or len(value) > _MAX_TAG_VALUE:
                yield (
                    f's3-tags {name!r}: a name has at most {_MAX_TAG_KEY} characters, '
                    f'a value {_MAX_TAG_VALUE}'
                )

        if self.checksum != 'none':
            try:
                Checksum(self.checksum)
            except StorageConfigError as error:
                yield error.message

    def _size_problems(self, part_size: int) -> Iterator[str]:
        for name in ('connect_timeout', 'read_timeout', 'retry_budget'):
            # oslo.config's bounds let nan pass.
            if not math.isfinite(getattr(self, name)):
                yield f's3-{name.replace("_", "-")}: not a number of seconds'
        if self.max_object_size < part_size:
            yield 's3-max-object-size: less than one part (max-segment-size)'

    def style(self, endpoint: str) -> str:
        """``path`` or ``virtual``; botocore's own auto is path for every endpoint."""
        if self.addressing_style != 'auto':
            return self.addressing_style
        host = urllib.parse.urlsplit(endpoint).hostname or ''
        return 'virtual' if host.endswith(_AWS) else 'path'

    def at_once(self, size: int) -> int:
        """How many parts or ranges of so many bytes are under way at once."""
        fitting = MEMORY_UNDER_WAY // max(size, 1)
        return self.concurrency or max(LEAST_AT_ONCE, min(fitting, MOST_AT_ONCE))

    @property
    def locks(self) -> bool:
        """Whether objects are made that cannot be deleted."""
        return bool(self.object_lock_mode) or self.legal_hold

    def customer_key(self) -> bytes | None:
        """The 32 bytes of ``sse_customer_key_file``; None where none is set.

        :raises StorageConfigError: it cannot be read, or is of another size
        """
        path = self.sse_customer_key_file
        if not path:
            return None
        try:
            with open(path, 'rb') as stream:
                content = stream.read(256)
        except OSError as error:
            raise StorageConfigError(
                f's3-sse-customer-key-file {path}: {error.strerror}'
            ) from error
        if len(content) == 32:
            return content
        try:
            key = base64.b64decode(content.strip(), validate=True)
        except binascii.Error:
            key = b''
        if len(key) != 32:
            raise StorageConfigError(
                f's3-sse-customer-key-file {path}: has to hold 32 bytes, or those in '
                f'base64; openssl rand -out FILE 32 makes one'
            )
        return key

    def tag_pairs(self) -> list[tuple[str, str]]:
        """The tags as (name, value)."""
        parted = (tag.partition('=') for tag in self.tags)
        return [(name, value) for name, _, value in parted]

    def tagging(self) -> str:
        """The tags as a header takes them; empty for none."""
        # A plus would stay one: not every store takes it for a space (Ceph).
        return urllib.parse.urlencode(self.tag_pairs(), quote_via=urllib.parse.quote)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bundle_problems(path: str) -> Iterator[str]:
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        yield f's3-ca-bundle {path}: holds no certificates in PEM'
    except OSError as error:
        yield f's3-ca-bundle {path}: {error.strerror}'
