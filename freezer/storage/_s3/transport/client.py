"""Makes botocore clients from the options."""

import base64
import contextlib
import logging
import os
import urllib.parse
import warnings
from typing import Any, cast

import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.loaders
import botocore.session
from urllib3.exceptions import InsecureRequestWarning

from freezer.storage._s3.checksums import Checksum, md5
from freezer.storage._s3.options import DEFAULT_REGION, S3Options
from freezer.storage.exceptions import StorageConfigError
from freezer.utils.text import unfit

LOG = logging.getLogger(__name__)
# At DEBUG botocore logs the access key, signatures and SSE-C keys.
_LOGGERS = ('botocore', 'urllib3')


def _limit_loggers() -> None:
    """Keep them at WARNING, whatever --debug and the options for log levels say."""
    known = list(logging.root.manager.loggerDict)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
        for below in known:
            if below.startswith(f'{name}.'):
                logging.getLogger(below).setLevel(logging.NOTSET)


class Credentials:
    """The keys: from the options, or from a named profile.

    No other profile, no ``AWS_*`` variable and no metadata service counts, because none
    of them must change where backups go. And a profile changes only keys and region.

    :raises StorageConfigError: the profile does not exist, or gives no keys
    """

    def __init__(self, access_key: str, secret_key: str, options: S3Options) -> None:
        _limit_loggers()
        self.session = _Session(session_vars=_NOTHING_AMBIENT)
        self.session.register_component('data_loader', _Loader())
        # Read by botocore for S3 alone, as AWS_S3_US_EAST_1_REGIONAL_ENDPOINT.
        self.session.get_component('config_store').set_config_variable('s3', {})
        self.region = options.region or DEFAULT_REGION
        customer_key = options.customer_key() or b''
        self._secrets = {base64.b64encode(customer_key).decode()}
        if not options.profile:
            self.session.set_credentials(access_key, secret_key, options.session_token)
            return
        keys, self.region = _of_profile(options.profile, options.region)
        _check_keys(options.profile, keys)
        self.session.register_component('credential_provider', _Provider(keys))

    def secrets(self) -> tuple[str, ...]:
        """All keys so far, as a profile's are renewed: none may appear in a message.

        Access keys too: stores repeat them.
        """
        with contextlib.suppress(*_PROFILE_ERRORS):
            keys = self.session.get_credentials()
            self._secrets = self._secrets | {
                keys.access_key,
                keys.secret_key,
                keys.token,
            }
        return tuple(key for key in self._secrets if key)


class _Session(botocore.session.Session):  # type: ignore[misc]
    """A session for S3 alone."""

    def register(self, event_name: str, *arguments: Any, **more: Any) -> None:
        """Leave out botocore's handlers for other services and for its documentation:
        two of three, and each is copied for each client."""
        event, _, rest = event_name.partition('.')
        if not event.startswith('docs') and rest.partition('.')[0] in ('', '*', 's3'):
            super().register(event_name, *arguments, **more)


class _Loader(botocore.loaders.Loader):  # type: ignore[misc]
    """Loads botocore's data for S3 alone: the rest takes most of the time that botocore
    needs to make a client.
    """

    def list_available_services(self, type_name: str) -> list[str]:
        """S3 alone: botocore searches the folders of four hundred services, twice."""
        return ['s3']

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        """No endpoints of AWS (1.2 MB): the endpoint is always given, and the rules for
        its URLs are in another file."""
        if name == 'endpoints':
            return {'version': 3, 'partitions': []}, self.BUILTIN_DATA_PATH
        return cast(tuple[Any, str], super().load_data_with_path(name))


class _Provider:
    """Gives botocore the keys of a profile."""

    def __init__(self, keys: Any) -> None:
        self._keys = keys

    def load_credentials(self) -> Any:
        return self._keys


def _of_profile(name: str, region: str | None) -> tuple[Any, str]:
    """A profile's keys, which botocore renews, and the given region or its own."""
    session = botocore.session.Session(profile=name)
    try:
        region = region or session.get_scoped_config().get('region') or DEFAULT_REGION
        # For the service that issues keys for a role.
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


def _check_keys(profile: str, keys: Any) -> None:
    """:raises StorageConfigError: a key in a file could not be sent"""
    if isinstance(keys, botocore.credentials.RefreshableCredentials):
        # Fetched when they are needed.
        return
    for name in ('access_key', 'secret_key', 'token'):
        if problem := unfit(getattr(keys, name) or ''):
            shown = name.replace('_', ' ')
            raise StorageConfigError(f's3-profile {profile}: its {shown} {problem}')


# Where botocore looks if a profile has no keys. A profile that names one of them
# itself (credential_source) still gets keys from there.
_NOT_OF_A_PROFILE = (
    'ec2-credentials-file',
    'boto-config',
    'container-role',
    'iam-role',
)
# Its programs may be missing, or print something else than JSON.
_PROFILE_ERRORS = (botocore.exceptions.BotoCoreError, OSError, ValueError)
# No variable and no file: (name in ~/.aws/config, variables, default, conversion).
_NOTHING_AMBIENT = {
    name: (None, None, *rest)
    for name, (_, _, *rest) in botocore.session.Session.SESSION_VARIABLES.items()
} | dict.fromkeys(('config_file', 'credentials_file'), (None, None, os.devnull, None))


def make_client(
    credentials: Credentials,
    endpoint: str,
    options: S3Options,
) -> Any:
    """A botocore S3 client; sends nothing yet.

    :raises StorageConfigError: this botocore lacks what an option needs
    """
    settings: dict[str, Any] = {
        'region_name': credentials.region,
        'signature_version': options.signature_version,
        's3': {'addressing_style': options.style(endpoint)},
        'retries': {'total_max_attempts': 1, 'mode': 'standard'},
        'ignore_configured_endpoint_urls': True,
        # Stores that do not know trailing checksums store them as content (SeaweedFS
        # #6548) or refuse them. The signed digest is enough in transit, and the
        # manifest has our own.
        'request_checksum_calculation': 'when_required',
        'response_checksum_validation': 'when_required',
    }
    # An older botocore refuses settings that it does not know.
    known = botocore.config.Config.OPTION_DEFAULTS
    settings = {name: value for name, value in settings.items() if name in known}
    if options.insecure:
        LOG.warning('the certificate of %s is not checked (insecure)', endpoint)
        # Once is enough: urllib3 warns on standard error at every connection.
        warnings.simplefilter('ignore', InsecureRequestWarning)
    try:
        client = credentials.session.create_client(
            's3',
            endpoint_url=endpoint,
            verify=False if options.insecure else (options.ca_bundle or True),
            config=botocore.config.Config(**settings),
        )
    except botocore.exceptions.BotoCoreError as error:
        # A profile's region may be malformed.
        raise StorageConfigError(f'storage s3: {error}') from error
    name = options.checksum
    shape = client.meta.service_model.operation_model('PutObject').input_shape
    if name != 'none' and Checksum(name).argument not in shape.members:
        raise StorageConfigError(
            f's3-checksum {name}: not supported by botocore {botocore.__version__}: '
            f'update botocore, or choose crc32 or sha256'
        )
    for operation in _WITH_MD5:
        client.meta.events.register(f'before-call.s3.{operation}', _add_content_md5)
    client.meta.events.register('before-sign.s3', _sign_sent_path)
    client.meta.events.register_first('needs-retry.s3', _stop_redirection_loop)
    return client


_WITH_MD5 = (
    'DeleteObjects',
    'PutObjectRetention',
    'PutObjectLegalHold',
    'PutObjectTagging',
)


def _add_content_md5(params: dict[str, Any], **_kwargs: Any) -> None:
    """Some stores require Content-MD5, and newer botocore leaves it out."""
    params['headers']['Content-MD5'] = md5(params['body'])


def _sign_sent_path(request: Any, **_kwargs: Any) -> None:
    """Correct what botocore signs with version 2 in path style.

    It signs /bucket/ and sends /bucket; older ones sign a part of the query twice.
    Stores refuse both. Version 4 does not use ``auth_path``.
    """
    if request.auth_path is not None:
        sent = urllib.parse.urlsplit(request.url).path
        signed = request.auth_path.partition('?')[0]
        request.auth_path = sent if signed == f'{sent}/' else signed


def _stop_redirection_loop(
    request_dict: dict[str, Any], response: Any, operation: Any, **_kwargs: Any
) -> None:
    """Stop botocore from following a redirection of HeadBucket without a region.

    It would send another HeadBucket, until the stack is full.
    """
    if operation.name != 'HeadBucket' or response is None:
        return
    meta = response[1].get('ResponseMetadata', {})
    if 'x-amz-bucket-region' not in meta.get('HTTPHeaders', {}):
        request_dict['context'].setdefault('s3_redirect', {})['redirected'] = True
