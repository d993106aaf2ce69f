"""Scripts are split into statements where psql and clickhouse-client split them."""

import io

import pytest
from ansible_collections.frameworks.database.plugins.module_utils import sql_script
from ansible_collections.frameworks.database.plugins.module_utils.sql_clickhouse import ClickHouseSplitter
from ansible_collections.frameworks.database.plugins.module_utils.sql_postgres import PostgresSplitter
from ansible_collections.frameworks.database.plugins.module_utils.sql_script import ScriptError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sql import CLICKHOUSE_PIECES, POSTGRES_PIECES, statement_of


def split(splitter, text):
    """The statements' texts."""
    return [statement.text for statement in splitter(io.BytesIO(text.encode()))]


POSTGRES = {
    "two": ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
    "no semicolon at the end": ("SELECT 1;\nSELECT 2\n", ["SELECT 1", "SELECT 2"]),
    "empty statements": (";; ;\n-- only a comment;\n", []),
    "comment before": ("-- a;\n/* b; */ SELECT 1;", ["SELECT 1"]),
    "comment inside": ("SELECT /* ; */ 1 -- ;\n;", ["SELECT /* ; */ 1 -- ;"]),
    "nested comment": ("SELECT 1 /* /* ; */ ; */;SELECT 2", ["SELECT 1 /* /* ; */ ; */", "SELECT 2"]),
    "quotes": ("SELECT 'a;''b', \"c;\"\"d\";", ["SELECT 'a;''b', \"c;\"\"d\""]),
    "backslash is no escape": (r"SELECT '\'; SELECT 2", [r"SELECT '\'", "SELECT 2"]),
    "escape string": (r"SELECT E'\';', e'\\'; SELECT 2", [r"SELECT E'\';', e'\\'", "SELECT 2"]),
    "escape string goes on": ("SELECT E'a'\n  '\\';'; SELECT 2", ["SELECT E'a'\n  '\\';'", "SELECT 2"]),
    "escape string goes on behind a comment": (
        "SELECT E'a' -- b'\n '\\';'; SELECT 2",
        ["SELECT E'a' -- b'\n '\\';'", "SELECT 2"],
    ),
    "escape string does not go on": (r"SELECT E'a', '\'; SELECT 2", [r"SELECT E'a', '\'", "SELECT 2"]),
    "a name that ends with e": (r"SELECT type'\'; SELECT 2", [r"SELECT type'\'", "SELECT 2"]),
    "other prefixes": (r"SELECT U&'\', N'x;', B'1', X'a' ;", [r"SELECT U&'\', N'x;', B'1', X'a'"]),
    "dollar quotes": ("SELECT $$;$$, $a$ $$ ; $b$ $a$, $ä$;$ä$;", ["SELECT $$;$$, $a$ $$ ; $b$ $a$, $ä$;$ä$"]),
    "dollar in a name": ("SELECT a$b$; SELECT c$b$", ["SELECT a$b$", "SELECT c$b$"]),
    "parameter": ("SELECT $1; SELECT $1$;$", ["SELECT $1", "SELECT $1$", "$"]),
    "parentheses": (
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
        ["CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "SELECT 3"],
    ),
    "begin atomic": (
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; "
        "SELECT 3",
        [
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
            "SELECT 3",
        ],
    ),
    "begin is a transaction elsewhere": ("BEGIN; SELECT 1; END;", ["BEGIN", "SELECT 1", "END"]),
    "strings switched": (
        "SET standard_conforming_strings = off; SELECT '\\';'; SET standard_conforming_strings TO on; SELECT '\\'; "
        "SELECT 2",
        [
            "SET standard_conforming_strings = off",
            "SELECT '\\';'",
            "SET standard_conforming_strings TO on",
            "SELECT '\\'",
            "SELECT 2",
        ],
    ),
    "strings switched back": (
        "SET standard_conforming_strings = off; RESET ALL; SELECT '\\'; SET standard_conforming_strings TO DEFAULT; "
        "SELECT '\\'",
        ["SET standard_conforming_strings = off", "RESET ALL", "SELECT '\\'",
         "SET standard_conforming_strings TO DEFAULT", "SELECT '\\'"],
    ),
    "byte order mark": ("\ufeffSELECT 1", ["SELECT 1"]),
    "windows line ends": ("SELECT 1;\r\nSELECT 2;\r\n", ["SELECT 1", "SELECT 2"]),
    "pg_dump's brackets": ("\\restrict aB3\nSELECT 1;\n\\unrestrict aB3\n", ["SELECT 1"]),
}
CLICKHOUSE = {
    "quotes": ("SELECT 'a;\\';''b', `c\\`;`, \"d;\"; SELECT 2", ["SELECT 'a;\\';''b', `c\\`;`, \"d;\"", "SELECT 2"]),
    "typographic quotes": ("SELECT ‘a;b’; SELECT 2", ["SELECT ‘a;b’", "SELECT 2"]),
    "comments": (
        "SELECT 1 -- ;\n // ;\n # ;\n #! ;\n /* /* ; */ ; */; SELECT 2",
        ["SELECT 1 -- ;\n // ;\n # ;\n #! ;\n /* /* ; */ ; */", "SELECT 2"],
    ),
    "heredoc": ("SELECT $a$ ; $$ $a$, $$;$$; SELECT 2", ["SELECT $a$ ; $$ $a$, $$;$$", "SELECT 2"]),
    "dollar in a name": ("SELECT 1 AS a$b$; SELECT 2 AS c$b$", ["SELECT 1 AS a$b$", "SELECT 2 AS c$b$"]),
    "values": (
        "INSERT INTO t VALUES (1, ';'), (2, 'x'); SELECT 2",
        ["INSERT INTO t VALUES (1, ';'), (2, 'x')", "SELECT 2"],
    ),
    "format values": (
        "INSERT INTO t FORMAT Values (1), (2); SELECT 2",
        ["INSERT INTO t FORMAT Values (1), (2)", "SELECT 2"],
    ),
    "inline data": ("INSERT INTO t FORMAT CSV 1;2\nSELECT 2;", ["INSERT INTO t FORMAT CSV 1;2", "SELECT 2"]),
    "inline data on the next line": (
        "INSERT INTO t (a)\nFORMAT JSONEachRow\n{\"a\": \";'\"}\n\nSELECT 2;",
        ["INSERT INTO t (a)\nFORMAT JSONEachRow\n{\"a\": \";'\"}", "SELECT 2"],
    ),
    "inline data up to an empty line": (
        "INSERT INTO t FORMAT TSV\na;\t1\nset it\t2\n'\t2\n\t\n\nSELECT 2;",
        ["INSERT INTO t FORMAT TSV\na;\t1\nset it\t2\n'\t2\n\t", "SELECT 2"],
    ),
    "inline data that goes on is all data": (
        "INSERT INTO t FORMAT CSV 1;2\n 3,4\nSELECT 5;\n\n;", ["INSERT INTO t FORMAT CSV 1;2\n 3,4\nSELECT 5;"],
    ),
    "inline data up to the end": (
        "INSERT INTO t FORMAT JSONEachRow {\"a\":1}\n{\"a\":2}\n",
        ["INSERT INTO t FORMAT JSONEachRow {\"a\":1}\n{\"a\":2}\n"],
    ),
    "inline data with windows line ends": (
        "INSERT INTO t FORMAT CSV\r\n1\r\n2\r\n\r\nSELECT 2;\r\n", ["INSERT INTO t FORMAT CSV\r\n1\r\n2", "SELECT 2"],
    ),
    "inline data that ends with an empty field": (
        "INSERT INTO t FORMAT TSV 1\t\nSELECT 2", ["INSERT INTO t FORMAT TSV 1\t", "SELECT 2"],
    ),
    "a comment behind inline data": (
        "INSERT INTO t FORMAT CSV 1\n-- ;\nSELECT 2", ["INSERT INTO t FORMAT CSV 1", "SELECT 2"],
    ),
    "a column called format": (
        "INSERT INTO t (format) VALUES (1); SELECT 2",
        ["INSERT INTO t (format) VALUES (1)", "SELECT 2"],
    ),
    "a column called format of a select": (
        "INSERT INTO t SELECT id, format\nFROM a;\nINSERT INTO t SELECT a.format FROM a; "
        "INSERT INTO t SELECT format FROM a ORDER BY format LIMIT 1; INSERT INTO format SELECT id AS format FROM a; "
        "SELECT 2",
        ["INSERT INTO t SELECT id, format\nFROM a", "INSERT INTO t SELECT a.format FROM a",
         "INSERT INTO t SELECT format FROM a ORDER BY format LIMIT 1", "INSERT INTO format SELECT id AS format FROM a",
         "SELECT 2"],
    ),
    "format of an insert that selects": (
        "INSERT INTO t SELECT 1 FORMAT Null; INSERT INTO t (a) (SELECT 1) FORMAT Null; "
        "INSERT INTO t WITH 1 AS input SELECT input FORMAT Null; SELECT 2",
        ["INSERT INTO t SELECT 1 FORMAT Null", "INSERT INTO t (a) (SELECT 1) FORMAT Null",
         "INSERT INTO t WITH 1 AS input SELECT input FORMAT Null", "SELECT 2"],
    ),
    "inline data of an insert that selects from it": (
        "INSERT INTO t SELECT format FROM input('format String') WHERE format != ';' FORMAT TSV\na;\nb\n\nSELECT 2",
        ["INSERT INTO t SELECT format FROM input('format String') WHERE format != ';' FORMAT TSV\na;\nb", "SELECT 2"],
    ),
    "inline data behind a list of columns, or a name in quotes": (
        "INSERT INTO t (a) FORMAT CSV 1\n\nINSERT INTO `t` FORMAT CSV 1\n\nSELECT 2",
        ["INSERT INTO t (a) FORMAT CSV 1", "INSERT INTO `t` FORMAT CSV 1", "SELECT 2"],
    ),
    "format of a select": ("SELECT 1 FORMAT Null; SELECT 2", ["SELECT 1 FORMAT Null", "SELECT 2"]),
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
@pytest.mark.parametrize("case", POSTGRES)
def test_postgresql(case, chunk, monkeypatch):
    monkeypatch.setattr(sql_script, "CHUNK", chunk)
    text, expected = POSTGRES[case]
    assert split(PostgresSplitter, text) == expected


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
@pytest.mark.parametrize("case", CLICKHOUSE)
def test_clickhouse(case, chunk, monkeypatch):
    monkeypatch.setattr(sql_script, "CHUNK", chunk)
    text, expected = CLICKHOUSE[case]
    assert split(ClickHouseSplitter, text) == expected


@pytest.mark.parametrize("splitter", [PostgresSplitter, ClickHouseSplitter])
def test_lines_are_those_of_the_file(splitter):
    text = "-- one\n\nSELECT\n  1;  SELECT 2;\n/*\n*/ SELECT 'a\nb';\nSELECT 4"
    assert [(s.line, s.word) for s in splitter(io.BytesIO(text.encode()))] == [
        (3, "SELECT"),
        (4, "SELECT"),
        (6, "SELECT"),
        (8, "SELECT"),
    ]


@pytest.mark.parametrize("chunk", [5, 1 << 18])
def test_copy_rows_are_its_data(chunk, monkeypatch):
    monkeypatch.setattr(sql_script, "CHUNK", chunk)
    text = ("COPY t (a, b) FROM STDIN; -- rows\n1\t;2\n';\n\n\\.\nSELECT 1;\n"
            "copy u from stdin with (format csv);\n\\.\nSELECT 2")
    found = []
    for statement in PostgresSplitter(io.BytesIO(text.encode())):
        found.append((statement.kind, statement.line, statement.data.read() if statement.data else None))
    assert found == [("copy", 1, b"1\t;2\n';\n\n"), ("sql", 6, None), ("copy", 7, b""), ("sql", 9, None)]


def test_copy_rows_that_nobody_reads_are_skipped():
    text = "COPY t FROM STDIN;\n1;\n'\n\\.\nSELECT 1"
    assert [s.line for s in PostgresSplitter(io.BytesIO(text.encode()))] == [1, 5]


@pytest.mark.parametrize(
    ("text", "line", "command"),
    [
        ("SELECT 1;\n\\d t\n", 2, "\\d t"),
        ("SELECT 1\n\\gset x\n", 2, "\\gset x"),
        ("SELECT 1; \\if :x\n", 1, "\\if :x"),
    ],
)
def test_meta_commands_are_found(text, line, command):
    found = [(s.line, s.text) for s in PostgresSplitter(io.BytesIO(text.encode())) if s.kind == "meta"]
    assert found == [(line, command)]


@pytest.mark.parametrize(
    ("splitter", "text", "line"),
    [
        (PostgresSplitter, "SELECT 1;\nSELECT 'a\n;\n", 2),
        (PostgresSplitter, "/* a\n/* */", 1),
        (PostgresSplitter, "\nSELECT $x$ $$ ;", 2),
        (PostgresSplitter, "COPY t FROM STDIN; 1\n\\.\n", 1),
        (ClickHouseSplitter, "SELECT 1;\nSELECT `a", 2),
    ],
)
def test_what_cannot_be_split_is_refused_with_its_line(splitter, text, line):
    with pytest.raises(ScriptError) as error:
        split(splitter, text)
    assert error.value.line == line


@pytest.mark.parametrize("chunk", [3, 1 << 18])
@pytest.mark.parametrize(
    ("content", "line"), [(b"SELECT 1;\n\nSELECT '\xe4';", 3), (b"a;\nb\0", 2), ("SELECT 1".encode("utf-16"), 1)]
)
def test_what_is_not_utf8_is_refused_with_its_line(content, line, chunk, monkeypatch):
    monkeypatch.setattr(sql_script, "CHUNK", chunk)
    with pytest.raises(ScriptError) as error:
        list(PostgresSplitter(io.BytesIO(content)))
    assert error.value.line == line


@settings(max_examples=300, deadline=None)
@given(st.lists(statement_of(POSTGRES_PIECES), max_size=6), st.integers(1, 40))
def test_postgresql_gives_back_what_was_joined(statements, chunk):
    gives_back(PostgresSplitter, statements, chunk)


@settings(max_examples=300, deadline=None)
@given(st.lists(statement_of(CLICKHOUSE_PIECES), max_size=6), st.integers(1, 40))
def test_clickhouse_gives_back_what_was_joined(statements, chunk):
    gives_back(ClickHouseSplitter, statements, chunk)


def gives_back(splitter, statements, chunk):
    """Statements joined by semicolons come out one by one, whatever the size of the chunks."""
    before, sql_script.CHUNK = sql_script.CHUNK, chunk
    try:
        assert split(splitter, " ;\n".join(statements)) == statements
    finally:
        sql_script.CHUNK = before


def test_a_long_script_takes_little_memory(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(sql_script, "CHUNK", 1 << 14)
    row = b"INSERT INTO t VALUES (1, 'some text; with a semicolon', 2.5);\n"

    class Rows(io.RawIOBase):
        """A script of 2 MB that is nowhere as a whole."""

        left = (2 << 20) // len(row)

        def read(self, size=-1):
            count = min(self.left, size // len(row))
            self.left -= count
            return row * count

    tracemalloc.start()
    count = sum(1 for _ in PostgresSplitter(Rows()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == (2 << 20) // len(row) and peak < 1 << 19
