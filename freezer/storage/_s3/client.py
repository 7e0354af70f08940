"""One botocore client per storage, made from the options."""

import logging
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session

from freezer.storage._s3.options import DEFAULT_REGION, S3Options
from freezer.storage.exceptions import StorageConfigError

# Complete on a large upload may take the store minutes; asked again too early it
# answers with errors that look like failures (s3 stores: Swift's heartbeats, Ceph).
COMPLETE_READ_TIMEOUT = 600
# At DEBUG botocore logs the access key, signatures and SSE-C keys.
_LOGGERS = ('botocore', 'urllib3')


class Credentials:
    """Where keys come from: the options, or a named profile.

    Nothing else counts: no other profile, no ``AWS_*`` variable, no metadata service,
    because none of them must change where backups go.

    :raises StorageConfigError: the profile is not there, or gives no keys
    """

    def __init__(self, access_key: str, secret_key: str, options: S3Options) -> None:
        self.session = botocore.session.Session(
            profile=options.profile,
            session_vars=None if options.profile else _NO_FILES,
        )
        self.region = options.region or DEFAULT_REGION
        if not options.profile:
            self.session.set_credentials(access_key, secret_key, options.session_token)
            return
        try:
            if self.session.get_credentials() is None:
                raise StorageConfigError(
                    f's3-profile {options.profile}: gives no keys; see aws configure '
                    f'list --profile {options.profile}'
                )
            of_profile = self.session.get_scoped_config().get('region')
        except botocore.exceptions.BotoCoreError as error:
            raise StorageConfigError(f's3-profile: {error}') from error
        self.region = options.region or of_profile or DEFAULT_REGION

    def secrets(self) -> tuple[str, ...]:
        """What must not be said, as of now: a profile's keys may be renewed."""
        keys = self.session.get_credentials()
        found = (keys.access_key, keys.secret_key, keys.token)
        return tuple(key for key in found if key)


# In place of ~/.aws, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE.
_NO_FILES = {
    'profile': (None, None, None, None),
    'config_file': (None, None, '/nonexistent', None),
    'credentials_file': (None, None, '/nonexistent', None),
}


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
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    settings: dict[str, Any] = {
        'region_name': credentials.region,
        'signature_version': options.signature_version,
        's3': {'addressing_style': options.addressing_style},
        'connect_timeout': options.connect_timeout,
        'read_timeout': read_timeout or options.read_timeout,
        'max_pool_connections': options.concurrency + 2,
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
    client = credentials.session.create_client(
        's3',
        endpoint_url=endpoint,
        verify=False if options.insecure else (options.ca_bundle or True),
        config=config,
    )
    client.meta.events.register('before-call.s3.DeleteObjects', _add_content_md5)
    return client


def _config(settings: dict[str, Any]) -> Any:
    """Older botocore does not know the newer settings, and refuses them."""
    known = botocore.config.Config.OPTION_DEFAULTS
    return botocore.config.Config(**{k: v for k, v in settings.items() if k in known})


def _add_content_md5(params: dict[str, Any], **_kwargs: Any) -> None:
    """DeleteObjects with Content-MD5: some stores insist; botocore left it out."""
    import base64
    import hashlib

    digest = hashlib.md5(params['body'], usedforsecurity=False).digest()
    params['headers']['Content-MD5'] = base64.b64encode(digest).decode()
