"""What the four plugins declare. Imported by every command: nothing heavy here."""

import os

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions

STORAGE = PluginOptions(
    groups={
        'sqlite': [
            cfg.FloatOpt(
                'busy-timeout',
                default=60.0,
                min=0.0,
                help='Seconds to wait for another agent that writes to the database.',
            )
        ]
    },
    environment={'sqlite_busy_timeout': 'SQLITE_BUSY_TIMEOUT'},
    # The database is one place, however its path is written.
    place=lambda container, _options: os.path.realpath(container),
)

ENGINE = PluginOptions(
    groups={
        'sqldump': [
            cfg.StrOpt('mask', help='Column to mask in the dump, as TABLE.COLUMN.'),
            cfg.StrOpt(
                'mask-key-file',
                help='File with the key that masked values depend on.',
            ),
        ]
    },
    secret_files=['sqldump_mask_key_file'],
)

MODE = PluginOptions(
    groups={
        # Freezer 19 has an option of this name; this one takes its place.
        None: [
            cfg.FloatOpt(
                'timeout',
                default=10.0,
                min=0.0,
                help='Seconds to wait for the lock on the database.',
            )
        ]
    }
)

SNAPSHOT = PluginOptions(
    groups={
        'copy': [
            cfg.StrOpt(
                'directory',
                help='Where copies are made. Default: beside what is backed up.',
            )
        ]
    }
)
