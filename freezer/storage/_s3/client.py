"""One botocore client per storage, made from the options."""

import logging
from typing import TYPE_CHECKING, Any

import botocore.config
import botocore.session

if TYPE_CHECKING:
    from freezer.storage.s3 import S3Options

# Complete on a large upload may take the store minutes; asked again too early it
# answers with errors that look like failures (s3 stores: Swift's heartbeats, Ceph).
COMPLETE_READ_TIMEOUT = 600
# At DEBUG botocore logs the access key, signatures and SSE-C keys.
_LOGGERS = ('botocore', 'urllib3')


def make_client(
    access_key: str,
    secret_key: str,
    endpoint: str,
    options: 'S3Options',
    read_timeout: float | None = None,
) -> Any:
    """A botocore S3 client; talks to nobody yet.

    Ambient credentials, profiles and AWS_* variables do not count.

    :param read_timeout: seconds, in place of the one in the options
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Given, not looked up: ~/.aws and AWS_* must not change where backups go.
    session = botocore.session.Session(
        session_vars={
            'profile': (None, None, None, None),
            'config_file': (None, None, '/nonexistent', None),
            'credentials_file': (None, None, '/nonexistent', None),
        }
    )
    settings: dict[str, Any] = {
        'region_name': options.region,
        'signature_version': 's3v4',
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
    client = session.create_client(
        's3',
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
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
