# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A schema written for one ClickHouse server, rewritten statement by statement for a replicated, sharded cluster.

Nothing is executed here. docs/clickhouse.md has the rules as a table for those who write scripts.
"""

from __future__ import annotations

from ansible_collections.frameworks.database.plugins.module_utils.clickhouse import quote_identifier, quote_string
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_alter import split_alter
from ansible_collections.frameworks.database.plugins.module_utils.clickhouse_tokens import Reader, edited

# They keep rows on the host that the statement happens to run on.
_ONE_HOST = (
    "Log", "TinyLog", "StripeLog", "File", "Set", "Join", "EmbeddedRocksDB", "SQLite", "SharedSet", "SharedJoin",
)
# Words that cannot be the alias of a table without AS.
_AFTER_TABLE = frozenset((
    "FINAL", "SAMPLE", "ARRAY", "LEFT", "RIGHT", "INNER", "OUTER", "FULL", "CROSS", "GLOBAL", "LOCAL", "ANY",
    "ALL", "ASOF", "SEMI", "ANTI", "PASTE", "NATURAL", "ONLY", "JOIN", "ON", "USING", "PREWHERE", "WHERE",
    "GROUP", "HAVING", "WINDOW", "QUALIFY", "ORDER", "LIMIT", "OFFSET", "FETCH", "SETTINGS", "FORMAT", "UNION",
    "EXCEPT", "INTERSECT", "INTO", "COMMENT", "SELECT", "STREAM", "WITH",
))
# Read, or belong to the session, or (users, rights) are replicated by themselves.
_UNCHANGED = frozenset((
    "SELECT", "WITH", "SET", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "INSERT", "GRANT", "REVOKE",
))
_ACCESS = ("USER", "ROLE", "QUOTA", "ROW", "POLICY", "SETTINGS", "PROFILE")


class EngineError(Exception):
    """A statement that has no meaning, or a dangerous one, on a cluster; the text says what to write instead."""


SUFFIX = "_local"  # of the tables that hold a shard's rows; the Distributed one over all shards has the plain name


class Topology:
    """The cluster that a schema is for.

    cluster: its name in remote_servers. database: the one that gets the schema. replicated: whether the database has
    the engine Replicated, which passes DDL on by itself; otherwise statements get ON CLUSTER. sharding_key: the
    expression by which rows are spread over shards; None where there is, and will be, only one shard.
    """

    def __init__(self, cluster, database, replicated=True, sharding_key=None):
        self.cluster, self.database, self.replicated, self.sharding_key = cluster, database, replicated, sharding_key

    @property
    def on_cluster(self):
        """What follows an object's name, a blank before it; empty in a Replicated database."""
        return "" if self.replicated else f" ON CLUSTER {quote_identifier(self.cluster)}"


def rewrite(statement, topology, sharded=frozenset()):
    """The statements that do on the cluster what `statement` does on one server; each can run again.

    sharded: the names of the tables that are spread over shards, of which sharded_tables() knows. Raises EngineError.
    """
    reader = Reader(statement)
    if any(
        token.upper == "ON" and following.upper == "CLUSTER" and token.depth == 0
        for token, following in zip(reader.tokens, reader.tokens[1:])
    ) and reader.word() not in ("SELECT", "WITH", "INSERT"):
        raise EngineError("leave ON CLUSTER out: the cluster that the script is applied to is added")
    word = reader.word()
    writer = _Writer(reader, topology, sharded)
    if word in ("CREATE", "REPLACE"):
        return writer.create()
    if word in _UNCHANGED or not word:
        return [statement]
    if word == "DROP" and reader.word(1) in _ACCESS or word == "ALTER" and reader.word(1) in _ACCESS:
        return [statement]
    action = {
        "ALTER": writer.alter, "DROP": writer.drop, "TRUNCATE": writer.truncate, "OPTIMIZE": writer.optimize,
        "RENAME": writer.rename, "EXCHANGE": writer.rename, "DELETE": writer.rows, "UPDATE": writer.rows,
    }.get(word)
    if action is None:
        raise EngineError(f"{word} is not for scripts that are applied to a cluster: run it by hand, on each host")
    return action()


def sharded_tables(statements, topology, known=()):
    """The names of the tables that are spread over the shards: `known` ones, and those that `statements` make."""
    found = set(known)
    if not topology.sharding_key:
        return frozenset()
    for statement in statements:
        reader = Reader(statement)
        writer = _Writer(reader, topology, found)
        if reader.word() in ("CREATE", "REPLACE") and writer.is_table() and writer.holds_shards():
            found.add(writer.name)
    return frozenset(found)


def everywhere(statement, topology):
    """A CREATE TABLE … MergeTree as statements whose table has all its rows on every host, of all shards.

    It needs the setting database_replicated_allow_replicated_engine_arguments = 3 in a Replicated database.
    Raises EngineError.
    """
    writer = _Writer(Reader(statement), topology, frozenset())
    if not writer.is_table():
        raise EngineError("only a table can be kept on every host")
    writer.holds_shards()  # reads the name
    path = f"/clickhouse/{topology.cluster}/everywhere/{topology.database}/{writer.name}"
    return [writer.table(arguments=f"{quote_string(path)}, '{{shard}}-{{replica}}'")]


def of_one_host(statement, database):
    """CREATE TABLE … ENGINE = Replicated… for the same table in `database`, of which no other host and no Keeper knows.

    The other way round than rewrite().
    """
    reader = Reader(statement)
    writer = _Writer(reader, Topology("", database), frozenset())
    if not writer.is_table():
        raise EngineError("only a table can be had for one host alone")
    _database, name, start, end = reader.table()
    edits = [(start, end, f"{quote_identifier(database)}.{quote_identifier(name)}")]
    engine = writer.engine()
    edits.append((engine.start, engine.start + len("Replicated"), ""))
    behind = reader.tokens[reader.tokens.index(engine) + 1:]
    # (path, replica, …): no argument of the engines themselves is a text but the one of GraphiteMergeTree.
    if [token.kind for token in behind[:4]] == ["sign", "string", "sign", "string"]:
        after = behind[4]
        edits.append((behind[1].start, behind[5].start if after.text == "," else after.start, ""))
    return edited(statement, edits)


class _Writer:
    """One statement on its way to its cluster form. `edits` are made to its text."""

    def __init__(self, reader, topology, sharded):
        self.reader, self.topology, self.sharded = reader, topology, sharded
        self.edits, self.name, self.or_replace = [], None, False

    # -- what all have in common ------------------------------------------------------------------------------------

    def text(self):
        """The statement with the edits so far."""
        return edited(self.reader.text, self.edits)

    def insert(self, position, text):
        """Insert at a position of the text."""
        self.edits.append((position, position, text))

    def object(self, *, local=None):
        """Read the object's name, give it the cluster; with `local`, whether it is that of a shard, the suffix too."""
        found = self.reader.table()
        if found is None:
            raise EngineError(f"no name after {self.reader.text[:self.reader.end]!r}")
        database, self.name, start, end = found
        if database not in (None, self.topology.database):
            raise EngineError(
                f"{database}.{self.name} is in another database than {self.topology.database}: leave the database out, "
                "and apply the script to the one that it is for"
            )
        if self.name in self.sharded if local is None else local:
            self.edits.append((start, end, self.local(self.name, database)))
        if self.reader.accept("UUID"):
            raise EngineError("leave the UUID out: each host of a cluster has to be given the same one by the server")
        self.insert(end, self.topology.on_cluster)

    def local(self, name, database=None):
        """The quoted name of the table that holds a shard's rows of `name`."""
        prefix = f"{quote_identifier(database)}." if database else ""
        return prefix + quote_identifier(name + SUFFIX)

    def unless(self, *words):
        """Read these words, such as IF NOT EXISTS, or write them where they are missing."""
        if not self.reader.accept(*words) and not self.or_replace:
            self.insert(self.reader.end, " " + " ".join(words))

    def distributed(self, name):
        """The table over all shards that has the plain name."""
        create = "CREATE OR REPLACE TABLE" if self.or_replace else "CREATE TABLE IF NOT EXISTS"
        place = ", ".join(quote_string(one) for one in (
            self.topology.cluster, self.topology.database, name + SUFFIX,
        ))
        return (
            f"{create} {quote_identifier(name)}{self.topology.on_cluster} AS {self.local(name)} "
            f"ENGINE = Distributed({place}, {self.topology.sharding_key})"
        )

    # -- CREATE -----------------------------------------------------------------------------------------------------

    def create(self):
        """CREATE … and REPLACE …"""
        reader = self.reader
        if self.is_table():
            if not self.holds_shards():
                return [self.table()]
            return [self.table(), self.distributed(self.name)]
        reader.at = 1
        self.or_replace = reader.accept("OR", "REPLACE")
        if reader.accept("MATERIALIZED", "VIEW"):
            return [self.materialized_view()]
        if reader.accept("VIEW") or reader.accept("DICTIONARY"):
            self.unless("IF", "NOT", "EXISTS")
            self.object(local=False)
            return [self.text()]
        if reader.accept("FUNCTION"):
            # Functions belong to no database, so that no Replicated one passes them on.
            reader.accept("IF", "NOT", "EXISTS")
            reader.table()
            self.insert(reader.end, f" ON CLUSTER {quote_identifier(self.topology.cluster)}")
            return [self.text()]
        if reader.accept("DATABASE"):
            raise EngineError("databases of a cluster are declared for the role clickhouse_db, not created by a script")
        if reader.accept("TEMPORARY") or reader.word() in _ACCESS:
            return [reader.text]
        raise EngineError(f"CREATE {reader.word()} is not known to work on a cluster: run it by hand, on each host")

    def is_table(self):
        """Whether this creates a table; the reader is then behind the word TABLE."""
        self.reader.at = 0
        self.or_replace = self.reader.accept("REPLACE") or self.reader.accept("CREATE", "OR", "REPLACE")
        return (self.or_replace or self.reader.accept("CREATE")) and self.reader.accept("TABLE")

    def holds_shards(self):
        """Whether the table is to be spread over shards. The reader is behind the word TABLE, and stays there."""
        reader, begin = self.reader, self.reader.at
        reader.accept("IF", "NOT", "EXISTS")
        found = reader.table()
        self.name = found[1] if found else None
        engine, copied = self.engine(), self.copied()
        reader.at = begin
        if engine:
            return bool(self.topology.sharding_key) and engine.text.endswith("MergeTree")
        return bool(copied) and copied[1] in self.sharded

    def engine(self):
        """The token that names the engine, or None. It is sought from the reader's position on."""
        at = self.reader.find("ENGINE", stop=("SELECT", "WITH"))
        if at is None:
            return None
        tokens = self.reader.tokens[at + 1:at + 3]
        tokens = tokens[1:] if tokens and tokens[0].text == "=" else tokens
        return tokens[0] if tokens else None

    def copied(self):
        """(database, name, start, end) of the table whose structure is copied: CREATE TABLE a AS b. Or None."""
        reader, begin = self.reader, self.reader.at
        at = reader.find("AS", stop=("SELECT",))
        found = None
        if at is not None:
            reader.at = at + 1
            if reader.word() not in ("SELECT", "WITH", "("):
                found = reader.table()
                if reader.word() == "(":  # a table function
                    found = None
        reader.at = begin
        return found

    def table(self, arguments=""):
        """The table that holds rows. `arguments`: of the replicated engine, where it gets others than the defaults."""
        reader = self.reader
        holds = not arguments and self.holds_shards()
        self.unless("IF", "NOT", "EXISTS")
        self.object(local=holds)
        select = reader.find("SELECT")
        if select is not None and not any(
            token.upper == "EMPTY" and token.depth == 0 for token in reader.tokens[reader.at:select]
        ):
            raise EngineError("CREATE TABLE … AS SELECT would insert on every host: create it, then INSERT … SELECT")
        engine, copied = self.engine(), self.copied()
        if copied and copied[1] in self.sharded:
            self.edits.append((copied[2], copied[3], self.local(copied[1], copied[0])))
        if engine is None:
            if not copied:
                raise EngineError("name the ENGINE: on a cluster the server's default is not replicated")
            return self.text()
        self.replicate(engine, arguments)
        return self.text()

    def replicate(self, engine, arguments=""):
        """Turn the engine into its replicated form."""
        name = engine.text
        if name in _ONE_HOST:
            raise EngineError(f"ENGINE = {name} keeps its rows on one host: use one of the MergeTree family")
        if not name.endswith("MergeTree"):
            if arguments:
                raise EngineError(f"ENGINE = {name} cannot be kept on every host: use one of the MergeTree family")
            return
        if not name.startswith(("Replicated", "Shared")):
            self.insert(engine.start, "Replicated")
        if arguments:
            behind = self.reader.tokens.index(engine) + 1
            bracket = self.reader.tokens[behind] if behind < len(self.reader.tokens) else None
            if bracket is None or bracket.text != "(":
                self.insert(engine.end, f"({arguments})")
            else:
                empty = self.reader.tokens[behind + 1].text == ")"
                self.insert(bracket.end, arguments if empty else f"{arguments}, ")

    def materialized_view(self):
        """Its source and its target are those of the shard: a view sees the rows that its own host inserts."""
        reader = self.reader
        self.unless("IF", "NOT", "EXISTS")
        self.object(local=False)
        begin = reader.at
        query = reader.find("AS")
        head = {token.upper for token in reader.tokens[begin:query] if token.depth == 0 and token.kind == "word"}
        if "POPULATE" in head:
            raise EngineError("POPULATE would insert on every host: create the view, then INSERT … SELECT")
        if "REFRESH" in head and self.topology.sharding_key:
            raise EngineError("a view that is refreshed has no meaning over several shards: fill its table by INSERT")
        target = reader.find("TO", stop=("AS",))
        if target is not None:
            reader.at = target + 1
            self.shard_here()
        else:
            engine = self.engine()
            if engine is None or self.topology.sharding_key:
                raise EngineError("give the materialized view a table with TO: its hidden one cannot be sharded")
            self.replicate(engine)
        if query is not None:
            reader.at = query + 1
            self.source({})
        return self.text()

    def shard_here(self):
        """The table at the reader becomes that of the shard, where it has one. Returns (database, name, start, end)."""
        found = self.reader.table()
        if found and found[0] in (None, self.topology.database) and found[1] in self.sharded:
            self.edits.append((found[2], found[3], self.local(found[1], found[0])))
        return found

    def source(self, named):
        """The first table of the query at the reader becomes that of the shard. named: where WITH's queries begin."""
        reader = self.reader
        while reader.accept("("):
            pass
        depth = reader.peek().depth if reader.peek() else 0
        if reader.accept("WITH"):
            named = {**named, **self.with_queries(depth)}
        at = reader.find("FROM", depth=depth)
        if at is None:
            return
        reader.at = at + 1
        if reader.word() == "(":
            self.source(named)
            return
        begin = reader.at
        token = reader.peek()
        if token and token.name in named and reader.word(1) != ".":
            reader.at = named[token.name]
            self.source({name: where for name, where in named.items() if name != token.name})
            return
        found = self.shard_here()
        if not found or found[1] not in self.sharded or reader.word() == "(":
            return
        following = reader.peek()
        if not (following and (
            following.upper == "AS" or following.kind == "quoted"
            or (following.kind == "word" and following.upper not in _AFTER_TABLE)
        )):
            # Columns that are written with the table's name go on to work.
            self.insert(reader.end, f" AS {quote_identifier(found[1])}")
        reader.at = begin

    def with_queries(self, depth):
        """{name: index of the token where its query begins} of `WITH name AS (SELECT …)`."""
        reader, found = self.reader, {}
        for index in range(reader.at, len(reader.tokens) - 2):
            token, keyword, bracket = reader.tokens[index:index + 3]
            if token.depth < depth or (token.depth == depth and token.upper == "SELECT"):
                break
            if token.depth == depth and token.name and keyword.upper == "AS" and bracket.text == "(":
                found[token.name] = index + 3
        return found

    # -- what changes or removes an object --------------------------------------------------------------------------

    def alter(self):
        """ALTER TABLE."""
        reader = self.reader
        reader.accept("ALTER")
        if not reader.accept("TABLE"):
            raise EngineError(f"ALTER {reader.word()} is not known to work on a cluster: run it by hand, on each host")
        self.object()
        commands = split_alter(reader)
        for command in commands:
            if command.partition:
                raise EngineError(
                    f"{command.words} works on a partition, of which each shard has its own: run it by hand, on one "
                    "replica of each shard"
                )
            if command.guard:
                self.insert(*command.guard)
            if command.words == "MODIFY QUERY":
                reader.at = command.behind_words
                self.source({})
        statements = [self.text()]
        visible = [command.visible for command in commands if command.visible] if self.name in self.sharded else []
        if visible:
            statements.append(
                f"ALTER TABLE {quote_identifier(self.name)}{self.topology.on_cluster} {', '.join(visible)}"
            )
        return statements

    def drop(self):
        """DROP TABLE, VIEW, DICTIONARY, FUNCTION."""
        reader = self.reader
        reader.accept("DROP")
        kind = reader.word()
        if reader.accept("FUNCTION"):
            self.unless("IF", "EXISTS")
            reader.table()
            self.insert(reader.end, f" ON CLUSTER {quote_identifier(self.topology.cluster)}")
            return [self.text()]
        if kind not in ("TABLE", "VIEW", "DICTIONARY"):
            raise EngineError(f"DROP {kind} is not for scripts that are applied to a cluster: do it by hand")
        reader.at += 1
        # "IF EMPTY" and whatever else is between stays where it is.
        empty = reader.accept("IF", "EMPTY")
        reader.accept("IF", "EXISTS")
        names = [self.own()]
        while reader.accept(","):
            names.append(self.own())
        tail = reader.text[reader.end:].strip()
        guard = "IF EMPTY" if empty else "IF EXISTS"
        statements = []
        for name in names:
            quoted = [quote_identifier(name)] + ([self.local(name)] if name in self.sharded else [])
            for one in quoted:
                statements.append(f"DROP {kind} {guard} {one}{self.topology.on_cluster} {tail}".rstrip())
        return statements

    def own(self):
        """The name at the reader, of an object of the schema's own database."""
        found = self.reader.table()
        if found is None:
            raise EngineError(f"no name after {self.reader.text[:self.reader.end]!r}")
        if found[0] not in (None, self.topology.database):
            raise EngineError(f"{found[0]}.{found[1]} is in another database than {self.topology.database}")
        return found[1]

    def truncate(self):
        """TRUNCATE TABLE."""
        self.reader.accept("TRUNCATE")
        if not self.reader.accept("TABLE"):
            raise EngineError("TRUNCATE of anything but one TABLE is not for scripts that are applied to a cluster")
        self.reader.accept("IF", "EXISTS")
        self.object()
        return [self.text()]

    def optimize(self):
        """OPTIMIZE TABLE: a Replicated database does not pass it on."""
        self.reader.accept("OPTIMIZE", "TABLE")
        found = self.shard_here()
        if found:
            self.insert(found[3], f" ON CLUSTER {quote_identifier(self.topology.cluster)}")
        return [self.text()]

    def rows(self):
        """DELETE FROM t WHERE …, UPDATE t SET …"""
        self.reader.accept("DELETE", "FROM") or self.reader.accept("UPDATE")
        self.object()
        return [self.text()]

    def rename(self):
        """RENAME and EXCHANGE: the names of a sharded table are written into its Distributed one."""
        tokens = self.reader.tokens
        named = [token.name for token in tokens if token.name in self.sharded]
        if named:
            raise EngineError(
                f"{named[0]} is spread over shards, and its Distributed table knows it by name: "
                "make a new table and copy the rows"
            )
        self.insert(tokens[-1].end, self.topology.on_cluster)
        return [self.text()]
