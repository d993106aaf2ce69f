"""The platform's schema files, for the tests that load or read them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ROOT / "roles/schema_load/files"
POSTGRES_INIT = FILES / "postgresql/init.sql"
POSTGRES_SEED = FILES / "postgresql/seed/demo.sql"
CLICKHOUSE_INIT = FILES / "clickhouse/init_clickhouse_periscope.sql"

DOMAINS = {
    "Quartermaster": {"tenants", "clusters", "services", "tenant_cluster_access"},
    "Commodore": {
        "users", "sessions", "api_tokens", "streams", "stream_keys", "recordings", "clips", "stream_analytics",
    },
    "Purser": {
        "billing_tiers", "cluster_tier_support", "tenant_subscriptions", "usage_records", "billing_invoices",
        "invoice_drafts", "billing_payments", "crypto_wallets",
    },
}

# Good enough for these files: no nested comments, no E'' strings, one kind of dollar quote.
_TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$\$.*?\$\$|;|[^-'$;]+|.", re.S)


def statements(text):
    """The statements of a script, without their comments and the semicolons that end them."""
    found, current = [], []
    for token in _TOKEN.findall(text):
        if token == ";":
            found.append("".join(current).strip())
            current = []
        elif not token.startswith("--"):
            current.append(token)
    assert not "".join(current).strip(), "the last statement has no semicolon"
    return found


def without_literals(text):
    """`text` with every string literal emptied, so that what it says is not taken for SQL; function bodies stay."""
    return re.sub(r"'(?:[^']|'')*'", "''", text)
