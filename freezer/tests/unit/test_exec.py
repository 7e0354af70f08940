"""Action exec: how a command is split, and what only a shell can do."""

import pytest

from freezer.exceptions import ConfigError
from freezer.utils.commands import split


@pytest.mark.parametrize(
    'command, operator',
    [
        ('a && b', '&&'),
        ('a&&b', '&&'),
        ('a || b', '||'),
        ('a |& b', '|&'),
        ('a ; b', ';'),
        ('a ; find / -exec b {} ;', ';'),
        ('a; b', ';'),
        ('a &', '&'),
        ('mysqldump db > /srv/db.sql', '>'),
        ('a >>/log', '>>'),
        ('a 2>/dev/null', '>'),
        ('a 2>&1', '>'),
        ('a < /in', '<'),
        ('a << END', '<<'),
        ('a `date`', '`'),
        ('a $(date)', '$('),
        ('(a)', '('),
        ("a 'b' && c", '&&'),
        ("a 'b && c' > d", '>'),
    ],
)
def test_operators_of_a_shell_are_refused(command: str, operator: str) -> None:
    with pytest.raises(ConfigError, match="write sh -c '…'") as raised:
        split('command', command)
    assert f'command: {operator} is for a shell' in str(raised.value)


@pytest.mark.parametrize(
    'command, expected',
    [
        ("sh -c 'a && b > c'", [['sh', '-c', 'a && b > c']]),
        ('sh -c "a; b `c` $D"', [['sh', '-c', 'a; b `c` $D']]),
        (r'sh -c "a \" && b"', [['sh', '-c', 'a " && b']]),
        (r'find / -exec rm {} \;', [['find', '/', '-exec', 'rm', '{}', ';']]),
        ("find / -exec rm {} ';'", [['find', '/', '-exec', 'rm', '{}', ';']]),
        ('echo $HOME', [['echo', '$HOME']]),
        ('find / -name *.log', [['find', '/', '-name', '*.log']]),
        ('a "x y" | b', [['a', 'x y'], ['b']]),
        ("curl 'http://x/?a=1&b=2'", [['curl', 'http://x/?a=1&b=2']]),
        ('curl http://x/?a=1&b=2', [['curl', 'http://x/?a=1&b=2']]),
        ('find / -exec rm {} ;', [['find', '/', '-exec', 'rm', '{}', ';']]),
        ('grep a$ b', [['grep', 'a$', 'b']]),
    ],
)
def test_commands_that_need_no_shell(command: str, expected: list[list[str]]) -> None:
    assert split('command', command) == expected
