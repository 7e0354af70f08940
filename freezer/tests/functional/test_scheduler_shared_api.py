"""Three schedulers share the jobs of one client of the real freezer-api."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests.functional.test_scheduler_api import ApiClient
from freezer.tests.scheduler import Scheduler, document, executes
from freezer.tests.servers.control_plane import ControlPlane
from freezer.tests.servers.coordination import Backend, Etcd, Redis

pytestmark = pytest.mark.xdist_group('cloud')

JOBS = 6


class Cluster:
    def __init__(self, folder: Path, plane: ControlPlane, backend: Backend) -> None:
        self._runs = folder / 'runs'
        self._runs.touch()
        self.members = [Scheduler(folder / f's{number}') for number in range(3)]
        clients = [
            ApiClient(each, plane, f'shared-{backend.name}') for each in self.members
        ]
        self.client = clients[0]
        for each in self.members:
            each.options = (
                *('--interval', '1', '--policy-apply-to', 'none'),
                *('--coordination-backend-url', backend.url),
            )

    def add(self, name: str) -> str:
        """A job that runs once; returns its id."""
        command = f'sh -c "echo {name} >>{self._runs}; sleep 0.5"'
        return self.client.create(document(executes(command)))

    @property
    def runs(self) -> Counter[str]:
        return Counter(self._runs.read_text().split())

    @property
    def logs(self) -> str:
        return '\n'.join(f'--- {each.log}\n{each.logged}' for each in self.members)


@pytest.fixture(
    params=[Redis, Etcd] if os.environ.get('FREEZER_TEST_THOROUGH') else [Redis]
)
def cluster(
    control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    backend: Backend = request.param(tmp_path)
    if not backend.available():
        pytest.skip(f'{backend.name} is not installed')
    with contextlib.ExitStack() as stack:
        stack.enter_context(backend)
        cluster = Cluster(tmp_path, control_plane, backend)
        for member in cluster.members:
            stack.enter_context(member)
        yield cluster


def test_each_job_runs_once_and_is_reported(cluster: Cluster) -> None:
    for member in cluster.members:
        member.start()
    for member in cluster.members:
        member.until_logged('as client')
    jobs = [cluster.add(f'job{number}') for number in range(JOBS)]
    client = cluster.client
    for job_id in jobs:
        client.until(job_id, status='completed', result='success')
    assert cluster.runs == {f'job{number}': 1 for number in range(JOBS)}, cluster.logs
    # They report the same when they end.
    for member in cluster.members:
        member.stop()
    assert cluster.runs.total() == JOBS, cluster.logs
    for job_id in jobs:
        client.until(job_id, status='completed', result='success')
