# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A ClickHouse database of one server, as schema_apply sees it; schema_clickhouse_cluster.py has the other kind."""

from __future__ import annotations


class OneServer:
    """A database of a server of its own: statements are what the script says."""

    settings = {}
    sync_settings = None

    def guard(self, client):
        """Nothing can be wrong."""

    def statements(self, text):
        """The statements to execute for one of a script."""
        return [text]

    def check(self, statements, fill):
        """Every statement can be executed."""

    def everywhere(self, text):
        """The statements that make a table of the ledger, with the settings that they need."""
        return [text], {}

    def sync(self, client, table):
        """A table of the ledger has all its rows."""

    def can_run_again(self, text):
        """Whether a statement that was cut off can simply be executed again."""
        return False

    def advice(self, error):
        """What else to say of a server's error."""
        return ""
