"""Transactions whose sum must hold: whether a database is consistent."""

import contextlib
import random
import threading
from collections.abc import Iterator

import pymysql

from freezer.tests.servers.mariadb import MariaDb

_ROWS = 2000
_WRONG = """
SELECT count(*) FROM bank.accounts JOIN (
    SELECT id, sum(amount) AS total FROM (
        SELECT target AS id, amount FROM bank.ledger
        UNION ALL SELECT source, -amount FROM bank.ledger
    ) AS moves GROUP BY id
) AS sums USING (id) WHERE balance <> total
"""


def build(server: MariaDb, rows: int = _ROWS) -> None:
    """Accounts, all of them empty."""
    with server.session() as cursor:
        for statement in (
            'CREATE DATABASE bank',
            'CREATE TABLE bank.accounts (id int PRIMARY KEY, balance bigint NOT NULL, '
            'pad varbinary(900)) ENGINE=InnoDB',
            'CREATE TABLE bank.ledger (id bigint AUTO_INCREMENT PRIMARY KEY, '
            'source int, target int, amount int) ENGINE=InnoDB',
            'CREATE TABLE bank.notes (id bigint AUTO_INCREMENT PRIMARY KEY, '
            'text varchar(100), KEY (text)) ENGINE=MyISAM',
            f'INSERT INTO bank.accounts SELECT seq, 0, repeat(sha2(seq, 512), 7) '
            f'FROM bank.seq_0_to_{rows - 1}',
        ):
            cursor.execute(statement)


@contextlib.contextmanager
def load(server: MariaDb, rows: int = _ROWS) -> Iterator[None]:
    """Transfers between accounts, by two clients, as long as the block runs."""
    stop = threading.Event()
    failed: list[Exception] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        try:
            with server.session(autocommit=False, database='bank') as cursor:
                while not stop.is_set():
                    source, target = choose.sample(range(rows), 2)
                    amount = choose.randrange(1, 100)
                    moves = sorted(((source, -amount), (target, amount)))
                    for account, change in moves:
                        cursor.execute(
                            'UPDATE accounts SET balance = balance + %s, '
                            'pad = reverse(pad) WHERE id = %s',
                            (change, account),
                        )
                    cursor.execute(
                        'INSERT INTO ledger (source, target, amount) '
                        'VALUES (%s, %s, %s)',
                        (source, target, amount),
                    )
                    cursor.execute(
                        'INSERT INTO notes (text) VALUES (%s)', (str(moves),)
                    )
                    cursor.connection.commit()
        except (pymysql.MySQLError, OSError) as error:
            failed.append(error)

    clients = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stop.set()
        for client in clients:
            client.join()
    if failed:
        raise failed[0]


def check(server: MariaDb) -> int:
    """Check all of it; how many transfers there are."""
    [(total,)] = server.query('SELECT sum(balance) FROM bank.accounts')
    [(wrong,)] = server.query(_WRONG)
    [(transfers,)] = server.query('SELECT count(*) FROM bank.ledger')
    assert (int(total), wrong) == (0, 0)
    for table in ('accounts', 'ledger', 'notes'):
        *_, (_name, _what, kind, text) = server.query(f'CHECK TABLE bank.{table}')
        assert (kind, text) == ('status', 'OK'), (table, kind, text)
    return int(transfers)
