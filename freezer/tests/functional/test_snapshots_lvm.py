"""Snapshots of LVM: runs ``lvm_cases.py`` and the conformance suite under a kernel that
has it."""

import pickle
import re
import shlex
import sys
from pathlib import Path

import pytest

from freezer.tests import uml
from freezer.tests.agent import (
    ROOT,
    Agent,
    LocalStore,
    assert_restores,
    environment,
    iso,
)

CASES = (
    'freezer/tests/functional/lvm_cases.py',
    'freezer/tests/conformance/test_snapshot.py',
)
_SIZE = 1200 << 20


# Most of the time is of the processor, which may have other work.
@pytest.mark.timeout(900)
def test_under_another_kernel(tmp_path: Path) -> None:
    pytest_ = (sys.executable, '-m', 'pytest', '-q', '-k', 'lvm', '--durations=8')
    where = ('-p', 'no:cacheprovider', '--basetemp=/mnt/tests', '--rootdir', ROOT)
    cases = [ROOT / each for each in CASES]
    command = shlex.join(map(str, (*pytest_, *where, *cases)))
    results = tmp_path / 'results'
    changes = {
        'FREEZER_TEST_VOLUME_GROUP': 'vg0',
        'FREEZER_TEST_RESULTS': str(results),
        'HOME': str(tmp_path),
    }
    script = f'cd {ROOT}; {command}'
    output = uml.run(tmp_path / 'uml', script, _SIZE, environment(changes))
    assert re.search(r'^[0-9]+ passed', output, re.MULTILINE), output
    restored = 0
    for file in results.glob('*/dates'):
        agent = Agent(LocalStore(file.with_name('store')))
        dates = pickle.loads(file.read_bytes())
        assert len(agent.store.markers()) == len(dates)
        for date, tree in dates.items():
            target = tmp_path / f'{file.parent.name}-{date}'
            assert_restores(agent, tree, target, '--restore-from-date', iso(date))
            restored += 1
        agent.run('verify', '--verify-data').check()
    assert restored >= 7
