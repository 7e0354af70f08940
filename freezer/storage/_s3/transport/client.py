"""One botocore client per storage, made from the options."""

import base64
import contextlib
import hashlib
import logging
import os
import urllib.parse
import warnings
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.session
from urllib3.exceptions import InsecureRequestWarning

from freezer.storage._s3.checksums import Checksum
from freezer.storage._s3.options import DEFAULT_REGION, MOST_AT_ONCE, S3Options
from freezer.storage.exceptions import StorageConfigError

LOG = logging.getLogger(__name__)
# Complete on a large upload may take the store minutes; asked again too early it
# answers with errors that look like failures (s3 stores: Swift's heartbeats, Ceph).
COMPLETE_READ_TIMEOUT = 600
# At DEBUG botocore logs the access key, signatures and SSE-C keys.
_LOGGERS = ('botocore', 'urllib3')


def _cap_loggers() -> None:
    """Whatever the options for the log ask for: --debug, or a level for one of them."""
    known = list(logging.root.manager.loggerDict)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
        for below in known:
            if below.startswith(f'{name}.'):
                logging.getLogger(below).setLevel(logging.NOTSET)


class Credentials:
    """Where keys come from: the options, or a named profile.

    Nothing else counts: no other profile, no ``AWS_*`` variable, no metadata service,
    because none of them must change where backups go. Nor does a profile change
    anything but keys and region.

    :raises StorageConfigError: the profile is not there, or gives no keys
    """

    def __init__(self, access_key: str, secret_key: str, options: S3Options) -> None:
        _cap_loggers()
        self.session = botocore.session.Session(session_vars=_NOTHING_AMBIENT)
        self.session.register_component('data_loader', _Loader())
        self.region = options.region or DEFAULT_REGION
        customer_key = options.customer_key() or b''
        self._secrets = {base64.b64encode(customer_key).decode()}
        if not options.profile:
            self.session.set_credentials(access_key, secret_key, options.session_token)
            return
        keys, self.region = _of_profile(options.profile, options.region)
        self.session.register_component('credential_provider', _Provider(keys))

    def secrets(self) -> tuple[str, ...]:
        """What must not be said: all keys there have been, as a profile's are renewed.

        With access keys: stores repeat them.
        """
        with contextlib.suppress(*_PROFILE_ERRORS):
            keys = self.session.get_credentials()
            self._secrets = self._secrets | {
                keys.access_key,
                keys.secret_key,
                keys.token,
            }
        return tuple(key for key in self._secrets if key)


class _Loader(botocore.loaders.Loader):  # type: ignore[misc]
    """Of botocore's data. It would look through the folders of four hundred services,
    twice, to see that S3 is one of them: a third of the time that a client takes."""

    def list_available_services(self, type_name: str) -> list[str]:
        return ['s3']


class _Provider:
    """What botocore asks for keys."""

    def __init__(self, keys: Any) -> None:
        self._keys = keys

    def load_credentials(self) -> Any:
        return self._keys


def _of_profile(name: str, region: str | None) -> tuple[Any, str]:
    """Its keys, which botocore renews, and the region: the one given, or its own."""
    session = botocore.session.Session(profile=name)
    try:
        region = region or session.get_scoped_config().get('region') or DEFAULT_REGION
        # For the service that gives keys for a role.
        session.set_config_variable('region', region)
        providers = session.get_component('credential_provider')
        for elsewhere in _NOT_OF_A_PROFILE:
            providers.remove(elsewhere)
        keys = session.get_credentials()
    except _PROFILE_ERRORS as error:
        raise StorageConfigError(f's3-profile {name}: {error}') from error
    if keys is None:
        raise StorageConfigError(
            f's3-profile {name}: gives no keys; see aws configure list --profile {name}'
        )
    return keys, region


# Where botocore looks when a profile has no keys. One that names such a source as its
# own (credential_source) gets them all the same.
_NOT_OF_A_PROFILE = (
    'ec2-credentials-file',
    'boto-config',
    'container-role',
    'iam-role',
)
# Its programs may be missing, or say something else than JSON.
_PROFILE_ERRORS = (botocore.exceptions.BotoCoreError, OSError, ValueError)
# No variable, and no file: (name in ~/.aws/config, variables, default, conversion).
_NOTHING_AMBIENT = {
    name: (None, None, *rest)
    for name, (_, _, *rest) in botocore.session.Session.SESSION_VARIABLES.items()
} | dict.fromkeys(('config_file', 'credentials_file'), (None, None, os.devnull, None))


def make_client(
    credentials: Credentials,
    endpoint: str,
    options: S3Options,
    read_timeout: float | None = None,
) -> Any:
    """A botocore S3 client; talks to nobody yet.

    :param read_timeout: seconds, in place of the one in the options
    :raises StorageConfigError: this botocore does not know what is asked for
    """
    settings: dict[str, Any] = {
        'region_name': credentials.region,
        'signature_version': options.signature_version,
        's3': {'addressing_style': options.style(endpoint)},
        'connect_timeout': options.connect_timeout,
        'read_timeout': read_timeout or options.read_timeout,
        'max_pool_connections': (options.concurrency or MOST_AT_ONCE) + 2,
        'retries': {'total_max_attempts': 1, 'mode': 'standard'},
        'proxies': (
            {'http': options.proxy, 'https': options.proxy} if options.proxy else None
        ),
        'ignore_configured_endpoint_urls': True,
        # Trailing checksums end up inside objects on stores that do not know them
        # (SeaweedFS #6548) and are refused by others; the signed payload digest is
        # enough on the wire, and the manifest has our own.
        'request_checksum_calculation': 'when_required',
        'response_checksum_validation': 'when_required',
    }
    config = _config(settings)
    if options.insecure:
        LOG.warning('the certificate of %s is not checked (insecure)', endpoint)
        # Said once is enough: urllib3 tells it on standard error at every connection.
        warnings.simplefilter('ignore', InsecureRequestWarning)
    try:
        client = credentials.session.create_client(
            's3',
            endpoint_url=endpoint,
            verify=False if options.insecure else (options.ca_bundle or True),
            config=config,
        )
    except botocore.exceptions.BotoCoreError as error:
        # A profile's region may be malformed.
        raise StorageConfigError(f'storage s3: {error}') from error
    if options.checksum != 'none':
        _check_checksum(client, options.checksum)
    for operation in _WITH_MD5:
        client.meta.events.register(f'before-call.s3.{operation}', _add_content_md5)
    client.meta.events.register('before-sign.s3', _sign_the_path_that_is_sent)
    client.meta.events.register_first('needs-retry.s3', _redirect_not_for_ever)
    return client


def _check_checksum(client: Any, name: str) -> None:
    shape = client.meta.service_model.operation_model('PutObject').input_shape
    if Checksum(name).argument not in shape.members:
        raise StorageConfigError(
            f's3-checksum {name}: botocore {botocore.__version__} does not know it: '
            f'update botocore, or choose crc32 or sha256'
        )


def _config(settings: dict[str, Any]) -> Any:
    """Older botocore does not know the newer settings, and refuses them."""
    known = botocore.config.Config.OPTION_DEFAULTS
    return botocore.config.Config(**{k: v for k, v in settings.items() if k in known})


_WITH_MD5 = (
    'DeleteObjects',
    'PutObjectRetention',
    'PutObjectLegalHold',
    'PutObjectTagging',
)


def _add_content_md5(params: dict[str, Any], **_kwargs: Any) -> None:
    """Some stores insist on Content-MD5, and newer botocore leaves it out."""
    digest = hashlib.md5(params['body'], usedforsecurity=False).digest()
    params['headers']['Content-MD5'] = base64.b64encode(digest).decode()


def _sign_the_path_that_is_sent(request: Any, **_kwargs: Any) -> None:
    """Version 2 of signatures, path style: botocore signs /bucket/ and sends /bucket;
    older ones sign a part of the query twice.

    Stores refuse that. Version 4 does not look at ``auth_path``.
    """
    if request.auth_path is not None:
        sent = urllib.parse.urlsplit(request.url).path
        signed = request.auth_path.partition('?')[0]
        request.auth_path = sent if signed == f'{sent}/' else signed


def _redirect_not_for_ever(
    request_dict: dict[str, Any], response: Any, operation: Any, **_kwargs: Any
) -> None:
    """A redirection that names no region botocore follows up with a HeadBucket; that of
    a HeadBucket with another one, until the stack is full."""
    if operation.name != 'HeadBucket' or response is None:
        return
    meta = response[1].get('ResponseMetadata', {})
    if 'x-amz-bucket-region' not in meta.get('HTTPHeaders', {}):
        request_dict['context'].setdefault('s3_redirect', {})['redirected'] = True
