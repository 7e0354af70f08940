"""Action check: test a storage."""

from typing import Any

from freezer.job.job import Job, Outcome, Table
from freezer.storage.check import CheckReport, CheckRow
from freezer.storage.exceptions import StorageException

# Width of a terminal.
_COLUMNS = 80
# Text in a narrower column is unreadable.
_NARROWEST = 30


class CheckJob(Job):
    """Tests whether backups and restores work here, and what the storage can do."""

    def execute(self) -> Outcome:
        if self.config.dry_run:
            self.say(
                'Would write objects below check/ in the container, read them, and '
                'delete them'
            )
            return Outcome()
        self.progress.phase = 'Testing the storage'
        report = self.repository.check()
        problems = report.problems
        summary = _complaint(problems) if problems else 'Backups can be made here'
        several = self.config.storage == 'multiple'
        return Outcome(
            _document(report, summary, several),
            [_table(report, several)],
            failure=StorageException(_complaint(problems)) if problems else None,
            lines=[] if problems else [summary],
        )


def _complaint(problems: list[CheckRow]) -> str:
    first = problems[0]
    where = f'[storage:{first.storage}], ' if first.storage else ''
    line = f'Backups cannot be made here: {where}{first.name}: {first.finding.message}'
    if first.finding.hint:
        line += f'; hint: {first.finding.hint}'
    more = len(problems) - 1
    return f'{line} (and {more} more)' if more else line


def _document(report: CheckReport, summary: str, several: bool) -> dict[str, Any]:
    return {
        'container': report.container,
        'usable': not report.problems,
        'summary': summary,
        'checks': [
            ({'storage': row.storage} if several else {})
            | {
                'name': row.name,
                'result': row.finding.result.value,
                'message': row.finding.message,
                'value': row.finding.value,
                'hint': row.finding.hint,
            }
            for row in report.rows
        ],
    }


def _table(report: CheckReport, several: bool) -> Table:
    header = [*(['Storage'] if several else []), 'Check', 'Result', 'Details']
    rows = []
    for row in report.rows:
        first = [row.storage] if several else []
        finding = row.finding
        rows.append([*first, row.name, finding.result.value, finding.message])
        if finding.hint:
            rows.append([*('' for _ in first), '', '', f'Hint: {finding.hint}'])
    # The width that the other columns leave.
    taken = sum(
        3 + max(len(row[column]) for row in (header, *rows))
        for column in range(len(header) - 1)
    )
    return Table(header, rows, max(_NARROWEST, _COLUMNS - taken - 4))
