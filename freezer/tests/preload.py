"""Imports all that an agent may need; for the process that agents are forks of."""

import contextlib
import gc
import importlib
import pkgutil

import stevedore

import freezer

# Nothing imports these at its top, because they take long to load.
_LATE = (
    *('botocore.session', 'botocore.client', 'botocore.signers', 'botocore.handlers'),
    *('botocore.httpsession', 'botocore.parsers', 'botocore.retryhandler'),
    *('prettytable', 'tqdm', 'oslo_log.log', 'urllib3.connectionpool'),
)

_OURS = [
    found.name
    for found in pkgutil.walk_packages(freezer.__path__, 'freezer.')
    if not found.name.startswith(('freezer.tests', 'freezer.scheduler'))
]
for _name in (*_OURS, *_LATE):
    # Of an extra that is not installed.
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)
# It searches all that is installed, and remembers what it found.
stevedore.ExtensionManager('freezer.storages')
# Otherwise every fork would copy all objects when its collector looks at them.
gc.collect()
gc.freeze()
