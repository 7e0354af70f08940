"""Compare the error messages in the source with ``doc/source/reference/errors.rst``.

    python -m freezer.tests.errors

prints each message that has no row, and each row that has no message. Only the fixed
text counts: between two values, a literal of an f-string.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import freezer

PACKAGE = Path(freezer.__file__).parent
PAGE = PACKAGE.parent / 'doc/source/reference/errors.rst'

# Calls whose text becomes an error line, beside the constructors of exceptions.
_REPORTS = ('_complain', 'sys.stderr.write')
_EXCEPTION = re.compile(r'\w*(Error|Exception)\Z')
# Of these only a part is shown, behind a text that has a row: the row explains all.
_PARTS = ('RefusedError', 'BrokenError')
# What a row has a hole for: it is there in some cases only.
_OPTIONAL = ('tar printed no reason', ', and its result is:')
# Rows whose words are put together one by one.
_COMPOSED = ('… needs one file: ', '… needs a file: ')
# bech32: its errors are translated by the caller. verify: its problems are a report.
_LEFT_OUT = ('tests', 'stream/bech32.py', 'storage/verify.py')


class Source:
    """The literals of the package, and those that become part of an error line."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self._trees = {
            path.relative_to(package): ast.parse(path.read_text(encoding='utf-8'))
            for path in sorted(package.rglob('*.py'))
            if not str(path.relative_to(package)).startswith(_LEFT_OUT)
        }
        self._exceptions = set(self._find_exceptions())
        #: every literal
        self.texts = {
            _folded(node.value)
            for tree in self._trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        #: literal of an error message -> where it is
        self.messages: dict[str, str] = {}
        for path, tree in self._trees.items():
            for line, text in _Module(tree, self._exceptions).messages():
                self.messages.setdefault(_folded(text), f'{path}:{line}')

    def _find_exceptions(self) -> Iterator[str]:
        classes = [
            node
            for tree in self._trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        ]
        found: set[str] = set()
        for _depth in range(4):
            for each in classes:
                bases = {_name(base) for base in each.bases}
                if bases & found or any(map(_EXCEPTION.match, bases)):
                    found.add(each.name)
        yield from found - set(_PARTS)


class _Module:
    def __init__(self, tree: ast.Module, exceptions: set[str]) -> None:
        self._nodes = list(ast.walk(tree))
        self._exceptions = exceptions
        self._parents = {c: n for n in self._nodes for c in ast.iter_child_nodes(n)}
        self._functions = {
            n.name: n for n in self._nodes if isinstance(n, ast.FunctionDef)
        }
        self._seen: set[ast.AST] = set()

    def messages(self) -> Iterator[tuple[int, str]]:
        """Line and text of each literal that is part of a message."""
        for node in self._nodes:
            if isinstance(node, ast.Call) and self._reports(node):
                said = [*node.args, *(keyword.value for keyword in node.keywords)]
            elif isinstance(node, ast.Yield) and node.value and self._is_problem(node):
                said = [node.value]
            else:
                continue
            self._seen.clear()
            for text in (text for each in said for text in self._literals(each)):
                yield node.lineno, text

    def _reports(self, call: ast.Call) -> bool:
        name, raised = _name(call.func), isinstance(self._parents[call], ast.Raise)
        return (
            name in self._exceptions
            or (name == 'Problem' and len(call.args) > 2)
            or (name in ('ValueError', 'TypeError') and raised)
            or ast.unparse(call.func).endswith(_REPORTS)
        )

    def _is_problem(self, node: ast.AST) -> bool:
        function = self._function(node)
        return function is not None and function.name.endswith('_problems')

    def _literals(self, node: ast.AST) -> Iterator[str]:
        """Those of an expression, of variables in it, and of what functions return."""
        if node in self._seen:
            return
        self._seen.add(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name):
            yield from self._assigned(node)
        elif isinstance(node, ast.Call):
            function = self._functions.get(_name(node.func))
            for each in ast.walk(function) if function else ():
                if isinstance(each, ast.Return) and each.value:
                    yield from self._literals(each.value)
            if _name(node.func) == 'join':
                yield from self._literals(node.args[0])
        elif not isinstance(node, ast.Compare | ast.Subscript | ast.Attribute):
            for child in ast.iter_child_nodes(node):
                yield from self._literals(child)

    def _assigned(self, name: ast.Name) -> Iterator[str]:
        function = self._function(name)
        if function is None:
            return
        for each in ast.walk(function):
            if isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign):
                to = each.targets if isinstance(each, ast.Assign) else [each.target]
                if each.value and name.id in map(_name, to):
                    yield from self._literals(each.value)
        parameters = [each.arg for each in function.args.args]
        if name.id in parameters:
            index = parameters.index(name.id) - (parameters[0] in ('self', 'cls'))
            for call in self._nodes:
                if isinstance(call, ast.Call) and _name(call.func) == function.name:
                    for value in call.args[index : index + 1]:
                        yield from self._literals(value)

    def _function(self, node: ast.AST | None) -> ast.FunctionDef | None:
        while node is not None and not isinstance(node, ast.FunctionDef):
            node = self._parents.get(node)
        return node


def rows(page: str) -> list[str]:
    """The texts in the first column of the page's tables; a cell may have several."""
    cells = re.findall(r'^   \* - (.+?)^     - ', page, re.DOTALL | re.MULTILINE)
    texts = (text for cell in cells for text in re.findall(r'(?s)``(.+?)``', cell))
    return [_folded(text) for text in texts]


def without_row(source: Source, listed: list[str]) -> dict[str, str]:
    """Literals that no row has -> where they are. One or two words may be a name."""
    page = '\n'.join(listed)
    return {
        text: where
        for text, where in source.messages.items()
        if _words(text) > 2
        and len(text.split()) > 2
        and text not in _OPTIONAL
        and text not in page
    }


def without_message(source: Source, listed: list[str]) -> list[str]:
    """Rows with more than two words together that no literal of the package has."""
    texts = (part.strip() for text in source.texts for part in text.split('…'))
    phrases = {text for text in texts if ' ' in text}
    return [
        row
        for row in listed
        if not _is_made_of(row, phrases) and not row.startswith(_COMPOSED)
    ]


def _is_made_of(row: str, phrases: set[str]) -> bool:
    known = [text for text in phrases if text in row]
    for part in row.split('…'):
        left = part
        for text in sorted(known, key=len, reverse=True):
            left = left.replace(text, '|')
        if _words(left) > 2:
            return False
    return True


def _name(node: ast.AST) -> str:
    return getattr(node, 'attr', '') or getattr(node, 'id', '')


def _words(text: str) -> int:
    return len(re.findall(r'[A-Za-z][\w-]*', text))


def _folded(text: str) -> str:
    return ' '.join(text.split())


if __name__ == '__main__':
    source, listed = Source(), rows(PAGE.read_text(encoding='utf-8'))
    for text, where in (lacking := without_row(source, listed)).items():
        print(f'{where}: not on the page:\n\n   * - ``{text}``\n     - \n')
    for row in (dead := without_message(source, listed)):
        print(f'no code has this row: {row}')
    sys.exit(bool(lacking or dead))
