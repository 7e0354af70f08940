"""A model of which paths below a target may be symbolic links."""

from __future__ import annotations

from typing import Final

from freezer.engine.tar.headers import RefusedError

MAX_MERGES: Final = 1_000_000
"""Model entries merged in one archive because renames collide: without a limit such
renames could make the model grow exponentially."""

NOT_A_LINK: Final = -1


class Node:
    """The model of one path, and of the paths below it."""

    __slots__ = ('kids', 'link', 'locked', 'shared')

    def __init__(self) -> None:
        self.kids: dict[bytes, Node] = {}
        self.link = NOT_A_LINK
        """Number of the archive that made it a symbolic link; 0 is the first scan."""
        self.locked = NOT_A_LINK
        """Up to this archive, tar may be unable to remove entries of this directory."""
        self.shared = False
        """It is in more than one place of the tree: copy before writing."""

    def copy(self) -> Node:
        new = Node()
        new.link, new.locked = self.link, self.locked
        new.kids = dict(self.kids)
        for kid in self.kids.values():
            kid.shared = True
        return new


class Links:
    """The model: which paths below the target may be symbolic links.

    A tree, so that renaming a directory is cheap. Nodes are shared between the old and
    the new name and copied on the first write.
    """

    def __init__(self) -> None:
        self._root = Node()
        self._merges = 0

    def copy(self) -> Links:
        """Another model of the same paths; changes of one do not show in the other."""
        new = Links()
        new._root = self._root.copy()
        return new

    def begin_archive(self) -> None:
        self._merges = MAX_MERGES

    def find(self, path: list[bytes]) -> Node | None:
        node: Node | None = self._root
        for part in path:
            if node is None:
                return None
            node = node.kids.get(part)
        return node

    def own(self, path: list[bytes]) -> Node:
        """The node of a path, for writing."""
        node = self._root
        for part in path:
            kid = node.kids.get(part)
            if kid is None:
                kid = node.kids[part] = Node()
            elif kid.shared:
                kid = node.kids[part] = kid.copy()
            node = kid
        return node

    def link_on_the_way(self, path: list[bytes]) -> bytes | None:
        """The first symbolic link that opening the path would follow."""
        node = self._root
        for depth, part in enumerate(path[:-1], 1):
            kid = node.kids.get(part)
            if kid is None:
                return None
            if kid.link != NOT_A_LINK:
                return b'/'.join(path[:depth])
            node = kid
        return None

    def put(self, path: list[bytes], node: Node) -> None:
        """Add a node of this tree at another path."""
        node.shared = True
        parent = self.own(path[:-1])
        there = parent.kids.get(path[-1])
        parent.kids[path[-1]] = node if there is None else self.merge(there, node)

    def merge(self, one: Node, other: Node) -> Node:
        """A node that models both. Raises :class:`RefusedError` beyond the limit."""
        top = Node()
        todo = [(top, one, other)]
        while todo:
            new, a, b = todo.pop()
            self._merges -= 1 + len(a.kids) + len(b.kids)
            if self._merges < 0:
                raise RefusedError('its renames collide too often')
            new.link = max(a.link, b.link)
            new.locked = max(a.locked, b.locked)
            new.kids = a.copy().kids
            for name, kid in b.kids.items():
                there = new.kids.get(name)
                if there is None or there is kid:
                    kid.shared = True
                    new.kids[name] = kid
                else:
                    new.kids[name] = both = Node()
                    todo.append((both, there, kid))
        return top
