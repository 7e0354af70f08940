"""The options of mode mongo, apart from it, so that ``--help`` does not import it."""

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(
    groups={
        'mongo': (
            cfg.StrOpt(
                'uri',
                metavar='URI',
                default='mongodb://localhost:27017',
                secret=True,
                help='The mongod of this machine: mongodb://USER:PASSWORD@HOST:PORT/ '
                'and any options of MongoDB. Also from MONGO_URI in the environment, '
                'where, unlike on the command line, other users of the machine cannot '
                'see the password.',
            ),
            cfg.BoolOpt(
                'fsync-lock',
                default=False,
                help='Block writes by fsyncLock until the snapshot exists; without '
                '--snapshot, until the backup has been read. Required for a secondary, '
                'and without --snapshot.',
            ),
            cfg.FloatOpt(
                'timeout',
                metavar='SECONDS',
                default=10.0,
                min=0.1,
                help='Seconds to wait for the server, and for its lock.',
            ),
        )
    },
    environment={'mongo_uri': 'MONGO_URI'},
)
