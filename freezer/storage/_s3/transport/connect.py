"""Builds a bucket from keys, endpoint and options."""

from typing import Any

from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.client import (
    COMPLETE_READ_TIMEOUT,
    Credentials,
    make_client,
)
from freezer.storage._s3.transport.clock import StoreClock
from freezer.storage._s3.transport.parameters import Parameters
from freezer.storage._s3.transport.requests import Clients, Requests
from freezer.storage._s3.transport.wire import Wire
from freezer.storage.retry import Retry


def open_bucket(
    name: str, endpoint: str, access_key: str, secret_key: str, options: S3Options
) -> Bucket:
    """A bucket with connections of its own; sends nothing yet.

    :raises StorageConfigError: the profile gives no keys, or this botocore lacks what
        an option needs
    """
    credentials = Credentials(access_key, secret_key, options)
    wire = Wire(options.sending, options.receiving)
    clock = StoreClock(endpoint)

    def client(read_timeout: float | None = None) -> Any:
        made = make_client(credentials, endpoint, options, read_timeout)
        wire.attach(made)
        clock.attach(made)
        return made

    patience = max(COMPLETE_READ_TIMEOUT, options.read_timeout)
    requests = Requests(
        name,
        endpoint,
        Clients(client(), lambda: client(patience)),
        Retry(options.retry_budget, wire.now, progress=options.progress),
        credentials.secrets,
        Parameters(options),
        wire,
        clock,
        options.progress,
    )
    return Bucket(requests, options.list_version)
