# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scripts into a ClickHouse database, statement by statement."""

from __future__ import annotations

import contextlib
import threading

from .clickhouse import AuthenticationFailed, ClickHouseError, Client, ConnectionFailed, ServerError, quote_string
from .ledger_clickhouse import TABLE, ClickHouseLedger, Lease, NoDatabase
from .schema_clickhouse_server import OneServer
from .schema_clickhouse_steps import apply_stepwise, settle
from .schema_plan import LedgerError
from .sql_clickhouse import ClickHouseSplitter
from .sql_script import ScriptError

_UNKNOWN_FUNCTION = 46
_FUNCTIONS = (
    "SELECT name, 'function' AS engine, create_query AS definition FROM system.functions "
    "WHERE origin = 'SQLUserDefined'"
)
_KINDS = {"View": "view", "MaterializedView": "materialized view", "Dictionary": "dictionary"}


class ClickHouseBackend:
    """One database; the counterpart of PostgresBackend, with the same methods.

    Every method may raise clickhouse.ClickHouseError.
    """

    splitter = ClickHouseSplitter
    errors = (ClickHouseError, LedgerError)
    unreachable = (ConnectionFailed, AuthenticationFailed)

    def __init__(self, params, context, engine):
        self.params, self.context, self.engine = params, context, engine
        self.client = self.ledger = self.lock = None
        self._functions = None
        self._asked = None  # the question for them that is under way; False where its answer is outdated
        self.place = self._place()

    @staticmethod
    def explains(error, check):
        """Whether one of `unreachable` means that the server is not there, or with `check` that something may come.

        That are the files that the login needs, the database and the user, for whom the server says the same as for a
        wrong password.
        """
        if isinstance(error, ConnectionFailed) and error.unreachable:
            return True
        return check and (
            isinstance(error, (AuthenticationFailed, NoDatabase)) or isinstance(error.__cause__, FileNotFoundError)
        )

    @staticmethod
    def remedy(_error):
        """What to do about an error: it says so itself."""
        return ""

    def _place(self):
        if not self.params.get("cluster"):
            return OneServer()
        from .schema_clickhouse_cluster import Cluster  # takes its time, and is not needed otherwise

        return Cluster(self.params["cluster"], self.context.database)

    def _client(self):
        return Client(self.params)

    def open(self):
        """Connect. Raises ClickHouseError where the server cannot be reached or is too old."""
        self.client = self._client()
        self.client.require(purpose="schema_apply")
        self.place.guard(self.client)
        self.ledger = ClickHouseLedger(self.client, self.context.database, self.context.set_name, self.place)
        self.lock = Lease(self.ledger, self.context.run_by, self._client)

    def close(self):
        """Nothing to close: every request stands for itself."""

    @staticmethod
    def expected(recorded, _live):
        """`recorded`: grants are no part of it."""
        return recorded

    def create_ledger(self):
        """Create what is missing of the ledger."""
        try:
            self.ledger.create()
        except ServerError as error:
            advice = self.place.advice(error) or "The user needs CREATE TABLE, INSERT and SELECT on the database"
            raise LedgerError(f"The ledger cannot be created in {self.context.database}: {error}. {advice}") from None

    def before_lock(self):
        """The lease lies in the ledger, so it must be there first. Whether nothing of the ledger is missing now."""
        self.create_ledger()
        return True

    def laid_out(self, definitions):
        """`definitions` as this server writes them on several lines, as far as it can, without secrets."""
        texts = ", ".join(map(quote_string, definitions))
        query = f"SELECT arrayMap(text -> ifNull(formatQueryOrNull(text), text), [{texts}]) AS texts"
        try:
            definitions = self.client.rows(query, {"max_query_size": 4 * len(query)})[0]["texts"]
        except ServerError as error:
            if error.code != _UNKNOWN_FUNCTION:
                raise
        return [self.context.placeholders.mask(definition) for definition in definitions]

    def objects(self):
        """The live schema: every object's name to its CREATE statement.

        Functions are asked for once, and again after functions_change().
        """
        kinds, rows = {**_KINDS, "function": "function"}, [*self._tables(), *self._all_functions()]
        return {f"{kinds.get(row['engine'], 'table')} {row['name']}": row["definition"] for row in rows}

    def empty(self):
        """Whether the database has nothing but maybe the ledger. Functions are the server's."""
        return not self._tables()

    def _tables(self):
        return self.client.rows(
            "SELECT name, engine, create_table_query AS definition FROM system.tables "
            f"WHERE database = {quote_string(self.context.database)} AND NOT startsWith(name, '{TABLE}') "
            "AND NOT startsWith(name, '.inner') AND NOT startsWith(name, '.tmp.inner')"  # rows of views, old and new
        )

    def _all_functions(self):
        if self._functions is None:
            asked = self._asked.rows() if self._asked else None
            self._functions = self.client.rows(_FUNCTIONS) if asked is None else asked
            if self._functions:  # they belong to the whole server: those of other databases' runs are not ours
                others = self.ledger.recorded_elsewhere() - set(self.ledger.fingerprint()[0] or ())
                self._functions = [row for row in self._functions if f"function {row['name']}" not in others]
        return self._functions

    def functions_change(self):
        """A statement is about to create or drop one."""
        self._functions, self._asked = None, False

    def record(self, *entries):
        """Write `entries`, all of them or none."""
        if len(entries) == 1:
            self.ledger.write(*entries)
        elif entries:
            self.ledger.write_all(entries)

    def forget(self, script, entry):
        """Remove the `entry` of a script, once the server is not at work on it any more."""
        settle(self, script, entry)
        self.ledger.remove(script)

    def check(self, script, scan):
        """Whether `script` can be run here at all. The splitter has already said most of what there is to say."""
        for statement, name in scan.drops:
            if name == self.context.database:
                raise ScriptError(
                    "the ledger would go with the database, and each run would begin anew with this: drop the tables "
                    "that are meant", statement.line,
                )
        self.place.check(scan.statements(), self.context.placeholders.fill)

    def apply(self, step, scan):
        """Apply one script and record it. Raises ScriptFailed, Refused."""
        if self._functions is None and self._asked is None:
            self._asked = _Beside(self._client, _FUNCTIONS)  # the server is slow to list them, with all its own
            self._asked.start()
        apply_stepwise(self, step, scan)


class _Beside(threading.Thread):
    """A query on a connection of its own, while a script is applied on the other."""

    def __init__(self, client, sql):
        super().__init__(daemon=True)
        self._client, self._sql, self._rows = client, sql, None

    def run(self):
        with contextlib.suppress(ClickHouseError):  # asked again, it says what is the matter
            self._rows = self._client().rows(self._sql)

    def rows(self):
        """The rows, once they are there; None where there was no answer."""
        self.join()
        return self._rows
