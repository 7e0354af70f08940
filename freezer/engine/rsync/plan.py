"""What a level's engine file lists, for the plan of a restore."""

from freezer.engine.rsync.state import StateFile
from freezer.engine.tar.plan import Listing


def listing(state: StateFile) -> Listing:
    """
    :raises EngineError: the file is damaged
    """
    found = Listing()
    paths = 0
    is_tree = False
    for path, kind in state.paths():
        if path:
            found.add(path, kind == 'directory')
        paths += 1
        is_tree = is_tree or kind == 'directory' or b'/' in path
    # A single file, which is beside others, or a directory with a single file.
    found.is_tree = is_tree or paths != 1
    return found
