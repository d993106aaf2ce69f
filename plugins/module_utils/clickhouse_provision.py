# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a ClickHouse server's access what is declared: read, compare, run, look again."""

from __future__ import annotations

import ipaddress

from .clickhouse import ACCESS_DENIED, AuthenticationFailed, Client, ServerError, quote_string
from .clickhouse_catalogue import read
from .clickhouse_plan import Planner, stored_hosts, valid_until

UNKNOWN_FUNCTION, TIMEOUT = 46, 159


class Failed(Exception):
    """What went wrong, for the operator."""


class Server:
    """One server, or through it a cluster.

    params: the login options, `exclusive` and `cluster`. warn: takes a sentence. `client` is the connection, `run` what
    has been run, without secrets.
    """

    def __init__(self, params, check_mode, warn):
        self.params, self.check_mode, self.warn = params, check_mode, warn
        self.client = Client(params)
        self.run, self._address = [], None

    def access(self, declared):
        """Make up for the difference, in check mode only say so. Returns the statements without secrets.

        declared: options of ACCESS_SPEC, checked. Raises ClickHouseError, Refused, Failed.
        """
        self.client.require()
        planned = self._plan(declared)
        if planned and not self.check_mode:
            for statement in planned:
                self._execute(statement, len(planned))
            # What the next run would find: a value that the server writes in another form, for example.
            for statement in self._plan(declared, again=True):
                self.warn(
                    f"the server took everything, but the next run would do this again: {statement.shown}. Declare the "
                    "values in the form in which the server shows them"
                )
        return [statement.shown for statement in planned]

    def _plan(self, declared, again=False):
        exclusive, cluster = self.params["exclusive"], self.params["cluster"]
        try:
            catalogues, privileges = read(self.client, declared, exclusive, cluster)
        except ServerError as error:
            if error.code != ACCESS_DENIED:
                raise
            raise Failed(
                f"login_user {self.client.user!r} may not see what the server has: {error.message} Use a user with "
                "access_management"
            ) from error
        # What several servers need is run once, where the last of them needs it: after what it depends on for all.
        planned = {}
        for catalogue in catalogues.values():
            planner = Planner(
                declared, catalogue, privileges, self.client.version, exclusive=exclusive, cluster=cluster,
                login_user=self.client.user, format_filter=self._format_filter,
                logs_in=(lambda user, row: True) if again else self._logs_in, may_come=self._may_come,
            )
            for statement in planner.plan():
                if not (again and statement.shown != statement.sql):
                    planned.pop(statement.shown, None)
                    planned[statement.shown] = statement
        return list(planned.values())

    def _execute(self, statement, number):
        cluster = self.params["cluster"]
        settings = {"distributed_ddl_task_timeout": self.params["timeout"]} if cluster else None
        try:
            self.client.execute(statement.sql, settings)
        except ServerError as error:
            advice = ""
            if error.code == ACCESS_DENIED:
                advice = f" Give login_user {self.client.user!r} that right WITH GRANT OPTION, or use another user."
            elif cluster and error.code == TIMEOUT:
                advice = (
                    " A replica is down or slow: ClickHouse runs the statement there when it is back "
                    "(system.distributed_ddl_queue); run this task again then."
                )
            raise Failed(
                f"{statement.shown}: {error}.{advice} {len(self.run)} of {number} statements were run before; the next "
                "run goes on from here"
            ) from error
        self.run.append(statement.shown)

    def _logs_in(self, user, row):
        """Whether all passwords let the user in; None where a refusal may be about the place or the time."""
        for password in filter(None, (user["password"], user["previous_password"])):
            try:
                Client({**self.params, "login_user": user["name"], "login_password": password}).execute("SELECT 1")
            except AuthenticationFailed:
                return False if self._may_come(stored_hosts(row)) and not valid_until(row) else None
            except ServerError:
                continue  # the login worked, the query is not allowed
        return True

    def _may_come(self, hosts):
        """Whether a user with these hosts certainly may log in from here."""
        if ("ANY", "") in hosts:
            return True
        if self._address is None:
            query = "SELECT toString(address) FROM system.processes WHERE query_id = queryID()"
            self._address = self.client.execute(query).strip().replace("::ffff:", "")
        try:
            address = ipaddress.ip_address(self._address)
        except ValueError:
            return False
        return ("LOCAL", "") in hosts and address.is_loopback or any(
            kind == "IP" and address in ipaddress.ip_network(text) for kind, text in hosts
        )

    def _format_filter(self, text):
        """A condition as the server writes it."""
        query = f"SELECT formatQuerySingleLine({quote_string(f'SELECT {text}')}) FORMAT TSVRaw"
        try:
            return self.client.execute(query).rstrip("\n").partition("SELECT ")[2]
        except ServerError as error:
            if error.code == UNKNOWN_FUNCTION:
                return text
            raise Failed(f"row_policies: the server does not understand the filter {text!r}: {error}") from error
