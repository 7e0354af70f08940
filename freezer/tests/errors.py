"""What the programs can say when they fail, read out of their source; and the page
that lists it.

    python -m freezer.tests.errors

prints what ``doc/source/reference/errors.rst`` lacks, as rows to be filled in, and what
it has too many.
"""

import ast
import importlib
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import freezer
from freezer.exceptions import FreezerError
from freezer.scheduler.documents.document import Problem
from freezer.storage.exceptions import StorageException

PACKAGE = Path(freezer.__file__).parent
PAGE = PACKAGE.parent / 'doc/source/reference/errors.rst'
#: stands for what is only known when it happens: a name, a number, the system's words
HOLE = '…'
# Of an expression, more than this is not one message with a few variants.
_MOST_TEXTS = 100

# Exceptions whose text becomes part of a line. The guard's reasons (RefusedError,
# BrokenError) all mean the same to who restores: the row of their line says what.
_PARTS = ('_Wrong', '_Malformed', 'ValueError', 'TypeError')
# Functions that print the line they are given; stderr.write is one of them.
_PRINTERS = ('_complain', 'write')
# Their errors are translated where they are called.
_INNER = ('freezer.stream.bech32',)
# Generators of problems that become one line.
_GENERATORS = re.compile(r'\w+_problems\Z')


# Function and name in it.
_Way = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Said:
    """A text, and one place that may say it."""

    text: str
    where: str


def collect(folder: Path = PACKAGE) -> dict[str, str]:
    """Text with holes -> a place in the code, of all there are."""
    readers = list(_readers(folder))
    found: dict[str, str] = {}
    for reader in readers:
        reader.others = readers
        for said in reader:
            found.setdefault(said.text, said.where)
    return found


def _readers(folder: Path) -> Iterator['Reader']:
    for path in sorted(folder.rglob('*.py')):
        parts = path.relative_to(folder).parts
        if parts[0] == 'tests':
            continue
        name = '.'.join((folder.name, *parts)).removesuffix('.py')
        name = name.removesuffix('.__init__')
        if name in _INNER:
            continue
        module = importlib.import_module(name)
        where = path.relative_to(folder.parent)
        yield Reader(path.read_text(encoding='utf-8'), module, str(where))


class Reader:
    """The texts of one module.

    :param module: what it is imported as; names in it are looked up there
    """

    #: where inherited methods are looked for
    others: Sequence['Reader'] = ()

    def __init__(self, source: str, module: Any, where: str = '') -> None:
        tree = ast.parse(source)
        self._nodes = list(ast.walk(tree))
        self._module = module
        self._where = where
        self._parents = {
            child: node for node in self._nodes for child in ast.iter_child_nodes(node)
        }
        self._functions = {
            node.name: node for node in self._nodes if isinstance(node, ast.FunctionDef)
        }
        self._imports = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in self._nodes
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def __iter__(self) -> Iterator[Said]:
        for node in self._nodes:
            for text in self._texts(self._message(node)):
                shown = ' '.join(re.sub(f'{HOLE}(0?{HOLE})+', HOLE, text).split())
                yield Said(shown, f'{self._where}:{node.lineno}')  # type: ignore[attr-defined]

    def _message(self, node: ast.AST) -> ast.expr | None:
        """What is said, where something is."""
        if isinstance(node, ast.Yield):
            function = self._function(node)
            named = function is not None and _GENERATORS.match(function.name)
            return node.value if named else None
        if not isinstance(node, ast.Call):
            return None
        name = _last_name(node.func)
        given = [*node.args, *(each.value for each in node.keywords)]
        if name == 'write' and ast.unparse(node.func) != 'sys.stderr.write':
            return None
        if name in _PRINTERS or (
            name in _PARTS and isinstance(self._parents.get(node), ast.Raise)
        ):
            return given[0] if given else None
        kind = self._value(node.func)
        if kind is Problem:
            return given[2]
        if isinstance(kind, type) and issubclass(kind, FreezerError | StorageException):
            return given[0] if given else None
        return None

    def _value(self, node: ast.expr) -> Any:
        """What a name stands for, also one imported inside a function."""
        if isinstance(node, ast.Attribute):
            return getattr(self._value(node.value), node.attr, None)
        if not isinstance(node, ast.Name):
            return None
        if hasattr(self._module, node.id):
            return getattr(self._module, node.id)
        module, name = self._imports.get(node.id, ('', ''))
        # Others have no error of ours, and may be extras that are not installed.
        if module.partition('.')[0] != 'freezer':
            return None
        return getattr(importlib.import_module(module), name, None)

    def _texts(self, node: ast.expr | None, way: _Way = ()) -> set[str]:
        """Every text an expression may be; empty where there is none.

        :param way: the names that were followed to get here: none is followed twice
        """
        if node is None:
            return set()
        if isinstance(node, ast.Constant):
            return {node.value} if isinstance(node.value, str) else {HOLE}
        if isinstance(node, ast.FormattedValue):
            return self._texts(node.value, way)
        if isinstance(node, ast.JoinedStr):
            return _joined(self._texts(each, way) for each in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return _joined(self._texts(each, way) for each in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            either = self._texts(node.body, way) | self._texts(node.orelse, way)
            # What may be left out is a hole, too: else variants multiply.
            return {HOLE} if '' in either else either
        if isinstance(node, ast.Name):
            return self._of_name(node, way)
        if isinstance(node, ast.Call):
            return self._of_call(node, way)
        return {HOLE}

    def _of_name(self, node: ast.Name, way: _Way) -> set[str]:
        function = self._function(node)
        while function is not None:
            if (function.name, node.id) in way:
                return {HOLE}
            way = (*way, (function.name, node.id))
            found = self._assigned(function, node.id, way)
            parameters = [each.arg for each in function.args.args]
            if not found and node.id in parameters:
                found = self._given(function, parameters.index(node.id), way)
                found = _sentences(found)
            if found:
                return found
            function = self._function(self._parents[function])
        value = getattr(self._module, node.id, None)
        return {value} if isinstance(value, str) else {HOLE}

    def _assigned(self, function: ast.FunctionDef, name: str, way: _Way) -> set[str]:
        found: set[str] = set()
        added = False
        for each in ast.walk(function):
            if isinstance(each, ast.Assign):
                targets = each.targets
            elif isinstance(each, ast.AnnAssign | ast.AugAssign):
                targets = [each.target]
            else:
                continue
            if any(isinstance(to, ast.Name) and to.id == name for to in targets):
                if isinstance(each, ast.AugAssign):
                    added = True
                else:
                    found |= self._texts(each.value, way)
        return _joined((found, {HOLE})) if added else found

    def _given(self, function: ast.FunctionDef, index: int, way: _Way) -> set[str]:
        """What a parameter is given by those who call, in the same module."""
        found: set[str] = set()
        method = function.args.args[0].arg in ('self', 'cls')
        name = function.args.args[index].arg
        for node in self._nodes:
            if isinstance(node, ast.Call) and _last_name(node.func) == function.name:
                at = index - method
                if at < len(node.args):
                    found |= self._texts(node.args[at], way)
                for keyword in node.keywords:
                    if keyword.arg == name:
                        found |= self._texts(keyword.value, way)
        return found

    def _of_call(self, node: ast.Call, way: _Way) -> set[str]:
        """Of a function in the same module, or an inherited method: what it returns."""
        name = _last_name(node.func)
        method = (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ('self', 'cls')
        )
        if (name, '') in way or not (method or isinstance(node.func, ast.Name)):
            return {HOLE}
        homes = [self] if name in self._functions else []
        if method and not homes:
            homes = [other for other in self.others if name in other._functions]
        # One that several classes have may be anything.
        return homes[0]._returned(name, way) if len(homes) == 1 else {HOLE}

    def _returned(self, name: str, way: _Way) -> set[str]:
        function = self._functions[name]
        found: set[str] = set()
        for each in ast.walk(function):
            if isinstance(each, ast.Return) and self._function(each) is function:
                found |= self._texts(each.value, (*way, (name, '')))
        return _sentences(found) or {HOLE}

    def _function(self, node: ast.AST | None) -> ast.FunctionDef | None:
        while node is not None and not isinstance(node, ast.FunctionDef):
            node = self._parents.get(node)
        return node


def on_page(page: str) -> list[str]:
    """The texts in the first column of the page's tables, several to a row or one."""
    rows = re.findall(r'^   \* - (.+?)^     - ', page, re.DOTALL | re.MULTILINE)
    return [
        ' '.join(text.split())
        for row in rows
        for text in re.findall(r'``(.+?)``', row, re.DOTALL)
    ]


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ''


def _sentences(texts: set[str]) -> set[str]:
    """A word alone is a name, or an address: not what is said, but of what."""
    return {text if ' ' in text else HOLE for text in texts}


def _joined(parts: Iterable[set[str]]) -> set[str]:
    """Every way to join one of each; a hole where there are too many."""
    texts = {''}
    for part in parts:
        texts = {a + b for a, b in itertools.product(texts, part)}
        if len(texts) > _MOST_TEXTS:
            return {HOLE}
    return texts


def _main() -> int:
    said = collect()
    listed = on_page(PAGE.read_text(encoding='utf-8'))
    lacking = {text: where for text, where in said.items() if text not in listed}
    for text, where in lacking.items():
        print(f'{where} says what is not on the page:\n\n   * - ``{text}``\n     - \n')
    idle = [text for text in listed if text not in said]
    for text in idle:
        print(f'The page has what no code says: {text}')
    return 1 if lacking or idle else 0


if __name__ == '__main__':
    sys.exit(_main())
