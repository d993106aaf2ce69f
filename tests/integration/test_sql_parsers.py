"""The splitters against the parsers that decide: PostgreSQL's, psql's and ClickHouse's."""

import ctypes
import ctypes.util
import io
import json
import os
import random
import re
import shutil
import subprocess

import pytest
from ansible_collections.frameworks.database.plugins.module_utils.sql_clickhouse import ClickHouseSplitter
from ansible_collections.frameworks.database.plugins.module_utils.sql_postgres import PostgresSplitter
from ansible_collections.frameworks.database.plugins.module_utils.sql_script import ScriptError
from support.sql import CLICKHOUSE_PIECES, POSTGRES_PIECES

# Whole statements that are valid, each with a semicolon or a quote somewhere that must not count.
POSTGRES_STATEMENTS = [
    "SELECT 'a;b'",
    "SELECT E'\\';'",
    "SELECT '\\'",
    "SELECT $$;$$",
    "SELECT $t$ ; $$ ' $t$",
    'SELECT 1 AS "a;""b"',
    "SELECT /* ; /* ' */ ; */ 1",
    "SELECT 1 -- ;'\n",
    "SELECT E'a'\n'\\';'",
    "SELECT E'a' -- '\n '\\';'",
    "SELECT U&'\\0061;'",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM u; DELETE FROM v)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END",
    "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); DELETE FROM t; END",
    "DO $do$ BEGIN PERFORM 1; END $do$",
    "BEGIN",
    "END",
    "SELECT 1 AS a$b$",
    "SELECT 2 AS c$b$",
    "SELECT case when true then 1 end",
    "INSERT INTO t VALUES (1, ';'), (2, $x$;$x$)",
    "COMMENT ON TABLE t IS 'it''s; so'",
    "SELECT B'1', X'1f', N'a;'",
    "CREATE FUNCTION g(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN a > 1 THEN 1 ELSE 2 END; "
    "END $$",
]
CLICKHOUSE_STATEMENTS = [
    "SELECT 'a;b'",
    "SELECT '\\';'",
    "SELECT `a;\\`` FROM t",
    'SELECT "a;\\"" FROM t',
    "SELECT $$;$$",
    "SELECT $t$ ; $$ ' $t$",
    "SELECT /* ; /* ' */ ; */ 1",
    "SELECT 1 -- ;'\n",
    "SELECT 1 // ;'\n",
    "SELECT 1 # ;'\n",
    "SELECT 1 #! ;'\n",
    "SELECT ‘;’",
    "CREATE TABLE t (a UInt8 COMMENT ';', b String DEFAULT '\\';') ENGINE = MergeTree ORDER BY a",
    "CREATE FUNCTION f AS (x) -> concat(x, ';')",
    "ALTER TABLE t COMMENT COLUMN a 'it''s; so'",
    "SELECT 1 AS a$b$",
    "SELECT 2 AS c$b$",
    "INSERT INTO t VALUES (1, ';'), (2, '\\';')",
    "GRANT SELECT ON d.* TO u",
    "SELECT x'3b', b'1'",
    "CREATE VIEW v AS SELECT ';' AS a",
]


class Parser:
    """PostgreSQL's own: libpq's Parse message takes one statement and no more."""

    def __init__(self, server):
        name = ctypes.util.find_library("pq")
        if name is None:
            pytest.skip("libpq is not installed")
        self.pq = ctypes.CDLL(name)
        for function in ("PQconnectdb", "PQexec", "PQprepare"):
            getattr(self.pq, function).restype = ctypes.c_void_p
        self.pq.PQresultErrorField.restype = ctypes.c_char_p
        self.connection = ctypes.c_void_p(
            self.pq.PQconnectdb(
                f"host={server.host} port={server.port} user={server.superuser} password='{server.password}'".encode()
            )
        )
        # In a failed transaction everything is parsed and nothing is done.
        self.pq.PQclear(ctypes.c_void_p(self.pq.PQexec(self.connection, b"BEGIN; SELECT 1/0")))

    def state(self, text):
        """25P02 where `text` is one statement, 42601 where it is none that parses, or several; '' where it is empty."""
        result = ctypes.c_void_p(self.pq.PQprepare(self.connection, b"", text.encode(), 0, None))
        state = self.pq.PQresultErrorField(result, ord("C"))
        self.pq.PQclear(result)
        return (state or b"").decode()

    def close(self):
        self.pq.PQfinish(self.connection)


@pytest.fixture
def parser(postgres):
    """A Parser."""
    made = Parser(postgres)
    yield made
    made.close()


def split(splitter, text):
    """The statements' texts."""
    return [statement.text for statement in splitter(io.BytesIO(text.encode()))]


def joined(chooser, statements):
    """Some of `statements` with semicolons, and things that are easy to misread, between them."""
    gaps = [";", ";\n", " ;", ";;", ";\n-- it's ;\n", ";/* ; */", ";\t\n"]
    chosen = [chooser.choice(statements) for _ in range(chooser.randint(1, 6))]
    return chosen, "".join(statement + chooser.choice(gaps) for statement in chosen)


def test_the_parser_of_the_test_can_tell(parser):
    assert [parser.state(text) for text in ("SELECT 1", "SELECT 1; SELECT 2", "SELEC 1", "")] == [
        "25P02",
        "42601",
        "42601",
        "",
    ]


def test_postgresql_takes_each_statement_as_one(parser):
    chooser = random.Random(1)
    for _ in range(400):
        chosen, text = joined(chooser, POSTGRES_STATEMENTS)
        found = split(PostgresSplitter, text)
        assert found == [statement.strip() for statement in chosen], text
        # END is the one statement here that a failed transaction takes.
        assert all(parser.state(statement) == ("" if statement == "END" else "25P02") for statement in found), text


def test_random_text_is_split_as_psql_splits_it(postgres, postgres_database, tmp_path):
    """psql logs what it sends; the pieces hold no backslash outside of quotes and no colon, which are its own."""
    if not shutil.which("psql"):
        pytest.skip("psql is not installed")
    # Nor a string that goes on after a line's end: there psql, which reads by lines, is wrong and the server right.
    pieces = [piece for piece in POSTGRES_PIECES if ":" not in piece and "\n'" not in piece]
    pieces += [
        ";",
        "(",
        ")",
        "BEGIN",
        "END",
        "CASE",
        "CREATE",
        "FUNCTION",
        "OR",
        "REPLACE",
        "ATOMIC",
        "SELECT",
        "$",
        "$x",
        "'",
        "\n",
    ]
    chooser, script, expected, marker = random.Random(2), [], [], "SELECT 'end of case %d'"
    for case in range(1500):
        text = " ".join(chooser.choice(pieces) for _ in range(chooser.randint(1, 12)))
        try:
            statements = list(PostgresSplitter(io.BytesIO(f"{text}\n;\n{marker % case};\n".encode())))
        except ScriptError:
            continue  # a string that stays open: psql would wait for its end
        found = [statement.text for statement in statements]
        if found[-1] != marker % case or any(statement.kind == "meta" for statement in statements):
            continue  # a parenthesis that stays open, a backslash outside of a string
        script.append(text + "\n;\n" + marker % case + ";\n")
        expected += found
    path, log = tmp_path / "soup.sql", tmp_path / "log"
    path.write_text("".join(script))
    subprocess.run(
        ["psql", "-X", "-q", "-L", log, "-f", path],
        text=True,
        capture_output=True,
        check=False,
        env={
            **os.environ,
            "PGHOST": postgres.host,
            "PGPORT": str(postgres.port),
            "PGUSER": postgres.superuser,
            "PGPASSWORD": postgres.password,
            "PGDATABASE": postgres_database,
            "PGCLIENTENCODING": "UTF8",
        },
    )
    stars = r"[/*]\*{8,} QUERY \*+/?\n(.*?)\n[/*]\*{20,}/?\n"
    sent = [split(PostgresSplitter, query) for query in re.findall(stars, log.read_text(), re.S)]
    assert len(expected) > 1500
    assert [statements for statements in sent if statements] == [[statement] for statement in expected]


def test_clickhouse_takes_each_statement_as_one(clickhouse):
    chooser = random.Random(3)
    for _ in range(60):
        chosen, text = joined(chooser, CLICKHOUSE_STATEMENTS)
        found = split(ClickHouseSplitter, text)
        assert found == [statement.strip() for statement in chosen], text
        parsed(clickhouse, found)


def parsed(server, statements):
    """Have the real parser read each statement; RuntimeError where it finds none, or more than one."""
    literals = ", ".join("'" + s.replace("\\", "\\\\").replace("'", "\\'") + "'" for s in statements)
    server.query(f"SELECT formatQuery(arrayJoin([{literals}])) FORMAT Null")


def cut_by_clickhouse(server, text):
    """The statements that ClickHouse's own lexer cuts `text` into, or None where something stays open."""
    literal = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    tokens = json.loads(server.query(f"SELECT toJSONString(tokenizeQuery({literal})) FORMAT TSVRaw"))
    if any("NotClosed" in token["type"] for token in tokens):
        return None
    found, begin, end = [], None, None
    for token in [*tokens, {"type": "Semicolon"}]:
        if token["type"] == "Semicolon":
            if begin is not None:
                found.append((begin, end))
            begin = None
        elif token["type"] not in ("Whitespace", "Comment"):
            begin, end = token["begin"] if begin is None else begin, token["end"]
    return [text.encode()[begin:end].decode() for begin, end in found]


def test_random_text_is_split_as_clickhouse_splits_it(clickhouse):
    chooser, compared = random.Random(6), 0
    pieces = [
        *CLICKHOUSE_PIECES,
        ";",
        "'",
        "`",
        '"',
        "--",
        "//",
        "#",
        "# ",
        "#!",
        "/*",
        "*/",
        "$",
        "$$",
        "$x",
        "\n",
        "\\",
        "x'",
        "E'\\'",
    ]
    for _ in range(700):
        text = "".join(chooser.choice(pieces) + chooser.choice(["", " "]) for _ in range(chooser.randint(1, 14)))
        expected = cut_by_clickhouse(clickhouse, text)
        if expected is None:
            continue
        try:
            found = split(ClickHouseSplitter, text)
        except ScriptError:
            # The one known difference: a dollar quote that never ends is a name to ClickHouse, and refused by us.
            assert re.search(r"\$\w*\$", text), text
            continue
        # Comments behind the last token are ours to keep.
        assert [cut_by_clickhouse(clickhouse, statement) for statement in found] == [[e] for e in expected], text
        compared += 1
    assert compared > 200


@pytest.mark.parametrize("format_name", ["Values", "CSV", "TSV", "JSONEachRow"])
def test_clickhouse_takes_inline_data(clickhouse, clickhouse_database, format_name):
    rows = {"Values": "(1, 'a;b')", "CSV": "1,\"a;b\"", "TSV": "1\ta;b", "JSONEachRow": '{"n": 1, "s": "a;b"}'}[
        format_name
    ]
    end = ";" if format_name == "Values" else ""
    clickhouse.query(f"CREATE TABLE {clickhouse_database}.t (n UInt8, s String) ENGINE = Memory")
    text = f"INSERT INTO {clickhouse_database}.t FORMAT {format_name} {rows}{end}\nSELECT 2;"
    first, second = split(ClickHouseSplitter, text)
    clickhouse.query(first)
    assert second == "SELECT 2"
    assert clickhouse.query(f"SELECT * FROM {clickhouse_database}.t") == "1\ta;b\n"


@pytest.mark.parametrize(
    ("format_name", "rows"),
    [
        ("CSV", '1,"a;b"\n2,"it\'s"\n3,"SELECT"\n'),
        ("TSV", "1\ta;b\n2\tit's\n3\tSELECT\n"),
        ("JSONEachRow", '{"n": 1, "s": "a;b"}\n{"n": 2, "s": "it\'s"}\n{"n": 3, "s": "SELECT"}\n'),
    ],
)
def test_clickhouse_takes_rows_up_to_an_empty_line(clickhouse, clickhouse_database, format_name, rows):
    clickhouse.query(f"CREATE TABLE {clickhouse_database}.t (n UInt8, s String) ENGINE = Memory")
    text = f"INSERT INTO {clickhouse_database}.t FORMAT {format_name}\n{rows}\nSELECT 2;"
    first, second = split(ClickHouseSplitter, text)
    clickhouse.query(first)
    assert second == "SELECT 2"
    assert clickhouse.query(f"SELECT * FROM {clickhouse_database}.t") == "1\ta;b\n2\tit\\'s\n3\tSELECT\n"
