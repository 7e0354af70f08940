"""Levels and indexes that are made, or changed, by hand."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from freezer.engine.index.file import IndexFile, IndexWriter
from freezer.engine.index.record import Record
from freezer.storage import manifest
from freezer.storage.index_file import OutgoingIndex
from freezer.tests.agent import Store

Change = Callable[[list[Record], dict[str, object]], None]


def put_level(
    store: Store,
    identity: str,
    level: int,
    archive: bytes,
    state: bytes = b'',
    compressed: str = '',
) -> None:
    """A level as Freezer 19 stores it: no digests, no index.

    :param compressed: how the archive already is
    """
    folder = f'tar/{identity}/1700000000/{level}_{1700000000 + level}'
    data = archive if compressed else gzip.compress(archive)
    store.put(f'data/{folder}/data', data)
    store.put(f'data/{folder}/engine_metadata', state)
    compression = compressed or 'gzip'
    marker = {'engine_name': 'tar', 'compression': compression, 'encryption': False}
    store.put(f'metadata/{folder}/metadata', json.dumps(marker).encode())


def indexes(store: Store) -> list[str]:
    """The paths of the indexes, by level."""
    return sorted(path for path in store.files() if path.endswith('/index'))


def remove_indexes(store: Store) -> None:
    """As an earlier version would have made the levels; none in format age."""
    for path in indexes(store):
        store.delete(path)
    for path, content in store.files().items():
        if path.startswith('metadata/'):
            marker = json.loads(content)
            del marker['index']
            store.put(path, json.dumps(marker).encode())


def change_index(store: Store, path: str, folder: Path, change: Change) -> None:
    """Change the records and the properties of an index, with digests that fit."""
    files = store.files()
    marker_path = path.replace('data/', 'metadata/', 1).replace('/index', '/metadata')
    marker = json.loads(files[marker_path])
    size = marker['index']['size']
    content = files[path]
    old = IndexFile(lambda start, end: content[start:end], size, path)
    records, properties = list(old.records()), dict(old.properties)
    change(records, properties)
    local = folder / 'changed index'
    write_index(local, records, properties)
    outgoing = OutgoingIndex(local)
    store.put(path, b''.join(outgoing.blocks()))
    marker['index'] = outgoing.record.dump()
    store.put(marker_path, manifest.whole(marker))


def write_index(
    path: Path, records: Iterable[Record], properties: dict[str, object]
) -> None:
    with path.open('wb') as file:
        writer = IndexWriter(file)
        for record in records:
            writer.add(record)
        writer.finish(properties)
