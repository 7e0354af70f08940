"""The options of storage s3, and checks of their combination. Pure.

Apart from the driver, so that ``--help`` does not import it.
"""

import base64
import binascii
import contextlib
import ipaddress
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from oslo_config import cfg

from freezer.storage import digests
from freezer.storage._s3.checksums import Checksum
from freezer.storage.exceptions import StorageConfigError
from freezer.storage.object_backups import plan
from freezer.utils import surroundings
from freezer.utils.plugin_options import PluginOptions
from freezer.utils.progress import Progress
from freezer.utils.rate import UNLIMITED, Rate
from freezer.utils.text import unfit
from freezer.utils.types import Duration, Size

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MIN_PART_SIZE = 5 * 2**20
#: a little below what most stores take; AWS alone takes more since 2025
MAX_OBJECT_SIZE = 49 * 2**40 // 10
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

KEY_OPTS = (
    cfg.StrOpt(
        'access-key',
        default='',
        secret=True,
        help='S3 access key. Also from ACCESS_KEY in the environment.',
    ),
    cfg.StrOpt(
        'secret-key',
        default='',
        secret=True,
        help='S3 secret key. Also from SECRET_KEY in the environment, where, unlike '
        'on the command line, other users of the machine cannot see it.',
    ),
    cfg.StrOpt(
        'endpoint',
        metavar='URL',
        default='',
        help='URL of the S3 service, e.g. https://s3.example.com:8443. Also from '
        'ENDPOINT in the environment.',
    ),
)

S3_OPTS = (
    # Signing and addressing.
    cfg.StrOpt(
        'region',
        help='Region to sign requests for, and to create a missing bucket in. '
        'Cloudflare R2 takes auto, Garage the name in its configuration. Default: the '
        'region of the profile, else us-east-1.',
    ),
    cfg.StrOpt(
        'addressing-style',
        default='path',
        choices=['auto', 'path', 'virtual'],
        help='Put the bucket into the path or (virtual) into the host name of URLs. '
        'auto: into the host name at Amazon, into the path elsewhere.',
    ),
    cfg.StrOpt(
        'session-token',
        secret=True,
        help='Session token of temporary keys.',
    ),
    cfg.StrOpt(
        'profile',
        help='Named profile of ~/.aws/config and ~/.aws/credentials to take keys '
        'from, instead of access-key and secret-key. Roles and the other sources of '
        'botocore work, and keys that expire are renewed.',
    ),
    cfg.BoolOpt(
        'aws-environment',
        default=False,
        help='Take unset options from the variables of the AWS SDKs: '
        'AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, together; '
        'AWS_REGION or AWS_DEFAULT_REGION; AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; '
        'AWS_CA_BUNDLE. Without this option no such variable counts.',
    ),
    cfg.StrOpt(
        'signature-version',
        default='s3v4',
        choices=['s3v4', 's3'],
        help='Signature version of requests. s3 means version 2, for old stores.',
    ),
    cfg.StrOpt(
        'ca-bundle',
        metavar='FILE',
        help='PEM file with the certificates of the authorities to trust.',
    ),
    cfg.BoolOpt(
        'requester-pays',
        default=False,
        help='Accept the charges for requests to a bucket of another account.',
    ),
    cfg.StrOpt(
        'expected-bucket-owner',
        help='Account (12 digits) that must own the bucket; otherwise the store '
        'rejects every request.',
    ),
    # Time and size.
    cfg.FloatOpt(
        'connect-timeout',
        metavar='SECONDS',
        default=10.0,
        min=0.1,
        help='Seconds to wait for a connection.',
    ),
    cfg.FloatOpt(
        'read-timeout',
        metavar='SECONDS',
        default=60.0,
        min=0.1,
        help='Seconds without progress while a request is sent, or its response is '
        'awaited.',
    ),
    cfg.FloatOpt(
        'retry-budget',
        metavar='SECONDS',
        default=900.0,
        min=0.0,
        help='Total seconds for one request including retries. Until the store has '
        'answered for the first time, at most 20 seconds.',
    ),
    cfg.IntOpt(
        'concurrency',
        min=1,
        max=64,
        help='Parts or ranges transferred in parallel. An upload holds one more part '
        'in memory. Default: as many as fit into 128 MiB, from 4 to 16.',
    ),
    cfg.IntOpt(
        'max-parts',
        default=10000,
        min=2,
        max=10000,
        help='Maximum number of parts per object at this store; 1000 at Swift and '
        'Scaleway. At nine tenths of it the backup continues in another object.',
    ),
    cfg.Opt(
        'max-object-size',
        type=Size(min=MIN_PART_SIZE),
        default=MAX_OBJECT_SIZE,
        help='Maximum size of an object at this store, e.g. 100G; a larger backup '
        'continues in another object. Default: 4.9 TiB.',
    ),
    # What is written.
    cfg.BoolOpt(
        'create-bucket',
        default=True,
        help='Create the bucket if it does not exist when a backup is made.',
    ),
    cfg.StrOpt(
        'storage-class',
        help='Storage class of the data. The objects that are needed to find and '
        "plan a restore stay in the store's standard class.",
    ),
    cfg.StrOpt(
        'sse',
        choices=['AES256', 'aws:kms'],
        help='Encryption by the store, with its own keys or keys of its key service.',
    ),
    cfg.StrOpt(
        'sse-kms-key-id',
        help='Key of the key service; needs s3-sse aws:kms.',
    ),
    cfg.StrOpt(
        'sse-customer-key-file',
        help='File with the key (32 bytes, or their base64) with which the store '
        'encrypts. The store does not keep it; without it nothing can be restored. '
        'Needs https.',
    ),
    cfg.ListOpt(
        'tags',
        default=[],
        help='Tags of every object that is written: name=value,name=value.',
    ),
    cfg.StrOpt(
        'acl',
        choices=['private', 'bucket-owner-read', 'bucket-owner-full-control'],
        help='Canned ACL of every object that is written. Those that allow public '
        'reads are not available.',
    ),
    cfg.StrOpt(
        'object-lock-mode',
        choices=['GOVERNANCE', 'COMPLIANCE'],
        help='Lock backups against deletion for object-lock-days. The bucket must '
        'have object lock; a bucket that is created with this option has it.',
    ),
    cfg.IntOpt(
        'object-lock-days',
        metavar='DAYS',
        min=1,
        max=36500,
        help='Days during which nobody can delete a backup.',
    ),
    cfg.BoolOpt(
        'legal-hold',
        default=False,
        help='Put backups under legal hold: nobody can delete them until the hold is '
        'removed with another tool.',
    ),
    cfg.StrOpt(
        'checksum',
        default='none',
        choices=['none', 'crc32', 'crc32c', 'crc64nvme', 'sha256'],
        help='Checksum that the store verifies and keeps, in addition to the signed '
        'SHA-256 of each request and the digests in the manifest. crc32c and '
        'crc64nvme need the extra crt.',
    ),
    cfg.StrOpt(
        'digest',
        default=digests.SHA256,
        choices=digests.NAMES,
        help='Digest of the stored bytes, in the manifest. blake3 takes a third of the '
        'processor time of sha256; it needs https, and the extra blake3 here and '
        'wherever the backup is restored. Requests are then signed without their '
        'content.',
    ),
    # Listing and cleaning up.
    cfg.IntOpt(
        'list-version',
        default=2,
        min=1,
        max=2,
        help='Version of ListObjects to use: 1 for old stores.',
    ),
    cfg.Opt(
        'stale-after',
        type=Duration(),
        help='With action admin: remove uploads, and data that was never committed, '
        'if their backup has not changed for this long: 24h, 90m. Use 0 only '
        'while no other machine is backing up to this container. Default: 24h.',
    ),
    cfg.BoolOpt(
        'purge-versions',
        default=False,
        help='With action admin: in a bucket that keeps versions, permanently remove '
        'the objects that were deleted or overwritten in the container.',
    ),
)


def with_aws_environment(
    given: Mapping[str, Any], environ: Mapping[str, str], insecure: bool = False
) -> dict[str, Any]:
    """The settings, completed from the variables of the AWS SDKs if they ask for it.

    The keys and the session token belong together: none is taken if one is set.

    :raises StorageConfigError: a variable has a value that no request can have
    """
    filled = dict(given)
    if not given['s3_aws_environment']:
        return filled

    def fill(key: str, *names: str) -> None:
        name = next((name for name in names if environ.get(name)), '')
        if not name or filled[key]:
            return
        if problem := unfit(environ[name]):
            # Not repeated: it may be a key.
            raise StorageConfigError(f'{name}: {problem}: correct the variable')
        filled[key] = environ[name]

    if not (given['access_key'] or given['secret_key'] or given['s3_session_token']):
        fill('access_key', 'AWS_ACCESS_KEY_ID')
        fill('secret_key', 'AWS_SECRET_ACCESS_KEY')
        fill('s3_session_token', 'AWS_SESSION_TOKEN')
    fill('s3_region', 'AWS_REGION', 'AWS_DEFAULT_REGION')
    fill('endpoint', 'AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL')
    if not insecure and filled['endpoint'].startswith('https://'):
        fill('s3_ca_bundle', 'AWS_CA_BUNDLE')
    return filled


def _place(container: str, options: Mapping[str, Any]) -> Hashable:
    """The bucket and prefix, and the service they are at, however they are written."""
    with contextlib.suppress(StorageConfigError):
        # The driver reports it.
        options = with_aws_environment(options, os.environ)
    try:
        url = urllib.parse.urlsplit(options['endpoint'])
        port = url.port or {'http': 80, 'https': 443}.get(url.scheme)
        service: Hashable = (url.hostname, port)
    except ValueError:
        # The driver refuses it.
        service = options['endpoint']
    return service, container.rstrip('/')


OPTIONS = PluginOptions(
    groups={None: KEY_OPTS, 's3': S3_OPTS},
    environment={
        'access_key': 'ACCESS_KEY',
        'secret_key': 'SECRET_KEY',
        'endpoint': 'ENDPOINT',
    },
    secret_files=('s3_sse_customer_key_file',),
    place=_place,
)
_DEFAULTS = {option.dest: option.default for option in S3_OPTS}


def _default(name: str, **how: Any) -> Any:
    """A field with the default of the option of its name."""
    return field(default=_DEFAULTS[name], **how)


@dataclass(frozen=True)
class S3Options:
    """The options of group ``s3``, whose help describes them; and what applies to every
    storage, as in :class:`~freezer.storage.base.StorageSettings`.

    Times are in seconds, sizes in bytes; None where an option is not set.

    :param tags: ``name=value`` each
    """

    region: str | None = _default('region')
    addressing_style: str = _default('addressing_style')
    session_token: str | None = _default('session_token', repr=False)
    profile: str | None = _default('profile')
    aws_environment: bool = _default('aws_environment')
    signature_version: str = _default('signature_version')
    ca_bundle: str | None = _default('ca_bundle')
    connect_timeout: float = _default('connect_timeout')
    read_timeout: float = _default('read_timeout')
    retry_budget: float = _default('retry_budget')
    concurrency: int | None = _default('concurrency')
    max_parts: int = _default('max_parts')
    max_object_size: int = _default('max_object_size')
    storage_class: str | None = _default('storage_class')
    sse: str | None = _default('sse')
    sse_kms_key_id: str | None = _default('sse_kms_key_id')
    sse_customer_key_file: str | None = _default('sse_customer_key_file')
    tags: tuple[str, ...] = ()
    acl: str | None = _default('acl')
    object_lock_mode: str | None = _default('object_lock_mode')
    object_lock_days: int | None = _default('object_lock_days')
    legal_hold: bool = _default('legal_hold')
    requester_pays: bool = _default('requester_pays')
    expected_bucket_owner: str | None = _default('expected_bucket_owner')
    create_bucket: bool = _default('create_bucket')
    list_version: int = _default('list_version')
    checksum: str = _default('checksum')
    digest: str = _default('digest')
    stale_after: float | None = _default('stale_after')
    purge_versions: bool = _default('purge_versions')
    insecure: bool = False
    # It may hold a password.
    proxy: str | None = field(default=None, repr=False)
    sending: Rate = UNLIMITED
    receiving: Rate = UNLIMITED
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)
    #: whether other storages wait for this one
    others_wait: Callable[[], bool] = field(default=bool, repr=False, compare=False)

    def __post_init__(self) -> None:
        # oslo.config has a list.
        object.__setattr__(self, 'tags', tuple(self.tags))

    @classmethod
    def configured(cls) -> Self:
        """The options inside Freezer 19, which passes none.

        It reads its configuration files and OS_* variables, and so group ``s3`` in
        them.
        """
        cfg.CONF.register_opts(S3_OPTS, 's3')
        return cls(**{dest: cfg.CONF.s3[dest] for dest in _DEFAULTS})

    def check(
        self, endpoint: str, bucket: str, keys: tuple[str, str], part_size: int
    ) -> None:
        """Reject options that contradict each other, or need one that is missing.

        :param keys: access key and secret key; empty for none
        :param part_size: bytes
        :raises StorageConfigError: names every problem
        """
        url = urllib.parse.urlsplit(endpoint)
        problems = [
            *self._text_problems(endpoint, *keys),
            *self._credential_problems(*keys),
            *self._address_problems(url, bucket),
            *self._encryption_problems(url),
            *self._object_problems(),
            *self._size_problems(part_size),
        ]
        if problems:
            raise StorageConfigError('; '.join(problems))

    def _text_problems(
        self, endpoint: str, access_key: str, secret_key: str
    ) -> Iterator[str]:
        """Values that no request can have; without them, as they may be secret."""
        texts = {
            'endpoint': endpoint,
            'access-key': access_key,
            'secret-key': secret_key,
            's3-tags': ','.join(self.tags),
            **{
                f's3-{name.replace("_", "-")}': getattr(self, name)
                for name in _DEFAULTS
                # A file may have any name.
                if name not in ('ca_bundle', 'sse_customer_key_file')
            },
        }
        for name, value in texts.items():
            if isinstance(value, str) and (problem := unfit(value)):
                yield f'{name}: {problem}'

    def _credential_problems(self, access_key: str, secret_key: str) -> Iterator[str]:
        if self.profile and (access_key or secret_key):
            yield (
                's3-profile cannot be combined with access-key/secret-key (also from '
                'ACCESS_KEY and SECRET_KEY in the environment)'
            )
        if not self.profile and not (access_key and secret_key):
            yield 'both access-key and secret-key are needed, or s3-profile'
        if self.profile and self.aws_environment:
            yield 's3-profile cannot be combined with s3-aws-environment'
        if self.profile and self.session_token:
            yield 's3-session-token cannot be combined with s3-profile'
        owner = self.expected_bucket_owner
        if owner and not _ACCOUNT.match(owner):
            yield f's3-expected-bucket-owner {owner!r}: must be 12 digits'

    def _address_problems(
        self, url: urllib.parse.SplitResult, bucket: str
    ) -> Iterator[str]:
        if self.region and not _REGION.match(self.region):
            yield f's3-region {self.region!r}: letters, digits and hyphens'
        if self.addressing_style == 'virtual':
            if _is_address(url.hostname or ''):
                yield 's3-addressing-style virtual needs an endpoint with a host name'
            dots = '.' in bucket and url.scheme == 'https'
            if dots or not _HOST_BUCKET.match(bucket):
                yield (
                    f's3-addressing-style virtual: bucket {bucket} cannot be part of a '
                    f'host name'
                )
        if self.ca_bundle:
            # Plain http with insecure is reported once for all storages of a job.
            if url.scheme == 'http':
                yield 's3-ca-bundle needs an https endpoint'
            if self.insecure:
                yield 's3-ca-bundle cannot be combined with insecure'
            if surroundings.is_checked():
                yield from _bundle_problems(self.ca_bundle)

    def _encryption_problems(self, url: urllib.parse.SplitResult) -> Iterator[str]:
        if self.digest != digests.SHA256:
            if url.scheme == 'http':
                yield (
                    f's3-digest {self.digest} needs https: plain http needs the '
                    f'SHA-256 of each part for its signature'
                )
            if self.signature_version != 's3v4':
                yield f's3-digest {self.digest} needs s3-signature-version s3v4'
        if self.sse_kms_key_id and self.sse != 'aws:kms':
            yield 's3-sse-kms-key-id needs s3-sse aws:kms'
        if self.sse_customer_key_file:
            if self.sse:
                yield 's3-sse cannot be combined with s3-sse-customer-key-file'
            if url.scheme == 'http':
                yield 's3-sse-customer-key-file needs https: plain http exposes the key'
            if self.insecure:
                yield (
                    's3-sse-customer-key-file cannot be combined with insecure: any '
                    'server could get the key; use s3-ca-bundle'
                )
            if surroundings.is_checked():
                try:
                    self.customer_key()
                except StorageConfigError as error:
                    yield error.message

    def _object_problems(self) -> Iterator[str]:
        if bool(self.object_lock_mode) != bool(self.object_lock_days):
            yield 's3-object-lock-mode and s3-object-lock-days need each other'
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
        try:
            digests.function(self.digest)
            if self.checksum != 'none':
                Checksum(self.checksum)
        except StorageConfigError as error:
            yield error.message

    def _size_problems(self, part_size: int) -> Iterator[str]:
        for name in ('connect_timeout', 'read_timeout', 'retry_budget'):
            # oslo.config's bounds let nan pass.
            if not math.isfinite(getattr(self, name)):
                yield f's3-{name.replace("_", "-")}: not a number of seconds'
        if self.max_object_size < part_size:
            yield 's3-max-object-size is smaller than one part (max-segment-size)'

    def style(self, endpoint: str) -> str:
        """``path`` or ``virtual``; botocore's own auto is path for every endpoint."""
        if self.addressing_style != 'auto':
            return self.addressing_style
        host = urllib.parse.urlsplit(endpoint).hostname or ''
        return 'virtual' if host.endswith(_AWS) else 'path'

    def at_once(self, size: int) -> int:
        """How many parts or ranges of so many bytes are under way at once."""
        return self.concurrency or plan.at_once(size)

    @property
    def locks(self) -> bool:
        """Whether backups are locked against deletion."""
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
                f's3-sse-customer-key-file {path}: must contain 32 bytes, or their '
                f'base64; create one with openssl rand -out FILE 32'
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
    # Takes 5 ms to import, and few configurations need it.
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        yield f's3-ca-bundle {path}: contains no PEM certificates'
    except OSError as error:
        yield f's3-ca-bundle {path}: {error.strerror}'
