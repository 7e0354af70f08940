"""Parts and ranges: the requests whose body or answer is large.

A part goes to the sender without botocore's client, which takes twice the time of the
request itself to check arguments, resolve the endpoint and parse the answer. Signature,
names of headers, and errors are botocore's all the same.
"""

import functools
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import botocore.awsrequest
import botocore.parsers
from botocore.exceptions import ClientError

from freezer.storage._s3.transport.sender import Sender

# Answers that botocore's client follows by itself, to the region of the bucket.
_ELSEWHERE = ('301', '307', 'PermanentRedirect', 'AuthorizationHeaderMalformed')


class Answer(NamedTuple):
    """
    :ivar content_range: as the header has it; empty if there is none
    :ivar length: bytes of the body; None if the store does not say
    :ivar body: a file, to be read and closed
    """

    etag: str | None
    content_range: str
    length: int | None
    body: Any


class Transfers:
    """Sends requests of one botocore client. Safe to share between threads."""

    def __init__(self, client: Any, sender: Sender | None) -> None:
        self._client = client
        self._sender = sender
        # Version 2 signs the bucket's name, which the URL may not have.
        self._direct = (
            sender is not None and client.meta.config.signature_version == 's3v4'
        )
        self._url = functools.lru_cache(16)(self._make_url)

    def send(self, operation: str, arguments: Mapping[str, Any]) -> Answer:
        """Send a request of an operation that has no document in either direction.

        :param operation: ``upload_part`` or ``get_object``
        :param arguments: as the client takes them
        :raises ClientError: the store refused it
        """
        if self._direct:
            try:
                return self._send(operation, dict(arguments))
            except ClientError as error:
                if error.response.get('Error', {}).get('Code') not in _ELSEWHERE:
                    raise
                self._direct = False
        found = getattr(self._client, operation)(**arguments)
        return Answer(
            found.get('ETag'),
            found.get('ContentRange', ''),
            found.get('ContentLength'),
            found.get('Body'),
        )

    def _send(self, operation: str, arguments: dict[str, Any]) -> Answer:
        client = self._client
        operation = client.meta.method_to_api_mapping[operation]
        model = client.meta.service_model.operation_model(operation)
        url = self._url(arguments.pop('Bucket'), arguments.pop('Key'))
        body = arguments.pop('Body', b'')
        headers = {'User-Agent': client.meta.config.user_agent}
        query: dict[str, str] = {}
        for name, value in arguments.items():
            place = model.input_shape.members[name].serialization
            into = headers if place['location'] == 'header' else query
            into[place['name']] = str(value)
        if query:
            url += '?' + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        request = botocore.awsrequest.AWSRequest(
            model.http['method'],
            url,
            headers,
            body,
            stream_output=model.has_streaming_output,
        )
        request.context |= {
            'client_config': client.meta.config,
            'has_streaming_input': model.has_streaming_input,
        }
        client._request_signer.sign(operation, request)
        assert self._sender is not None
        answer = self._sender.send(request.prepare())
        if answer.status_code >= 300:
            parsed = _PARSER.parse(
                {
                    'headers': answer.headers,
                    'status_code': answer.status_code,
                    'body': answer.content,
                },
                model.output_shape,
            )
            raise ClientError(parsed, operation)
        length = answer.headers.get('content-length', '')
        return Answer(
            answer.headers.get('etag'),
            answer.headers.get('content-range', ''),
            int(length) if length.isdecimal() else None,
            answer.raw,
        )

    def _make_url(self, bucket: str, key: str) -> str:
        """The URL of an object as botocore makes it."""
        arguments = {'Bucket': bucket, 'Key': key}
        signed: str = self._client.generate_presigned_url('get_object', arguments)
        return signed.partition('?')[0]


_PARSER = botocore.parsers.create_parser('rest-xml')
