"""Everyday tasks, and how each tool does them. ``compare.py`` runs them all.

The tasks are run in this order, and build on each other. A check is a shell command
that has to succeed after the commands of a tool; it is not shown.
"""

from dataclasses import dataclass, field

TOOLS = ('freezer', 'restic', 'borg', 'rclone')
YES, PARTLY, NO = 'yes', 'partly', 'no'


@dataclass(frozen=True)
class Way:
    """How a tool does a task.

    :param typed: commands, one per line; empty: the tool has none
    :param note: one or two sentences about the result, or the reason of a *no*
    :param shows: a regular expression that the output contains
    :param check: a shell command that succeeds afterwards
    :param code: exit code of the commands
    """

    verdict: str
    note: str
    typed: str = ''
    shows: str = ''
    check: str = ''
    code: int = 0


@dataclass(frozen=True)
class Task:
    """:param before: what happens to the files first, the same for all tools"""

    title: str
    ways: dict[str, Way]
    before: str = ''
    text: str = ''
    extra: dict[str, str] = field(default_factory=dict)


BACKUP = 'freezer-agent --action backup --path-to-backup /srv/www --incremental'
SYNC = 'rclone sync --links --metadata /srv/www store:vault/rclone/current'
SAME = 'cmp /srv/www/docs/report.txt'

TASKS = [
    Task(
        'The first backup',
        {
            'freezer': Way(YES, '', f'{BACKUP} --tag monday', r'level 0 of'),
            'restic': Way(
                YES,
                '',
                'restic init\nrestic backup --tag monday /srv/www',
                r'snapshot \w+ saved',
            ),
            'borg': Way(
                YES,
                'To a directory or a machine with SSH and borg; not to S3.',
                'borg init --encryption=repokey\nborg create ::monday /srv/www',
            ),
            'rclone': Way(
                YES,
                'A copy, file by file; ``--metadata`` keeps owners, modes and times.',
                SYNC,
            ),
        },
    ),
    Task(
        'The next backup stores what changed',
        {
            'freezer': Way(YES, '', f'{BACKUP} --tag tuesday', r'level 1 of'),
            'restic': Way(
                YES, '', 'restic backup --tag tuesday /srv/www', r'using parent'
            ),
            'borg': Way(YES, '', 'borg create ::tuesday /srv/www'),
            'rclone': Way(
                PARTLY,
                'Only with ``--backup-dir`` the replaced files are kept.',
                f'{SYNC} \\\n    --backup-dir store:vault/rclone/before-tuesday',
                check='rclone cat store:vault/rclone/before-tuesday/docs/report.txt'
                ' | grep -q first',
            ),
        },
        before='echo second >/srv/www/docs/report.txt\n'
        'echo new >/srv/www/docs/new.txt\nsleep 2',
    ),
    Task(
        'List the backups',
        {
            'freezer': Way(YES, '', 'freezer-agent --action info', r'level 1 '),
            'restic': Way(YES, '', 'restic snapshots', r'2 snapshots'),
            'borg': Way(YES, '', 'borg list', r'monday[\s\S]*tuesday'),
            'rclone': Way(
                PARTLY,
                'The directories that you made.',
                'rclone lsf store:vault/rclone',
                r'before-tuesday',
            ),
        },
    ),
    Task(
        'Find all versions of a file',
        {
            'freezer': Way(
                YES,
                '',
                "freezer-agent --action find --include '**/report.txt'",
                r'2 versions of 1 path',
            ),
            'restic': Way(
                YES, '', "restic find 'report.txt'", r'(?s)report\.txt.*report\.txt'
            ),
            'borg': Way(
                PARTLY,
                'In one archive at a time.',
                "borg list ::monday 'sh:**/report.txt'\n"
                "borg list ::tuesday 'sh:**/report.txt'",
                r'(?s)report\.txt.*report\.txt',
            ),
            'rclone': Way(
                YES,
                '',
                'rclone lsf --recursive --include report.txt store:vault/rclone',
                r'(?s)report\.txt.*report\.txt',
            ),
        },
    ),
    Task(
        'Restore one file',
        {
            'freezer': Way(
                YES,
                '',
                'freezer-agent --action dump --include docs/report.txt '
                '>/tmp/out/report.txt',
                check=f'{SAME} /tmp/out/report.txt',
            ),
            'restic': Way(
                YES,
                '',
                'restic dump latest /srv/www/docs/report.txt >/tmp/out/report.txt',
                check=f'{SAME} /tmp/out/report.txt',
            ),
            'borg': Way(
                YES,
                '``--stdout`` prints it.',
                'borg extract --stdout ::tuesday srv/www/docs/report.txt '
                '>/tmp/out/report.txt',
                check=f'{SAME} /tmp/out/report.txt',
            ),
            'rclone': Way(
                YES,
                '',
                'rclone cat store:vault/rclone/current/docs/report.txt '
                '>/tmp/out/report.txt',
                check=f'{SAME} /tmp/out/report.txt',
            ),
        },
    ),
    Task(
        'Restore an older state',
        {
            'freezer': Way(
                YES,
                'By date, by tag, or the newest.',
                'freezer-agent --action restore --restore-abs-path /tmp/out/www '
                '--tag monday',
                check='grep -q first /tmp/out/www/docs/report.txt '
                '&& ! test -e /tmp/out/www/docs/new.txt',
            ),
            'restic': Way(
                YES,
                '',
                'restic restore latest --tag monday --target /tmp/out',
                check='grep -q first /tmp/out/srv/www/docs/report.txt '
                '&& ! test -e /tmp/out/srv/www/docs/new.txt',
            ),
            'borg': Way(
                YES,
                '',
                'cd /tmp/out && borg extract ::monday',
                check='grep -q first /tmp/out/srv/www/docs/report.txt '
                '&& ! test -e /tmp/out/srv/www/docs/new.txt',
            ),
            'rclone': Way(
                PARTLY,
                'The replaced files come back; files that were added since remain. '
                'In a bucket with versions, ``--s3-version-at`` shows an older state.',
                'rclone copy store:vault/rclone/current /tmp/out/www\n'
                'rclone copy store:vault/rclone/before-tuesday /tmp/out/www',
                check='grep -q first /tmp/out/www/docs/report.txt '
                '&& test -e /tmp/out/www/docs/new.txt',
            ),
        },
    ),
    Task(
        'Restore in place, and remove other files',
        {
            'freezer': Way(
                YES,
                '``--dry-run`` lists the paths to remove first; ``--keep-extra`` keeps '
                'them.',
                'freezer-agent --action restore --restore-abs-path /srv/www '
                '--overwrite',
                check='grep -q second /srv/www/docs/report.txt '
                '&& ! test -e /srv/www/extra',
            ),
            'restic': Way(
                PARTLY,
                'The files come back; files that are not in the backup remain. '
                '(restic 0.17 and later have ``restore --delete``; not run here.)',
                'restic restore latest --target /',
                check='grep -q second /srv/www/docs/report.txt '
                '&& test -e /srv/www/extra',
            ),
            'borg': Way(
                PARTLY,
                'The files come back; files that are not in the backup remain.',
                'cd / && borg extract ::tuesday',
                check='grep -q second /srv/www/docs/report.txt '
                '&& test -e /srv/www/extra',
            ),
            'rclone': Way(
                YES,
                '',
                'rclone sync --metadata store:vault/rclone/current /srv/www',
                check='grep -q second /srv/www/docs/report.txt '
                '&& ! test -e /srv/www/extra',
            ),
        },
        before='echo damaged >/srv/www/docs/report.txt; echo extra >/srv/www/extra',
    ),
    Task(
        'Hard links are kept',
        {
            'freezer': Way(
                YES,
                '',
                'freezer-agent --action restore --restore-abs-path /tmp/out/www',
                check='test /tmp/out/www/docs/letter.txt '
                '-ef /tmp/out/www/docs/link.txt',
            ),
            'restic': Way(
                YES,
                '',
                'restic restore latest --target /tmp/out',
                check='test /tmp/out/srv/www/docs/letter.txt '
                '-ef /tmp/out/srv/www/docs/link.txt',
            ),
            'borg': Way(
                YES,
                '',
                'cd /tmp/out && borg extract ::tuesday',
                check='test /tmp/out/srv/www/docs/letter.txt '
                '-ef /tmp/out/srv/www/docs/link.txt',
            ),
            'rclone': Way(
                NO,
                'They become two files.',
                'rclone copy store:vault/rclone/current /tmp/out/www',
                check='! test /tmp/out/www/docs/letter.txt '
                '-ef /tmp/out/www/docs/link.txt',
            ),
        },
    ),
    Task(
        'Retention by calendar, and a dry run',
        {
            'freezer': Way(
                YES,
                'A level is kept with the levels that it builds on; the output shows '
                'their size.',
                'freezer-agent --action admin --keep-daily 7 --keep-weekly 5 --dry-run',
                r'Would keep',
            ),
            'restic': Way(
                YES,
                'Every snapshot can be removed on its own; ``--prune`` then frees the '
                'space.',
                'restic forget --keep-daily 7 --keep-weekly 5 --dry-run',
                r'Would have removed|Would remove|keep \d snapshots',
            ),
            'borg': Way(
                YES,
                'Every archive can be removed on its own; ``borg compact`` then frees '
                'the space.',
                'borg prune --keep-daily 7 --keep-weekly 5 --dry-run --list',
                r'(?i)keep|prun',
            ),
            'rclone': Way(
                PARTLY,
                'By age, for the directories of ``--backup-dir``.',
                'rclone delete --min-age 30d --dry-run '
                'store:vault/rclone/before-tuesday',
            ),
        },
    ),
    Task(
        'Pin a backup',
        {
            'freezer': Way(
                YES,
                'No retention of this agent removes it.',
                'freezer-agent --action admin --pin today',
                r'Pinned level 1',
            ),
            'restic': Way(
                PARTLY,
                'By a tag that each ``forget`` has to respect with ``--keep-tag``.',
                'restic tag --add pinned latest\n'
                'restic forget --keep-last 1 --keep-tag pinned --dry-run',
            ),
            'borg': Way(
                PARTLY,
                'By names that the patterns of each ``prune`` leave out.',
                'borg rename ::tuesday pinned-tuesday\n'
                "borg prune --keep-daily 7 --glob-archives '[!p]*' --dry-run --list\n"
                'borg rename ::pinned-tuesday tuesday',
            ),
            'rclone': Way(NO, 'It does not know backups.'),
        },
    ),
    Task(
        'Tags and notes',
        {
            'freezer': Way(
                YES,
                '',
                f"{BACKUP} \\\n    --tag before-upgrade --note 'before Debian 14'\n"
                'freezer-agent --action info --tag before-upgrade',
                r'note: before Debian 14',
            ),
            'restic': Way(
                YES,
                'Tags, also changed later.',
                'restic backup --tag before-upgrade /srv/www\n'
                'restic snapshots --tag before-upgrade',
                r'before-upgrade',
            ),
            'borg': Way(
                YES,
                'One comment per archive.',
                "borg create --comment 'before Debian 14' ::wednesday /srv/www\n"
                'borg info ::wednesday',
                r'before Debian 14',
            ),
            'rclone': Way(NO, 'It does not know backups.'),
        },
    ),
    Task(
        'Test a store before the first backup',
        {
            'freezer': Way(
                YES,
                'Some 30 checks with the features in which stores differ.',
                'freezer-agent --action check',
                r'Backups can be made here',
            ),
            'restic': Way(NO, 'The first backup shows it.'),
            'borg': Way(NO, 'The first backup shows it.'),
            'rclone': Way(
                PARTLY,
                'Which names and sizes a store accepts; made for its developers.',
                'rclone test info --check-normalization store:vault/test',
            ),
        },
    ),
    Task(
        'Check that all objects are there',
        {
            'freezer': Way(
                YES,
                'Also measures each object against its manifest.',
                'freezer-agent --action verify',
                r'no problems found',
            ),
            'restic': Way(YES, '', 'restic check', r'no errors were found'),
            'borg': Way(YES, '', 'borg check'),
            'rclone': Way(
                PARTLY,
                'Compares with the source, which must not have changed.',
                'rclone check --one-way /srv/www store:vault/rclone/current',
            ),
        },
    ),
    Task(
        'Find a changed byte in the store',
        {
            'freezer': Way(
                YES,
                'Names the object, the range, and the dates that still restore.',
                'freezer-agent --action verify --verify-data',
                r'are not the bytes that were',
                code=1,
            ),
            'restic': Way(YES, '', 'restic check --read-data', r'(?i)error', code=1),
            'borg': Way(YES, '', 'borg check --verify-data', r'(?i)error', code=1),
            'rclone': Way(
                PARTLY,
                'Only while the source is there to compare with.',
                'rclone check --download --one-way /srv/www store:vault/rclone/current',
                r'(?i)differ',
                code=1,
            ),
        },
        text='Somebody changes one byte of the largest object of each tool.',
        extra={'damage': 'yes'},
    ),
    Task(
        'Encryption',
        {
            'freezer': Way(
                YES,
                'With the format ``age``; changed backups are refused.',
                'freezer-agent --action backup --path-to-backup /srv/www '
                '--backup-name secret \\\n    --encryption age '
                '--encrypt-pass-file /etc/freezer/passphrase',
            ),
            'restic': Way(
                YES,
                'Always. Changed data is refused.',
                'restic cat config',
                r'chunker_polynomial',
            ),
            'borg': Way(
                YES,
                'Chosen with ``borg init``. Changed data is refused.',
                'borg info',
                r'Encrypted: Yes',
            ),
            'rclone': Way(
                YES,
                'With a remote of the type ``crypt``, here ``secret:``.',
                'rclone sync /srv/www secret:',
                check='! rclone lsf -R store:vault/secret | grep -q report',
            ),
        },
    ),
    Task(
        'Limit the bandwidth',
        {
            'freezer': Way(YES, '', f'{BACKUP} --upload-limit 10M', r'level \d+ of'),
            'restic': Way(YES, '', 'restic backup --limit-upload 10240 /srv/www'),
            'borg': Way(
                PARTLY,
                'For repositories that borg reaches over SSH.',
                'borg create --upload-ratelimit 10240 ::thursday /srv/www',
            ),
            'rclone': Way(YES, 'Also by time of day.', f'{SYNC} --bwlimit 10M'),
        },
    ),
    Task(
        'Two machines at the same time',
        {
            'freezer': Way(
                YES,
                'Each level is claimed on its own; nothing stays locked after a crash.',
                f'{BACKUP} --hostname web1 &\n{BACKUP} --hostname web2 && wait $!',
            ),
            'restic': Way(
                YES,
                'In one repository, with shared data. ``prune`` needs an exclusive '
                'lock, which a crash can leave behind (``restic unlock``).',
                'restic backup --host web1 /srv/www &\n'
                'restic backup --host web2 /srv/www && wait $!',
            ),
            'borg': Way(
                PARTLY,
                'One at a time: the other one waits with ``--lock-wait``, or fails.',
                'borg create ::web1 /srv/www &\n'
                'borg create --lock-wait 60 ::web2 /srv/www && wait $!',
            ),
            'rclone': Way(
                YES,
                'To different directories.',
                'rclone copy /srv/www store:vault/rclone/web1 &\n'
                'rclone copy /srv/www store:vault/rclone/web2 && wait $!',
            ),
        },
    ),
    Task(
        'Object lock against an attacker with the keys',
        {
            'freezer': Way(
                YES,
                'Each object is locked when it is written: :doc:`object-lock`.',
                f'{BACKUP} --container locked/web1 \\\n'
                '    --s3-object-lock-mode COMPLIANCE --s3-object-lock-days 1',
            ),
            'restic': Way(
                NO,
                'restic sets no locks. A bucket with a default retention locks its '
                'objects, but data of old snapshots that new ones use is not locked '
                'again.',
            ),
            'borg': Way(
                PARTLY,
                'Over SSH, ``borg serve --append-only`` refuses to delete.',
            ),
            'rclone': Way(
                YES,
                'Each file, until a date.',
                'rclone copy /srv/www store:locked/rclone '
                '--s3-object-lock-mode COMPLIANCE \\\n    '
                '--s3-object-lock-retain-until-date '
                '"$(date -ud tomorrow +%FT%TZ)"',
            ),
        },
    ),
    Task(
        'Exclude files',
        {
            'freezer': Way(
                YES,
                '',
                'freezer-agent --action backup --path-to-backup /srv/www '
                '--backup-name some \\\n'
                "    --exclude '*.raw' --exclude-caches --exclude-if-present .nobackup "
                '\\\n    --exclude-larger-than 100M',
            ),
            'restic': Way(
                YES,
                '',
                "restic backup --exclude '*.raw' --exclude-caches \\\n"
                '    --exclude-if-present .nobackup --exclude-larger-than 100M '
                '/srv/www',
            ),
            'borg': Way(
                PARTLY,
                'Not by size.',
                "borg create --exclude '*.raw' --exclude-caches \\\n"
                '    --exclude-if-present .nobackup ::some /srv/www',
            ),
            'rclone': Way(
                PARTLY,
                'No caches by ``CACHEDIR.TAG``.',
                "rclone copy --exclude '*.raw' --exclude-if-present .nobackup \\\n"
                '    --max-size 100M /srv/www store:vault/rclone/some',
                check='! rclone lsf -R store:vault/rclone/some | grep -q raw',
            ),
        },
    ),
    Task(
        'Several paths in one backup',
        {
            'freezer': Way(
                YES,
                '``--files-from`` reads a list of paths: :doc:`sources`.',
                'freezer-agent --action backup --backup-name two \\\n'
                '    --path-to-backup /srv/www/docs --path-to-backup /srv/www/photos',
                r'level 0 of',
            ),
            'restic': Way(YES, '', 'restic backup /srv/www/docs /srv/www/photos'),
            'borg': Way(YES, '', 'borg create ::two /srv/www/docs /srv/www/photos'),
            'rclone': Way(NO, 'One source per command.'),
        },
    ),
    Task(
        'Mount the backups',
        {
            'freezer': Way(
                YES,
                '``freezer-agent --action mount --mount-point /mnt``, with FUSE: '
                ':doc:`mount`. Not run here. ``list``, ``find``, ``diff`` and ``dump`` '
                'need no FUSE: :doc:`listing`.',
            ),
            'restic': Way(YES, '``restic mount /mnt``, with FUSE. Not run here.'),
            'borg': Way(
                YES, '``borg mount :: /mnt``, with FUSE and llfuse. Not run here.'
            ),
            'rclone': Way(
                YES, '``rclone mount store:vault /mnt``, with FUSE. Not run here.'
            ),
        },
    ),
    Task(
        'A renamed directory is not stored again',
        {
            'freezer': Way(
                NO,
                'Each level is a tar archive that GNU tar can extract, with its own '
                'copy of the data: :doc:`/contributor/decisions/0022-renames`.',
                BACKUP,
                check='test $STORED -gt 8000000',
            ),
            'restic': Way(
                YES,
                'Equal data is stored once, in all files of all machines.',
                'restic backup /srv/www',
                check='test $STORED -lt 200000',
            ),
            'borg': Way(
                YES,
                'Equal data is stored once, in all files of the repository.',
                'borg create ::renamed /srv/www',
                check='test $STORED -lt 200000',
            ),
            'rclone': Way(
                YES,
                'With ``--track-renames``, the store copies the objects.',
                f'{SYNC} --track-renames',
                check='test $STORED -lt 200000',
            ),
        },
        before='cd /srv/www; test -e pictures || mv photos pictures; sleep 2',
        text='The directory has 8 MB, which do not compress.',
    ),
    Task(
        'Notify when a backup fails',
        {
            'freezer': Way(
                YES,
                'The command gets action, name, exit code and message: '
                ':ref:`notifications`.',
                'freezer-agent --action backup --path-to-backup /srv/missing \\\n'
                "    --on-failure-command 'tee /tmp/out/failed'",
                code=1,
                check='test -e /tmp/out/failed',
            ),
            'restic': Way(NO, 'A script around it reads the exit code.'),
            'borg': Way(NO, 'A script around it reads the exit code.'),
            'rclone': Way(NO, 'A script around it reads the exit code.'),
        },
    ),
    Task(
        'Schedule backups, retry them, keep their history',
        {
            'freezer': Way(
                YES,
                '``freezer-scheduler``, alone or with jobs from freezer-api for many '
                'machines: :doc:`scheduler`.',
                'freezer-scheduler validate /etc/freezer/scheduler/home.conf',
                r'(?i)next|20\d\d-',
            ),
            'restic': Way(NO, 'cron, systemd or another program.'),
            'borg': Way(NO, 'cron, systemd or another program.'),
            'rclone': Way(NO, 'cron, systemd or another program.'),
        },
    ),
    Task(
        'Move the backups to another store',
        {
            'freezer': Way(
                YES,
                'Objects can be copied with any tool; nothing in them names the '
                'bucket.',
                'rclone copy store:vault/web1 store:moved/web1\n'
                'freezer-agent --action verify --container moved/web1',
                r'no problems found',
            ),
            'restic': Way(
                YES,
                '``restic copy`` copies snapshots to another repository; any tool '
                'can copy the whole one.',
                'rclone copy store:vault/restic store:moved/restic\n'
                'restic --repo s3:https://s3.example.com/moved/restic check',
                r'no errors',
            ),
            'borg': Way(
                YES,
                'The directory of a repository can be copied.',
                'cp -a /srv/borg /tmp/out/borg\n'
                'BORG_RELOCATED_REPO_ACCESS_IS_OK=yes borg check /tmp/out/borg',
            ),
            'rclone': Way(YES, '', 'rclone sync store:vault/rclone store:moved/rclone'),
        },
    ),
    Task(
        'Restore without the tool',
        {
            'freezer': Way(
                YES,
                'With tar, gzip and age: :doc:`/reference/format`.',
                'rclone cat "store:vault/web1/$(rclone lsf -R store:vault/web1 '
                "\\\n    | grep 'www.*/0_.*/data$' | head -n 1)\" | tar -tz",
                r'docs/report\.txt',
            ),
            'restic': Way(NO, 'Its format needs restic, or another program for it.'),
            'borg': Way(NO, 'Its format needs borg.'),
            'rclone': Way(YES, 'The objects are the files, unless they are encrypted.'),
        },
    ),
]
