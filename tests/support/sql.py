"""Pieces of SQL that are hard to split, and statements made of them."""

from hypothesis import strategies as st

# Each is complete in itself: no quote, comment or parenthesis stays open.
_COMMON = [
    "1",
    "a",
    "+",
    "(1, 2)",
    "'a;b'",
    "''",
    "'it''s;'",
    '"c;d"',
    "/* ; */",
    "/* ' */",
    "/* /* ; */ ; */",
    "-- ;'\n+",  # never just a line's end: across it PostgreSQL would go on with an E'' string before it
    "1 / 2",
    "1 - 2",
    "type",
    "x.y",
    "ü",
    "'ü;'",
]
POSTGRES_PIECES = [
    *_COMMON,
    "'\\'",
    "E'\\';'",
    "e'\\\\'",
    "E'a'\n'\\';'",
    "U&'\\0061;'",
    "$$;$$",
    "$t$ ; $$ ' $t$",
    "a$b$",
    "$1",
    "B'1'",
    "X'f'",
    '"a"";b"',
    "(/* ; */ ')')",
    "a_e",
    "case",
    "end",
    "@>",
    "::text",
]
CLICKHOUSE_PIECES = [
    *_COMMON,
    "'\\';'",
    "'\\\\'",
    "`a;b`",
    "`a\\`;`",
    '"\\";"',
    "$$;$$",
    "$t$ ; $$ ' $t$",
    "a$b",
    "# ;\n",
    "#! ;'\n",
    "// ;'\n",
    "‘;’",
    "[1, 2]",
    "{a:1}",
    "x'41'",
    "->",
    "::String",
    "==",
    "%",
]


def statement_of(pieces):
    """A strategy for SELECTs of `pieces`; most are nonsense to a parser, none to a lexer."""
    return st.lists(st.sampled_from(pieces), min_size=1, max_size=8).map(
        lambda parts: "SELECT " + " ".join([*parts, "x"])
    )
