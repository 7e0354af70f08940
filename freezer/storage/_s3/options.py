"""The options of a driver object, and whether they make sense together. Pure."""

import base64
import binascii
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from freezer.storage.exceptions import StorageConfigError

#: a little below what most stores take; AWS alone takes more since 2025
MAX_OBJECT_SIZE = 49 * 2**40 // 10
STALE_AFTER = 24 * 3600.0
DEFAULT_REGION = 'us-east-1'

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
_MAX_TAGS = 10
_MAX_TAG_KEY, _MAX_TAG_VALUE = 128, 256
_ACCOUNT = re.compile(r'[0-9]{12}\Z')


@dataclass(frozen=True)
class S3Options:
    """The options of group ``s3``, and what applies to every storage.

    :param region: None for the profile's, or us-east-1
    :param ca_bundle: path of a PEM file; None for the system's authorities
    :param connect_timeout: seconds
    :param read_timeout: seconds
    :param retry_budget: seconds
    :param concurrency: parts or ranges under way at once
    :param max_parts: parts an object may have
    :param max_object_size: bytes
    :param sse_customer_key_file: path of a file of 32 bytes, or of those in base64
    :param tags: ``name=value`` each
    :param stale_after: seconds; None where none is given, and a day counts
    :param insecure: do not check the server's certificate
    :param proxy: URL of an HTTP proxy
    """

    region: str | None = None
    addressing_style: str = 'path'
    session_token: str | None = None
    profile: str | None = None
    signature_version: str = 's3v4'
    ca_bundle: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retry_budget: float = 900.0
    concurrency: int = 4
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
    proxy: str | None = None

    def check(self, endpoint: str, has_keys: bool, part_size: int) -> None:
        """Refuse what is contradictory or half set, before anything is tried.

        :raises StorageConfigError: names every problem
        """
        problems = [
            *self._credential_problems(has_keys),
            *self._encryption_problems(endpoint),
            *self._object_problems(),
        ]
        if self.max_object_size < part_size:
            problems.append('s3-max-object-size: less than one part')
        if problems:
            raise StorageConfigError('; '.join(problems))

    def _credential_problems(self, has_keys: bool) -> Iterator[str]:
        if self.profile and has_keys:
            yield 's3-profile and access-key or secret-key: give one or the other'
        if self.profile and self.session_token:
            yield 's3-session-token: a profile brings its own'
        if self.ca_bundle and not os.access(self.ca_bundle, os.R_OK):
            yield f's3-ca-bundle {self.ca_bundle}: cannot be read'
        if self.ca_bundle and self.insecure:
            yield 's3-ca-bundle and insecure contradict each other'
        owner = self.expected_bucket_owner
        if owner and not _ACCOUNT.match(owner):
            yield f's3-expected-bucket-owner {owner!r}: an account has 12 digits'

    def _encryption_problems(self, endpoint: str) -> Iterator[str]:
        if self.sse_kms_key_id and self.sse != 'aws:kms':
            yield 's3-sse-kms-key-id needs s3-sse aws:kms'
        if self.sse_customer_key_file:
            if self.sse:
                yield 's3-sse and s3-sse-customer-key-file contradict each other'
            if endpoint.startswith('http://'):
                yield (
                    's3-sse-customer-key-file: the key would cross the network '
                    'readable; give an https endpoint'
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
        names = [tag.partition('=')[0] for tag in self.tags]
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

    def tagging(self) -> str:
        """The tags as a header takes them; empty for none."""
        pairs = [tag.partition('=') for tag in self.tags]
        return urllib.parse.urlencode([(name, value) for name, _, value in pairs])
