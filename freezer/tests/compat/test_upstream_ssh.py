"""Freezer 19.0.0 and this agent on one directory of an SSH server."""

import copy
import os
from pathlib import Path

from freezer.tests import trees
from freezer.tests.agent import Agent, SshStore
from freezer.tests.compat.upstream import Upstream, lost_by_upstream
from freezer.tests.servers.sshd import Sshd


def for_upstream(store: SshStore) -> SshStore:
    """Without the options that Freezer 19 does not have."""
    other = copy.copy(store)
    at = store.options.index('--ssh-known-hosts')
    other.options = (*store.options[:at], *store.options[at + 2 :])
    return other


def test_freezer_19_restores_our_levels(
    freezer19: Path, sshd: Sshd, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('kept', 'changed', 'removed'):
        (source / name).write_bytes(os.urandom(100_000))
    store = SshStore(sshd, tmp_path / 'backups')
    ours = Agent(store)
    ours.increment(source).check()
    (source / 'changed').write_text('changed')
    (source / 'removed').unlink()
    (source / 'new').write_bytes(os.urandom(100_000))
    ours.increment(source).check()
    target = tmp_path / 'target'
    Upstream(freezer19, for_upstream(store)).restore(target).check()
    assert lost_by_upstream(source, target) == []
    assert sorted(trees.describe(target)) == sorted(trees.describe(source))


def test_we_continue_a_chain_of_freezer_19(
    freezer19: Path, sshd: Sshd, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(100_000))
    store = SshStore(sshd, tmp_path / 'backups')
    Upstream(freezer19, for_upstream(store)).increment(source).check()
    (source / 'new').write_text('new')
    done = Agent(store).increment(source).check()
    assert done.document['curr_backup_level'] == 1
    for number, agent in enumerate(
        (Agent(store), Upstream(freezer19, for_upstream(store)))
    ):
        target = tmp_path / f'target{number}'
        agent.restore(target).check()
        assert lost_by_upstream(source, target) == []
