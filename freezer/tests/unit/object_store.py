"""A store of objects in memory: what a driver has to offer for claims and clean-up."""

from collections.abc import Iterator, Sequence

from freezer.storage import exceptions as e
from freezer.storage.objects import (
    ListedObject,
    ObjectKind,
    ObjectStore,
    OpenUpload,
    Upload,
    UploadedParts,
)


class MemoryStore:
    """:param conditional: whether it supports a conditional put
    :param lists_uploads: whether it shows which uploads are open

    :ivar objects: key -> content and time
    :ivar uploads: open uploads -> bytes and time
    """

    def __init__(
        self,
        *keys: str,
        endpoint: str = 'memory:',
        conditional: bool = True,
        lists_uploads: bool = True,
    ) -> None:
        self.name = 'bucket'
        self.endpoint = endpoint
        self.now = 0.0
        self.objects = dict.fromkeys(keys, (b'x', self.now))
        self.uploads: dict[Upload, UploadedParts] = {}
        self._conditional = conditional
        self._lists_uploads = lists_uploads

    def url(self, key: str = '') -> str:
        return f'memory://{key}'

    def list(self, prefix: str) -> Iterator[ListedObject]:
        for key, (content, when) in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield ListedObject(key, len(content), when)

    def get(self, key: str, limit: int | None = None) -> bytes:
        if key not in self.objects:
            raise e.NotFound(key)
        return self.objects[key][0]

    def put(self, key: str, body: bytes, kind: ObjectKind) -> str:
        self.objects[key] = body, self.now
        return ''

    def put_if_absent(self, key: str, body: bytes, kind: ObjectKind) -> bool:
        if not self._conditional:
            raise e.Rejected('no conditional put')
        if key in self.objects:
            return False
        self.put(key, body, kind)
        return True

    def has(self, key: str) -> bool:
        return key in self.objects

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    def list_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        for upload, held in self.uploads.items():
            if self._lists_uploads and upload.key.startswith(prefix):
                yield OpenUpload(upload, held.modified)

    def parts(self, upload: Upload) -> UploadedParts:
        if upload not in self.uploads:
            raise e.NotFound(upload.upload_id)
        return self.uploads[upload]

    def abort(self, upload: Upload) -> None:
        self.uploads.pop(upload, None)

    def store_time(self) -> float:
        return self.now

    def cleaning_up(self) -> ObjectStore:
        return self
