"""What the platform's schema files may say: what each engine they are meant for understands, and what can run again."""

import re

import pytest
from support.schema import (
    CLICKHOUSE_INIT,
    DOMAINS,
    FILES,
    POSTGRES_INIT,
    POSTGRES_SEED,
    ROOT,
    statements,
    without_literals,
)

ALL = sorted(FILES.rglob("*.sql"))
POSTGRES = [POSTGRES_INIT, POSTGRES_SEED]
DOCUMENTATION = (ROOT / "docs/schema.md").read_text()

# What YSQL refuses, ignores or has only in some versions: a pattern, and a statement that it must find.
NOT_ON_YSQL = {
    "cluster": (r"^\s*CLUSTER\b", "CLUSTER users USING users_pkey"),
    "merge": (r"^\s*MERGE\b", "MERGE INTO users USING streams ON true WHEN MATCHED THEN DELETE"),
    "exclude": (r"\bEXCLUDE\s*(USING|\()", "CREATE TABLE t (a int, EXCLUDE USING btree (a WITH =))"),
    "constraint trigger": (r"\bCONSTRAINT\s+TRIGGER\b", "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON users"),
    "transition tables": (r"\bREFERENCING\b", "CREATE TRIGGER t AFTER INSERT ON u REFERENCING NEW TABLE AS n"),
    "alter system": (r"\bALTER\s+SYSTEM\b", "ALTER SYSTEM SET work_mem = 1"),
    "type attributes": (r"\bALTER\s+TYPE\b[^;]*\bATTRIBUTE\b", "ALTER TYPE pair ADD ATTRIBUTE c int"),
    "drop index concurrently": (r"\bDROP\s+INDEX\s+CONCURRENTLY\b", "DROP INDEX CONCURRENTLY a"),
    "drop of several": (r"\bDROP\s+(?!TABLE\b)\w+[^;(]*,", "DROP VIEW a, b"),
    "reindex": (r"\bREINDEX\s+(\(.*?\)\s*)?(?!INDEX\b)\w", "REINDEX TABLE users"),
    "two-phase commit": (r"\bPREPARE\s+TRANSACTION\b", "PREPARE TRANSACTION 'x'"),
    "lock": (r"(^|\s)LOCK\s+TABLE\b", "LOCK TABLE users IN EXCLUSIVE MODE"),
    "table as execute": (r"\bAS\s+EXECUTE\b", "CREATE TABLE t AS EXECUTE prepared"),
    "schema elements": (r"\bCREATE\s+SCHEMA\b[^;]*\b(CREATE|GRANT)\b", "CREATE SCHEMA s CREATE TABLE t (a int)"),
    "check option": (r"\bCHECK\s+OPTION\b", "CREATE VIEW v AS SELECT 1 WITH LOCAL CHECK OPTION"),
    "storage parameters": (r"\bWITH\s*\(", "CREATE TABLE t (a int) WITH (fillfactor = 70)"),
    "deferrable": (r"\bDEFERRABLE\b", "CREATE TABLE t (a int UNIQUE DEFERRABLE)"),
    "index methods": (r"\bUSING\s+(gist|spgist|brin|gin)\b", "CREATE INDEX i ON t USING gin (a)"),
    "notifications": (r"\b(UN)?LISTEN\b|\bNOTIFY\b", "NOTIFY channel"),
    "vacuum": (r"^\s*VACUUM\b", "VACUUM users"),
    "inheritance": (r"\bINHERITS?\b", "CREATE TABLE t () INHERITS (users)"),
    "advisory locks": (r"\bpg_(try_)?advisory_\w+", "SELECT pg_advisory_lock(1)"),
    "extensions": (r"\bEXTENSION\b", "CREATE EXTENSION citext"),
    "types without keys": (r"\b(citext|hstore|tsvector|int4range|tstzrange)\b", "CREATE TABLE t (a citext)"),
    "tablespaces": (r"\bTABLESPACE\b", "CREATE TABLE t (a int) TABLESPACE fast"),
    "unlogged": (r"\bUNLOGGED\b", "CREATE UNLOGGED TABLE t (a int)"),
}
# What a tool that sends statements one by one, or all in one transaction of its own, cannot run.
NOT_PLAIN = {
    "meta-commands": (r"^\s*\\", "\\echo hello"),
    "copy": (r"^\s*COPY\b", "COPY users FROM stdin"),
    "transactions": (r"^\s*(BEGIN|START|COMMIT|ROLLBACK|SAVEPOINT|ABORT)\b", "BEGIN"),
    "session settings": (r"^\s*(SET|RESET|DISCARD)\b", "SET search_path = x"),
    "outside a transaction": (r"\bCONCURRENTLY\b", "CREATE INDEX CONCURRENTLY i ON users (id)"),
    "access": (r"^\s*(GRANT|REVOKE|ALTER\s+DEFAULT)\b|\bOWNER\s+TO\b", "GRANT ALL ON users TO PUBLIC"),
    "destruction": (r"\b(DROP|TRUNCATE)\b|^\s*DELETE\b", "TRUNCATE users"),
}
FORBIDDEN = {**NOT_ON_YSQL, **NOT_PLAIN}
RUNS_AGAIN = re.compile(
    r"CREATE TABLE IF NOT EXISTS|CREATE (UNIQUE )?INDEX IF NOT EXISTS|CREATE OR REPLACE (FUNCTION|TRIGGER)|COMMENT ON|"
    r"INSERT INTO .*\bON CONFLICT \(.*\) DO NOTHING$|SELECT .*\bNOT EXISTS\b", re.S,
)


def found(pattern, text):
    """What `pattern` matches in the statements of a script, literals left out."""
    return [
        match[0] for statement in statements(text)
        for match in re.finditer(pattern, without_literals(statement), re.I | re.S)
    ]


@pytest.mark.parametrize("path", POSTGRES, ids=lambda path: path.name)
@pytest.mark.parametrize("construct", FORBIDDEN)
def test_postgres_files_avoid(path, construct):
    assert found(FORBIDDEN[construct][0], path.read_text()) == []


@pytest.mark.parametrize(("pattern", "sample"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_is_avoided_would_be_found(pattern, sample):
    assert found(pattern, f"SELECT 1;\n-- a comment\n{sample};\n")


@pytest.mark.parametrize("path", POSTGRES, ids=lambda path: path.name)
def test_every_postgres_statement_runs_again(path):
    assert [text for text in statements(path.read_text()) if not RUNS_AGAIN.match(text)] == []


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_are_plain_text(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith(";\n")
    assert not re.search(r"[\t\r]| $|\{\{|\{%|\$\{", text, re.M)
    assert [line for line in text.splitlines() if len(line) > 140] == []


def test_demo_secrets_say_that_they_are():
    text = POSTGRES_SEED.read_text()
    assert re.findall(r"\bsk_\w+", text) == ["sk_demo_not_a_secret"] * 2
    assert "password demo-not-a-secret" in text
    assert "sk_" not in re.sub(r"'sk_' \|\|", "", POSTGRES_INIT.read_text())


@pytest.mark.parametrize("statement", statements(CLICKHOUSE_INIT.read_text()), ids=lambda text: text.split("\n")[0])
def test_clickhouse_statements(statement):
    code = without_literals(statement)
    table = re.match(r"CREATE TABLE IF NOT EXISTS \w+\n\(", code)
    view = re.match(r"CREATE MATERIALIZED VIEW IF NOT EXISTS \w+ TO \w+\nAS SELECT", code)
    assert table or view
    # A line of its own, so that it can be rewritten to Replicated… or Distributed without a parser.
    assert len(re.findall(r"^ENGINE = (?:Aggregating)?MergeTree$", code, re.M)) == (1 if table else 0)
    assert not re.search(r"\bON\s+CLUSTER\b|Replicated|Distributed|\bfrom\s+\w+\.|\bframeworks\.", code, re.I)


def test_clickhouse_statements_end_at_line_ends():
    text = CLICKHOUSE_INIT.read_text()
    parts = re.sub(r"^--.*\n", "", text, flags=re.M).split(";\n")
    assert [part.strip() for part in parts if part.strip()] == statements(text)


# Documentation

def section(title):
    """The part of docs/schema.md under the heading `title`, up to the next heading of any level."""
    return re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", DOCUMENTATION, re.M | re.S)[1]


def tables(path):
    """{name: text} of every table that a script creates."""
    return {
        re.match(r"CREATE TABLE IF NOT EXISTS (\w+)", text)[1]: text
        for text in statements(path.read_text()) if text.startswith("CREATE TABLE")
    }


@pytest.mark.parametrize("domain", DOMAINS)
def test_documentation_names_every_table(domain):
    listed = set(re.findall(r"^\| `(\w+)` \|", section(domain), re.M))
    drawn = set(re.findall(r"^    (\w+) \{", section(domain), re.M))
    assert listed == drawn == DOMAINS[domain]


@pytest.mark.parametrize("domain", DOMAINS)
def test_diagrams_show_real_columns_and_references(domain):
    text, existing = section(domain), tables(POSTGRES_INIT)
    for table, body in re.findall(r"^    (\w+) \{\n(.*?)^    \}", text, re.M | re.S):
        for kind, column in re.findall(r"^        (\w+) (\w+)", body, re.M):
            assert re.search(rf"^    {column} {kind}\b", existing[table], re.M | re.I), (table, kind, column)
    drawn = {(child, parent) for parent, child in re.findall(r"^    (\w+) \|\S+ (\w+) :", text, re.M)}
    declared = {
        (table, parent) for table in DOMAINS[domain] for parent in re.findall(r"\bREFERENCES (\w+)", existing[table])
    }
    assert drawn == declared


def test_documentation_tells_how_long_clickhouse_keeps_rows():
    documented = re.findall(r"^\| `(\w+)` \| `(.*?)` \| `(.*?)` \| (\d+ \w+?)s? \|", section("Tables"), re.M)
    actual = []
    for name, text in tables(CLICKHOUSE_INIT).items():
        partition, order = (re.search(rf"^{clause} BY (.*)$", text, re.M)[1] for clause in ("PARTITION", "ORDER"))
        actual.append((name, partition, order, re.search(r"^TTL \w+ \+ INTERVAL (.*)$", text, re.M)[1].lower()))
    assert documented == actual
