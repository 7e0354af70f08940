"""Runs action copy."""

from pathlib import Path

from freezer.tests.agent import Agent, Result, Store, job_file


class Copier:
    """The agent that copies from one store to another."""

    def __init__(self, source: Store, target: Store, folder: Path) -> None:
        self.source = source
        self.target = target
        self.job = job_file(folder / 'copy.conf', {'storage:there': target.section})
        self.agent = Agent(source).nameless.told('--config', self.job)

    def run(self, *options: object) -> Result:
        return self.agent.run('copy', '--copy-to', 'there', '--json', *options)

    def copied(self, *options: object) -> list[str]:
        """What became of each level."""
        return results(self.run(*options).check())


def results(ended: Result) -> list[str]:
    """What became of each level, by time."""
    found = ended.document['backups']
    assert ended.document['ok'] == (ended.code == 0), ended
    return [each['result'] for each in sorted(found, key=lambda e: e['time_stamp'])]
