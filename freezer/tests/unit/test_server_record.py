"""The record of a server, and the options of its restore."""

import json
from typing import Any

import pytest

from freezer.engine.blocks.state import LevelState
from freezer.engine.openstack.server_options import left_out, network_map
from freezer.engine.openstack.server_record import Disk, ServerState
from freezer.exceptions import ConfigError, EngineError

SERVER = {'id': 's', 'name': 'web', 'flavor': {'vcpus': 1}, 'metadata': {}, 'links': []}
PORT = {'id': 'p', 'network_id': 'n', 'mac_address': 'm', 'fixed_ips': []}
VOLUME = {'id': 'v', 'name': 'boot', 'size': 1}
LEVEL = LevelState(2, 4096, 10, bytes(64), bytes(32))
STATE = ServerState(SERVER, [PORT], [Disk(10, VOLUME, {'device': '/dev/vda'})], LEVEL)


def test_what_is_written_is_read() -> None:
    found = ServerState.load(STATE.dump())
    assert found.server == {k: v for k, v in SERVER.items() if k != 'links'}
    assert found.ports == [PORT]
    assert found.disks == STATE.disks
    assert found.disks[0].is_volume
    assert found.level == LEVEL
    assert found.level_of(Disk(7, VOLUME, None)).size == 7


@pytest.mark.parametrize(
    'changes, text',
    [
        ({'version': 2}, 'has version 2, which is not known: use a newer agent'),
        ({'version': None}, 'is one of Freezer 19'),
        ({'server': {'id': 's'}}, 'is damaged'),
        ({'server': SERVER | {'flavor': None}}, 'is damaged'),
        ({'ports': [{'id': 'p'}]}, 'is damaged'),
        ({'ports': 1}, 'is damaged'),
        ({'disks': []}, 'is damaged'),
        ({'disks': [{'size': -1, 'record': VOLUME, 'attachment': None}]}, 'is damaged'),
        ({'disks': [{'size': 1}]}, 'is damaged'),
        ({'blocks': {}}, 'the engine file of the level is damaged'),
    ],
)
def test_a_record_that_is_damaged(changes: dict[str, Any], text: str) -> None:
    document = json.loads(STATE.dump()) | changes
    with pytest.raises(EngineError, match=text):
        ServerState.load(json.dumps(document).encode())


@pytest.mark.parametrize('content', [b'', b'[]', b'"x"', b'{}', b'\xff', b'[' * 10000])
def test_no_record(content: bytes) -> None:
    with pytest.raises(EngineError):
        ServerState.load(content)


def test_networks() -> None:
    assert network_map([]) == {}
    assert network_map(['a=b', 'c', 'd=e=f']) == {'a': 'b', '': 'c', 'd=e': 'f'}
    for values, text in (
        (['a='], 'must be OLD=NEW, or NEW'),
        (['=b'], 'must be OLD=NEW, or NEW'),
        ([''], 'must be OLD=NEW, or NEW'),
        (['a=b', 'a=c'], 'two values for network a'),
        (['b', 'c'], 'two values for all other networks'),
    ):
        with pytest.raises(ConfigError, match=text):
            network_map(values)


def test_what_may_be_left_out() -> None:
    assert left_out(['zone', 'addresses']) == {'zone', 'addresses'}
    with pytest.raises(ConfigError, match='nova-leave-out disks: must be one of'):
        left_out(['disks'])
