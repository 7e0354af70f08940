"""Formats of an index: bytes and seconds for a tree, and to find one name.

python benchmarks/index.py /usr --records 256000
"""

import argparse
import itertools
import json
import os
import random
import sqlite3
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from freezer.engine.index.file import IndexFile, IndexWriter
from freezer.engine.index.record import Record, sort_key


def records_of(root: str, count: int) -> list[Record]:
    """What an index has of a tree; if it is too small, of several copies of it."""
    found: list[Record] = []
    offset = 0
    for copy in itertools.count():
        for folder, _folders, names in os.walk(os.fsencode(root)):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                link = stat.S_ISLNK(status.st_mode)
                size = status.st_size if stat.S_ISREG(status.st_mode) else 0
                length = 1536 + (size + 511 & -512)
                found.append(
                    Record(
                        b'%d/%s' % (copy, path.lstrip(b'/')),
                        'symlink' if link else 'file',
                        stat.S_IMODE(status.st_mode),
                        status.st_uid,
                        status.st_gid,
                        'root',
                        'root',
                        size,
                        status.st_mtime_ns,
                        # As on a disk that was used: in a fresh copy all are near.
                        status.st_ctime_ns + random.randrange(10**14),
                        status.st_ino,
                        os.readlink(path) if link else b'',
                        offset,
                        length,
                    )
                )
                offset += length
                if len(found) == count:
                    found.sort(key=lambda each: sort_key(each.path))
                    return found
    raise AssertionError


def columns(records: list[Record], path: Path) -> None:
    with path.open('wb') as file:
        writer = IndexWriter(file)
        for record in records:
            writer.add(record)
        writer.finish({})


def read_columns(path: Path) -> IndexFile:
    content = path.read_bytes()
    return IndexFile(lambda start, end: content[start:end], len(content), str(path))


def lines(records: list[Record], path: Path) -> None:
    compressor = zlib.compressobj(3)
    with path.open('wb') as file:
        for record in records:
            text = [e.decode('latin-1') if isinstance(e, bytes) else e for e in record]
            file.write(compressor.compress(json.dumps(text).encode() + b'\n'))
        file.write(compressor.flush())


def read_lines(path: Path) -> Iterator[list[object]]:
    return map(json.loads, zlib.decompress(path.read_bytes()).splitlines())


def sqlite(records: list[Record], path: Path) -> None:
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute('PRAGMA journal_mode = OFF')
    names = ', '.join(f'"{name}"' for name in Record._fields)
    database.execute(f'CREATE TABLE record ({names}, PRIMARY KEY (path)) WITHOUT ROWID')
    marks = ', '.join('?' * len(Record._fields))
    database.executemany(f'INSERT INTO record VALUES ({marks})', records)
    database.commit()
    database.execute('VACUUM')
    database.close()
    packed = zlib.compress(path.read_bytes(), 3)
    path.with_suffix('.z').write_bytes(packed)


def read_sqlite(path: Path) -> list[object]:
    database = sqlite3.connect(path)
    return database.execute('SELECT * FROM record ORDER BY path').fetchall()


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root')
    parser.add_argument('--records', type=int, default=256_000)
    arguments = parser.parse_args()
    records = records_of(arguments.root, arguments.records)
    count = len(records)
    one = records[count // 2].path
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f'{count} records        write s   read s   bytes each   one name')

        def show(
            label: str,
            write: Callable[[list[Record], Path], None],
            read: Callable[[Path], object],
            find: Callable[[Path], object] | None,
            suffix: str = '',
        ) -> None:
            path = folder / label.split()[0]
            wrote = seconds(lambda: write(records, path))
            took = seconds(lambda: read(path))
            size = path.with_suffix(suffix).stat().st_size / count
            looked = f'{1000 * seconds(lambda: find(path)):.1f} ms' if find else 'all'
            print(f'{label:20} {wrote:8.2f} {took:8.2f} {size:12.1f}   {looked}')

        show(
            'columns',
            columns,
            lambda path: list(read_columns(path).records()),
            lambda path: read_columns(path).find(one),
        )
        show('JSON lines, zlib', lines, lambda path: list(read_lines(path)), None)
        show(
            'SQLite',
            sqlite,
            read_sqlite,
            lambda path: (
                sqlite3.connect(path)
                .execute('SELECT * FROM record WHERE path = ?', (one,))
                .fetchall()
            ),
        )
        size = (folder / 'SQLite.z').stat().st_size / count
        print(f'{"SQLite, zlib":20} {"":8} {"":8} {size:12.1f}   all')


if __name__ == '__main__':
    main()
