"""Say what is there."""

from typing import Any

from freezer.job.job import Job, Outcome, Table, iso
from freezer.storage import layout


class InfoJob(Job):
    """What the container holds."""

    def execute(self) -> Outcome:
        report = self.storage.report()
        backups: list[dict[str, Any]] = []
        several = self.config.storage == 'multiple'
        for chain in report.chains:
            host, name = layout.split_identity(chain.identity)
            backups.append(
                ({'storage': chain.storage} if several else {})
                | {
                    'hostname': host,
                    'backup_name': name,
                    'engine': chain.engine,
                    'level_zero': iso(chain.level_zero_timestamp),
                    'level_zero_timestamp': chain.level_zero_timestamp,
                    'levels': [
                        {'level': level, 'time_stamp': stamp, 'date': iso(stamp)}
                        for level, stamp in chain.levels
                    ],
                    'size': chain.size,
                }
            )
        document = {
            'container': report.container,
            'size': report.size,
            'objects_count': report.objects,
            'backups': backups,
        }
        total = Table(
            ('Container', 'Size', 'Object Count'),
            [(report.container, report.size, report.objects)],
        )
        listing = Table(
            (
                *(('Storage',) if several else ()),
                *('Host', 'Name', 'Engine', 'Level 0', 'Increments', 'Newest', 'Size'),
            ),
            [
                (
                    *((backup['storage'],) if several else ()),
                    backup['hostname'],
                    backup['backup_name'],
                    backup['engine'],
                    backup['level_zero'],
                    len(backup['levels']) - 1,
                    max(level['date'] for level in backup['levels']),
                    backup['size'],
                )
                for backup in backups
            ],
        )
        return Outcome(document, [total, listing] if backups else [total])
