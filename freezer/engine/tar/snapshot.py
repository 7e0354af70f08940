"""GNU tar's snapshot file (``--listed-incremental``), as far as it is read here.

Format 2: a line ``GNU tar-<version>-2``, then fields that each end with NUL: seconds
and nanoseconds of the dump, then per directory: NFS flag, mtime seconds and
nanoseconds, device, inode, name, and its entries, each a letter and a name (Y: dumped,
N: not changed, D: a directory), until an empty one; then an empty field.
https://www.gnu.org/software/tar/manual/html_node/Snapshot-Files.html
"""

from freezer.exceptions import EngineError

_HEADER_FIELDS = 2
_DIRECTORY_FIELDS = 6


def entries(content: bytes) -> set[bytes]:
    """Every path below the archived directory, at the time of the snapshot.

    Without ``./``; the directory itself is not among them.

    :raises EngineError: not a snapshot file of this format
    """
    header, newline, body = content.partition(b'\n')
    if not newline or not header.startswith(b'GNU tar-') or not header.endswith(b'-2'):
        raise EngineError('the engine metadata is not a snapshot file of GNU tar')
    fields = body.split(b'\0')
    found: set[bytes] = set()
    position = _HEADER_FIELDS
    while position + _DIRECTORY_FIELDS <= len(fields):
        folder = _below(fields[position + _DIRECTORY_FIELDS - 1])
        if folder:
            found.add(folder)
        position += _DIRECTORY_FIELDS
        while position < len(fields) and fields[position]:
            if fields[position][:1] in b'YND':
                name = fields[position][1:]
                found.add(folder + b'/' + name if folder else name)
            position += 1
        position += 2  # the entry that is empty, and the end of the record
    return found


def _below(name: bytes) -> bytes:
    """``./a/b`` -> ``a/b``; ``.`` -> nothing."""
    return b'' if name == b'.' else name.removeprefix(b'./').rstrip(b'/')
