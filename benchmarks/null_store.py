"""An S3 store that drops uploads, to measure the cost of the client alone.

    python -m benchmarks.null_store [--certificate FILE]

prints its endpoint and runs until the end of standard input.

It keeps objects of up to 256 KiB, such as manifests and markers; of larger objects only
the size. It returns for them the bytes of :func:`noise` from the same position, so a
client that uploads these gets them back. It accepts every signature. ``GET
/-/requests`` counts requests, ``GET /-/keys`` lists the keys of all objects, ``POST
/-/repeat`` copies a chain of backups.
"""

import argparse
import base64
import bisect
import collections
import http.server
import json
import random
import re
import socket
import ssl
import sys
import threading
import urllib.parse
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape

MIB = 2**20
KEPT = 256 * 1024
PAGE = 1000
DATE = '2026-01-01T00:00:00.000Z'
_BLOCK = random.Random(1).randbytes(MIB)
# Repeated, so that a range that begins in the middle is contiguous.
_NOISE = memoryview(_BLOCK * 33)


def noise(size: int) -> 'collections.abc.Iterator[memoryview]':
    """Incompressible bytes with a period of one MiB, in blocks of at most one MiB."""
    for start in range(0, size, MIB):
        yield memoryview(_BLOCK)[: size - start]


@dataclass
class Object:
    size: int
    etag: str
    metadata: dict[str, str]
    content: bytes | None


@dataclass
class Upload:
    key: str
    metadata: dict[str, str]
    parts: dict[int, int] = field(default_factory=dict)


class Store:
    """Ignores the bucket, which is the first component of a path."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, Object] = {}
        self.keys: list[str] = []
        self.uploads: dict[str, Upload] = {}
        self.requests: collections.Counter[str] = collections.Counter()

    def add(self, key: str, new: Object) -> None:
        with self.lock:
            if key not in self.objects:
                bisect.insort(self.keys, key)
            self.objects[key] = new

    def remove(self, key: str) -> None:
        with self.lock:
            if self.objects.pop(key, None) is not None:
                del self.keys[bisect.bisect_left(self.keys, key)]

    def repeat(self, chain: int, times: int, step: int) -> None:
        """Copy the chain with this timestamp, each copy ``step`` seconds older than the
        previous one."""
        of_chain = re.compile(rf'/{chain}/(\d+)_(\d+)/')
        found = [(key, self.objects[key]) for key in self.keys if of_chain.search(key)]
        stamps = {int(of_chain.search(key)[2]) for key, _ in found}  # type: ignore[index]
        for copy in range(1, times + 1):
            moved = {str(at): str(at - copy * step) for at in stamps | {chain}}
            names = re.compile('|'.join(sorted(moved, reverse=True)))

            def later(match: re.Match[str], moved: dict[str, str] = moved) -> str:
                return moved[match[0]]

            for key, one in found:
                content = one.content
                if content is not None and key.startswith('metadata/'):
                    content = names.sub(later, content.decode()).encode()
                name = names.sub(later, key)
                self.objects[name] = Object(one.size, one.etag, one.metadata, content)
        self.keys = sorted(self.objects)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    store: Store

    def log_message(self, *_arguments: Any) -> None:
        """Nothing."""

    def handle(self) -> None:
        self.buffer = bytearray(MIB)
        # Bytes from the network are dropped by the kernel, which copies nothing.
        is_plain = type(self.connection) is socket.socket
        self.flags = socket.MSG_TRUNC | socket.MSG_WAITALL if is_plain else 0
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _request(self) -> None:
        path, _, query = self.path.partition('?')
        parts = urllib.parse.unquote(path).lstrip('/').split('/', 1)
        self.bucket, self.key = parts[0], parts[1] if len(parts) > 1 else ''
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))

    def _body(self, keep: bool) -> bytes | None:
        """The request body if ``keep``; otherwise it is discarded."""
        if self.headers.get('Expect', '').lower() == '100-continue':
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get('Transfer-Encoding', '') == 'chunked':
            self._chunked()
            return None
        left = int(self.headers.get('Content-Length', 0))
        chunks = 'aws-chunked' in self.headers.get('Content-Encoding', '')
        if keep and left <= KEPT and not chunks:
            return self.rfile.read(left)
        if left:
            left -= len(self.rfile.read(min(left, len(self.rfile.peek()))))
        while left:
            read = self.connection.recv_into(self.buffer, min(left, MIB), self.flags)
            if not read:
                raise ConnectionError
            left -= read
        return None

    def _chunked(self) -> None:
        while size := int(self.rfile.readline().partition(b';')[0], 16):
            self.rfile.read(size + 2)
        self.rfile.readline()

    def _length(self) -> int:
        length = self.headers.get('Content-Length', '0')
        return int(self.headers.get('x-amz-decoded-content-length', length))

    def _metadata(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self.headers.items()
            if name.lower().startswith('x-amz-meta-')
        }

    def _answer(
        self, status: int, body: bytes = b'', headers: dict[str, str] | None = None
    ) -> None:
        self.send_response_only(status)
        self.send_header('Date', formatdate(usegmt=True))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if 'Content-Length' not in (headers or {}):
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def _xml(self, root: str, content: str, status: int = 200) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><{root}>{content}</{root}>'
        self._answer(status, text.encode(), {'Content-Type': 'application/xml'})

    def _error(self, status: int, code: str) -> None:
        if self.command == 'HEAD':
            self._answer(status)
        else:
            self._xml('Error', f'<Code>{code}</Code><Message>{code}</Message>', status)

    def _count(self, operation: str) -> None:
        with self.store.lock:
            self.store.requests[operation] += 1

    # Verbs

    def do_PUT(self) -> None:
        self._request()
        content = self._body(keep=bool(self.key) and 'uploadId' not in self.query)
        size = self._length()
        etag = f'"{size:032x}"'
        if not self.key:
            self._count('CreateBucket')
        elif 'uploadId' in self.query:
            self._count('UploadPart')
            upload = self.store.uploads[self.query['uploadId']]
            upload.parts[int(self.query['partNumber'])] = size
        else:
            self._count('PutObject')
            if self.headers.get('If-None-Match') and self.key in self.store.objects:
                self._error(412, 'PreconditionFailed')
                return
            new = Object(size, etag, self._metadata(), content)
            self.store.add(self.key, new)
        self._answer(200, headers={'ETag': etag})

    def do_POST(self) -> None:
        self._request()
        body = b''
        if left := int(self.headers.get('Content-Length', 0)):
            body = self.rfile.read(left)
        if self.bucket == '-':
            self.store.repeat(**json.loads(body))
            self._answer(200, str(len(self.store.keys)).encode())
        elif 'uploads' in self.query:
            self._count('CreateMultipartUpload')
            name = uuid.uuid4().hex
            self.store.uploads[name] = Upload(self.key, self._metadata())
            self._xml(
                'InitiateMultipartUploadResult',
                f'<Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>'
                f'<UploadId>{name}</UploadId>',
            )
        elif 'uploadId' in self.query:
            self._count('CompleteMultipartUpload')
            upload = self.store.uploads.pop(self.query['uploadId'])
            etag = f'"{uuid.uuid4().hex}-{len(upload.parts)}"'
            size = sum(upload.parts.values())
            self.store.add(upload.key, Object(size, etag, upload.metadata, None))
            self._xml(
                'CompleteMultipartUploadResult',
                f'<Key>{escape(upload.key)}</Key><ETag>{escape(etag)}</ETag>',
            )
        elif 'delete' in self.query:
            self._count('DeleteObjects')
            keys = re.findall(r'<Key>(.*?)</Key>', body.decode(), re.DOTALL)
            for key in keys:
                self.store.remove(key)
            self._xml(
                'DeleteResult',
                ''.join(f'<Deleted><Key>{key}</Key></Deleted>' for key in keys),
            )
        else:
            self._error(501, 'NotImplemented')

    def do_DELETE(self) -> None:
        self._request()
        self._count('DeleteObject')
        self.store.remove(self.key)
        self.store.uploads.pop(self.query.get('uploadId', ''), None)
        self._answer(204)

    def do_HEAD(self) -> None:
        self._request()
        if not self.key:
            self._count('HeadBucket')
            self._answer(200)
            return
        self._count('HeadObject')
        found = self.store.objects.get(self.key)
        if found is None:
            self._error(404, 'NoSuchKey')
            return
        self._answer(200, headers=self._of(found) | {'Content-Length': str(found.size)})

    def _of(self, found: Object) -> dict[str, str]:
        return {
            'ETag': found.etag,
            'Last-Modified': formatdate(usegmt=True),
            'Accept-Ranges': 'bytes',
            **found.metadata,
        }

    def do_GET(self) -> None:
        self._request()
        if self.bucket == '-':
            shown = self.store.keys if self.key == 'keys' else self.store.requests
            self._answer(200, json.dumps(shown).encode())
        elif self.key:
            self._get()
        elif 'uploads' in self.query:
            self._count('ListMultipartUploads')
            self._xml('ListMultipartUploadsResult', f'<Bucket>{self.bucket}</Bucket>')
        elif 'versioning' in self.query:
            self._count('GetBucketVersioning')
            self._xml('VersioningConfiguration', '')
        elif 'location' in self.query:
            self._count('GetBucketLocation')
            self._xml('LocationConstraint', '')
        else:
            self._count('ListObjects')
            self._list()

    def _get(self) -> None:
        self._count('GetObject')
        found = self.store.objects.get(self.key)
        if found is None:
            self._error(404, 'NoSuchKey')
            return
        start, end, status, headers = 0, found.size, 200, self._of(found)
        if asked := re.match(r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')):
            start = int(asked[1])
            end = min(int(asked[2]) + 1 if asked[2] else found.size, found.size)
            status = 206
            headers['Content-Range'] = f'bytes {start}-{end - 1}/{found.size}'
        self._answer(status, headers=headers | {'Content-Length': str(end - start)})
        if found.content is not None:
            self.wfile.write(found.content[start:end])
            return
        while start < end:
            first = start % MIB
            block = _NOISE[first : first + min(end - start, 32 * MIB)]
            self.connection.sendall(block)
            start += len(block)

    def _list(self) -> None:
        prefix = self.query.get('prefix', '')
        delimiter = self.query.get('delimiter', '')
        after = self.query.get('marker', '') or self.query.get('start-after', '')
        if token := self.query.get('continuation-token'):
            after = base64.urlsafe_b64decode(token).decode()
        page = int(self.query.get('max-keys', PAGE))
        shown: list[tuple[str, Object]] = []
        common: list[str] = []
        last = ''
        with self.store.lock:
            keys = self.store.keys
            at = bisect.bisect_right(keys, max(after, prefix[:-1] if prefix else ''))
            while at < len(keys) and len(shown) + len(common) < page:
                key = keys[at]
                if not key.startswith(prefix):
                    if key > prefix:
                        break
                    at += 1
                    continue
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                if cut >= 0:
                    last = key[: cut + 1]
                    if last > after:
                        common.append(last)
                    # Skip everything with this common prefix.
                    at = bisect.bisect_left(keys, last[:-1] + chr(ord(last[-1]) + 1))
                    last = keys[at - 1]
                else:
                    last = key
                    shown.append((key, self.store.objects[key]))
                    at += 1
            truncated = at < len(keys) and keys[at].startswith(prefix)
        following = base64.urlsafe_b64encode(last.encode()).decode()
        content = [
            f'<Name>{self.bucket}</Name><Prefix>{escape(prefix)}</Prefix>'
            f'<IsTruncated>{str(truncated).lower()}</IsTruncated>'
        ]
        if truncated:
            content.append(
                f'<NextContinuationToken>{following}</NextContinuationToken>'
            )
        content += [
            f'<Contents><Key>{escape(key)}</Key><Size>{one.size}</Size>'
            f'<ETag>{escape(one.etag)}</ETag><LastModified>{DATE}</LastModified>'
            f'</Contents>'
            for key, one in shown
        ]
        content += [
            f'<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>'
            for one in common
        ]
        self._xml('ListBucketResult', ''.join(content))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Here and not on accept: this is the thread of the connection.
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--certificate', help='PEM file with a key and its certificate: https'
    )
    certificate = parser.parse_args().certificate
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    Handler.store = Store()
    server = _Server(tls)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    protocol = 'http' if tls is None else 'https'
    print(f'{protocol}://127.0.0.1:{server.server_address[1]}', flush=True)
    sys.stdin.read()


if __name__ == '__main__':
    main()
