"""The engine stream: its archive, its file, and the processes that it runs."""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.engine.engine import Warnings
from freezer.engine.settings import EngineSettings
from freezer.engine.stream import mariadb, processes
from freezer.engine.stream.engine import StreamEngine
from freezer.engine.stream.frame import END, FrameReader, FrameWriter, Header
from freezer.engine.stream.mariadb import Increments
from freezer.engine.stream.presets import PRESETS
from freezer.engine.stream.processes import Command
from freezer.engine.stream.restore import ChainReader, FileExtractor
from freezer.engine.stream.state import LevelState
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.utils import commands

DIGEST = 'ab' * 32


# The archive


def frame(header: Header, stream: bytes, cut: int = 1000) -> bytes:
    writer = FrameWriter(header)
    return b''.join(writer.blocks(pieces(stream, cut)))


def pieces(content: bytes, cut: int) -> Iterator[bytes]:
    return (content[start : start + cut] for start in range(0, len(content), cut))


def read(archive: bytes, cut: int = 1000) -> bytes:
    return b''.join(map(bytes, FrameReader(pieces(archive, cut)).blocks()))


@pytest.mark.parametrize('size', [0, 1, END - 1, END, END + 1, 3 * END, 5000])
def test_a_frame_in_any_pieces(size: int) -> None:
    stream = os.urandom(size)
    archive = frame(Header(1, 'a ü.sql', DIGEST), stream)
    assert archive.endswith(archive[-END:])
    for cut in (1, 2, END - 1, END, END + 1, 97, len(archive)):
        reader = FrameReader(pieces(archive, cut))
        assert reader.header == Header(1, 'a ü.sql', DIGEST)
        assert b''.join(map(bytes, reader.blocks())) == stream
        assert reader.digest == archive[-32:].hex()
    head = archive.index(b'\n') + 1
    assert archive[head:-END] == stream


def test_any_changed_or_missing_byte_is_noticed() -> None:
    archive = frame(Header(0, 'a'), os.urandom(300))
    for position in range(len(archive)):
        damaged = bytearray(archive)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(EngineError):
            read(bytes(damaged))
    for end in range(len(archive)):
        with pytest.raises(EngineError):
            read(archive[:end], 64)
    for more in (b'\0', archive):
        with pytest.raises(EngineError, match='is damaged'):
            read(archive + more)


def header_line(**changed: Any) -> bytes:
    document = {'freezer': 'stream', 'version': 1, 'level': 0, 'name': 'a', 'base': ''}
    return json.dumps(document | changed).encode() + b'\n'


@pytest.mark.parametrize(
    'changed',
    [
        *({'name': name} for name in ('', '.', '..', 'a/b', '/etc/passwd', 'a\nb')),
        *({'name': name} for name in ('a\0', 'a\x1b[2J', 'a\u202eb', '\ud800', 7)),
        *({'name': name} for name in ('a' * 256, None, ['a'])),
        *({'level': level} for level in (-1, 1.0, True, '0', 2**32, None)),
        *({'base': 1}, {'version': 2}, {'freezer': 'tar'}),
    ],
    ids=repr,
)
def test_a_header_that_is_not_trusted(changed: dict[str, Any]) -> None:
    assert Header.load(header_line()) == Header(0, 'a')
    with pytest.raises(EngineError):
        Header.load(header_line(**changed))


@pytest.mark.parametrize('line', [b'', b'{', b'[' * 4000, b'{"freezer": "stream", 1'])
def test_a_header_that_is_damaged(line: bytes) -> None:
    for content in (line, b'{"freezer": "stream", ' + line):
        with pytest.raises(EngineError):
            FrameReader([content])


# A chain


def test_a_level_of_another_chain() -> None:
    first, other = frame(Header(0, 'a'), b'1'), frame(Header(0, 'a'), b'2')
    second = frame(Header(1, 'a', first[-32:].hex()), b'3')
    chain = ChainReader()
    assert list(chain.read(chain.open([first]))) == [b'1']
    assert list(chain.read(chain.open([second]))) == [b'3']
    for archives in ([second], [first, first], [other, second]):
        with pytest.raises(EngineError, match='of another level or chain'):
            read_chain(archives)
    # A level by itself may be checked by itself.
    alone = ChainReader(1)
    assert list(alone.read(alone.open([second]))) == [b'3']


def read_chain(archives: Iterable[bytes]) -> None:
    chain = ChainReader()
    for archive in archives:
        list(chain.read(chain.open([archive])))


def extract(folder: Path, archives: Iterable[bytes]) -> None:
    with FileExtractor(str(folder), overwrite=False) as extractor:
        for archive in archives:
            extractor.extract(iter([archive]))


def test_each_level_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """Also if its header has the name that another level would get."""
    first = frame(Header(0, 'a.1.sql'), b'first')
    second = frame(Header(1, 'a.sql', first[-32:].hex()), b'second')
    extract(tmp_path, [first, second])
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {'a.1.sql': b'first', 'a.1.1.sql': b'second'}


def test_the_longest_name_restores(tmp_path: Path) -> None:
    """A name that a backup takes, a restore can make."""
    length = 255
    while True:
        try:
            archive = frame(Header.load(header_line(name='a' * length)), b'x')
            break
        except EngineError:
            length -= 1
    second = Header(1, 'a' * length, archive[-32:].hex())
    extract(tmp_path, [archive, frame(second, b'y')])
    assert length > 100
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b'x', b'y']


@pytest.mark.parametrize('program', ['a' * 201, 'a\x1bb', 'a\udcff'], ids=ascii)
def test_a_program_whose_name_cannot_be_that_of_a_file(program: str) -> None:
    """Its backup would not restore."""
    engine = engine_of(stream_command=f'/bin/{program}')
    with pytest.raises(ConfigError, match=r'^stream-name: '):
        engine.check_source([])
    engine_of(stream_command=f'/bin/{program}', stream_name='a').check_source([])


def engine_of(**options: str) -> StreamEngine:
    return StreamEngine(EngineSettings(options=options))


def test_a_link_in_the_target_is_not_followed(tmp_path: Path) -> None:
    victim, target = tmp_path / 'victim', tmp_path / 'target'
    victim.write_bytes(b'victim')
    target.mkdir()
    for name in ('a', 'a.partial'):
        (target / name).symlink_to(victim)
    with FileExtractor(str(target), overwrite=True) as extractor:
        extractor.extract(iter([frame(Header(0, 'a'), b'x')]))
    assert victim.read_bytes() == b'victim'
    assert (target / 'a').read_bytes() == b'x'
    assert not (target / 'a').is_symlink()


def test_damage_in_a_later_level_leaves_no_file(tmp_path: Path) -> None:
    first = frame(Header(0, 'a'), b'first')
    second = frame(Header(1, 'a', first[-32:].hex()), b'second')
    with pytest.raises(EngineError, match='damaged'):
        extract(tmp_path, [first, second[:-1]])
    assert list(tmp_path.iterdir()) == []


# The engine's file


def test_the_state_of_a_level() -> None:
    state = LevelState(3, DIGEST, 'mariadb-backup', {'lsn': '17'})
    content = state.dump()
    assert LevelState.load(content) == state
    for end in range(len(content) - 1):
        with pytest.raises(EngineError, match='damaged'):
            LevelState.load(content[:end])


@pytest.mark.parametrize(
    'changed',
    [
        *({'engine': 'tar'}, {'version': 2}, {'level': -1}, {'level': True}),
        *({'level': '0'}, {'digest': None}, {'preset': 1}),
        *({'position': None}, {'position': []}, {'position': {'a': 1}}),
        *({'position': 'a'}, {'position': 3}),
    ],
    ids=repr,
)
def test_a_state_that_is_damaged(changed: dict[str, Any]) -> None:
    document = json.loads(LevelState(0, DIGEST).dump()) | changed
    with pytest.raises(EngineError, match='damaged'):
        LevelState.load(json.dumps(document).encode())


@pytest.mark.parametrize('content', [b'', b'[]', b'7', b'[' * 60000, b'\xff', b'{}'])
def test_a_state_that_is_none(content: bytes) -> None:
    with pytest.raises(EngineError, match='damaged'):
        LevelState.load(content)


# Processes


def test_no_process_takes_the_end_of_a_killed_one_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pipeline that a restore writes to, however long each kill takes."""
    kill = commands.kill_group

    def slow(process: commands.Process) -> None:
        kill(process)
        time.sleep(0.5)

    monkeypatch.setattr(commands, 'kill_group', slow)

    def damaged() -> Iterator[bytes]:
        yield b'good'
        raise EngineError('damaged')

    ended = tmp_path / 'ended'
    last = ['sh', '-c', f'cat >/dev/null; touch {ended}']
    with pytest.raises(EngineError, match=r'^damaged$'):
        processes.feed(Command('x', [['cat'], last]), damaged())
    assert not ended.exists()


@pytest.mark.parametrize('pipe', [[], [['cat']]])
def test_a_child_that_a_failed_process_left_behind(
    pipe: list[list[str]], tmp_path: Path
) -> None:
    """It holds the pipe open; nobody waits for it."""
    script = f'echo x; sleep 60 & echo $! >{tmp_path}/child; exit 3'
    command = Command('x', [['sh', '-c', script], *pipe])
    begun = time.monotonic()
    with pytest.raises(EngineError, match='exited with 3'):
        list(processes.output(command, threading.Event()))
    assert time.monotonic() - begun < 30
    os.kill(int((tmp_path / 'child').read_text()), 9)


def test_a_failure_after_the_end_of_the_output() -> None:
    """Also if the process closed its output long before."""
    command = Command('x', [['sh', '-c', 'echo x; exec >&-; sleep 1; exit 3']])
    with pytest.raises(EngineError, match='exited with 3'):
        list(processes.output(command, threading.Event()))


# Presets


@pytest.mark.parametrize(
    'name, arguments, taken',
    [
        ('mariadb-backup', '--socket=/a --parallel=2', '--socket=/a'),
        ('mariadb-backup', '--socket /a --parallel 2', '--socket /a'),
        ('mariadb-backup', '-S /a -h db1 -uroot x', '-S /a -h db1 -uroot'),
        ('mariadb-dump', '--no-defaults --ssl x', '--no-defaults --ssl'),
        ('mariadb-dump', '-P', '-P '),
        (
            'pg_dump',
            '-h db1 -p 5433 --username joe bank',
            '-h db1 -p 5433 --username joe',
        ),
        ('pg_dump', '--hostx=1 -F c bank', ''),
        ('mongodump', '--host db1', ''),
    ],
)
def test_the_client_of_a_preset_connects_as_its_program(
    name: str, arguments: str, taken: str
) -> None:
    """Otherwise it might ask another server."""
    found = PRESETS[name].client(['client', 'last'], arguments.split())
    words = taken.split(' ') if taken else []
    assert found == ['client', *words, 'last']


@pytest.mark.parametrize(
    'name, argument',
    [
        ('mariadb-backup', '--password=tiger'),
        ('mariadb-dump', '--pass=tiger'),
        ('mariadb-dump', '-ptiger'),
        ('mongodump', '--uri=mongodb://joe:tiger@db1/x'),
        ('pg_dump', 'postgresql://joe:tiger@db1/x'),
    ],
)
def test_passwords_in_arguments(name: str, argument: str) -> None:
    with pytest.raises(ConfigError, match='stream-arguments: a password') as caught:
        engine_of(stream=name, stream_arguments=argument)
    assert 'tiger' not in str(caught.value)
    harmless = 'postgresql://joe@db1:5432/x --passfile=a ssh://db1/a:b@c'
    engine_of(stream='pg_dump', stream_arguments=harmless)


class Server:
    """What the client says of a server, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: Any) -> None:
        answers = iter(each and mariadb._Server(*each) for each in found)
        monkeypatch.setattr(Increments, '_server', lambda _self: next(answers))


def increments(arguments: str = '') -> Increments:
    return Increments(PRESETS['mariadb-backup'], arguments.split())


def level(
    folder: Path, base: dict[str, str] | None, text: str, arguments: str = ''
) -> dict[str, str]:
    made = increments(arguments)
    made.options(base, folder)
    (folder / 'xtrabackup_checkpoints').write_text(text)
    return made.position(base, folder)


FULL = 'backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 500\nlast_lsn = 510\n'


def test_an_increment_on_the_server_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Server(monkeypatch, ('a', 495, 490), ('a', 520, 500))
    base = level(tmp_path, None, FULL)
    assert base['lsn'] == '500'
    for server, problem in (
        (('a', 500, 490), None),
        (('a', 499, 490), 'ends at 499, before 500'),
        (('b', 600, 600), 'another server'),
        (None, 'cannot be read'),
    ):
        Server(monkeypatch, server)
        found = increments().problem(base)
        assert found == problem or (problem or '') in (found or '')
    Server(monkeypatch, ('a', 500, 490))
    assert 'other stream-arguments' in str(increments('--tables=x').problem(base))


@pytest.mark.parametrize(
    'before, after',
    [
        (('a', 495, 490), ('b', 520, 500)),
        (('a', 100, 90), ('a', 110, 90)),
        (('a', 900, 800), ('a', 900, 800)),
        (None, ('a', 520, 500)),
        (('a', 495, 490), None),
    ],
)
def test_nothing_builds_on_a_level_whose_server_is_not_known(
    before: Any, after: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the client found another server than the program."""
    Server(monkeypatch, before, after, ('', 900, 800))
    base = level(tmp_path, None, FULL)
    assert base['server'] == ''
    Server(monkeypatch, ('a', 900, 800))
    assert increments().problem(base)


@pytest.mark.parametrize(
    'base, text',
    [
        ('', 'from_lsn = 7\nto_lsn = 500\n'),
        ('400', FULL),
        ('400', 'from_lsn = 400\nto_lsn = 399\n'),
        ('400', 'from_lsn = 400\n'),
        ('', ''),
    ],
)
def test_another_level_than_was_asked_for(
    base: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Server(monkeypatch, ('a', 1, 1), ('a', 600, 600))
    with pytest.raises(EngineError, match='backed up the changes from'):
        level(tmp_path, {'lsn': base} if base else None, text)


def test_a_restore_into_a_server_of_another_kind() -> None:
    engine = engine_of(stream='mariadb-dump')
    engine.restores_to_path = False
    state = LevelState(0, DIGEST, 'pg_dump').dump()
    with pytest.raises(RestoreError, match='was made with --stream pg_dump'):
        engine.extractor('', state, Warnings())
