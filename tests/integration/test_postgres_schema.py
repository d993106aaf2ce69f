"""init.sql and the demo seed on a real PostgreSQL: what is refused, what is kept, what is never stored."""

import hashlib
import re
import secrets
from contextlib import contextmanager

import psycopg2
import pytest
from support.schema import DOMAINS, POSTGRES_INIT, POSTGRES_SEED, statements

FOREIGN_KEY, UNIQUE, CHECK, NOT_NULL = "23503", "23505", "23514", "23502"
TABLES = set().union(*DOMAINS.values())
DOMAIN = {table: domain for domain, names in DOMAINS.items() for table in names}
ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
NOBODY = "99999999-9999-4999-8999-999999999999"
BCRYPT = "$2a$12$59jpJHXHDzBbxjgwKrdmx.PUFNcARun1DvLtxlZjSFaAwlDZmf2ku"
ROLE = {"user": "schema_owner", "password": "s3cret of the owner"}

# One row a table for each of two tenants, every column that a constraint looks at filled in. {id} is the tenant's id
# and that of all its rows; {n} is 1 or 2.
SAMPLE = """
    INSERT INTO clusters (id, name, kind, max_streams, max_viewers, max_bandwidth_mbps)
        VALUES ('cluster-{n}', 'C', 'edge', 1, 1, 1);
    INSERT INTO services (id, name, provider, protocol, health_check_path) VALUES ('s{n}', 'S', 'p', 'http', '/');
    INSERT INTO tenants (id, name, subdomain, primary_cluster_id) VALUES ('{id}', 'T', 't{n}', 'cluster-{n}');
    INSERT INTO tenant_cluster_access (tenant_id, cluster_id, max_streams, max_viewers, max_bandwidth_mbps, expires_at)
        VALUES ('{id}', 'cluster-{n}', 1, 1, 1, now() + interval '1 day');
    INSERT INTO users (id, tenant_id, email, password_hash, display_name, status)
        VALUES ('{id}', '{id}', 'u{n}@example.org', '{bcrypt}', 'U', 'active');
    INSERT INTO sessions (id, tenant_id, user_id, token_hash, expires_at)
        VALUES ('{id}', '{id}', '{id}', sha256('{n}'), now() + interval '1 day');
    INSERT INTO api_tokens (id, tenant_id, user_id, name, token_hash, token_prefix, expires_at)
        VALUES ('{id}', '{id}', '{id}', 'A', sha256('{n}'), 'fw_', now() + interval '1 day');
    INSERT INTO streams (id, tenant_id, user_id, internal_name, title) VALUES ('{id}', '{id}', '{id}', 'live{n}', 'S');
    INSERT INTO stream_keys (id, tenant_id, stream_id, name, key_hash, key_prefix)
        VALUES ('{id}', '{id}', '{id}', 'K', sha256('{n}'), 'sk_');
    INSERT INTO recordings (id, tenant_id, stream_id, title, status, storage_path, size_bytes, started_at, ended_at)
        VALUES ('{id}', '{id}', '{id}', 'R', 'ready', 'r/1', 1, now(), now());
    INSERT INTO clips (id, tenant_id, stream_id, recording_id, user_id, title, status, storage_path, size_bytes,
                       started_at, ended_at)
        VALUES ('{id}', '{id}', '{id}', '{id}', '{id}', 'C', 'ready', 'c/1', 1, now(), now() + interval '1 min');
    INSERT INTO stream_analytics (tenant_id, stream_id, bitrate_kbps) VALUES ('{id}', '{id}', 1);
    INSERT INTO billing_tiers (id, code, name, base_price, currency) VALUES ('{id}', 't{n}', 'T', 9.99, 'EUR');
    INSERT INTO cluster_tier_support (cluster_id, tier_id) VALUES ('cluster-{n}', '{id}');
    INSERT INTO tenant_subscriptions (id, tenant_id, tier_id, billing_email, custom_rates, current_period_end)
        VALUES ('{id}', '{id}', '{id}', 'b@example.org', '{{}}', now() + interval '1 month');
    INSERT INTO usage_records (tenant_id, billing_month, cluster_id, usage_type, usage_value)
        VALUES ('{id}', '2026-01-01', 'cluster-{n}', 'egress_gb', 1.5);
    INSERT INTO billing_invoices (id, tenant_id, subscription_id, invoice_number, currency, net_amount, tax_amount,
                                  total_amount, period_start, period_end, due_at)
        VALUES ('{id}', '{id}', '{id}', 'I-{n}', 'EUR', 10, 2.10, 12.10, '2026-01-01', '2026-01-31', now());
    INSERT INTO invoice_drafts (id, tenant_id, billing_month, status, invoice_id, currency)
        VALUES ('{id}', '{id}', '2026-01-01', 'invoiced', '{id}', 'EUR');
    INSERT INTO crypto_wallets (id, tenant_id, network, asset, address)
        VALUES ('{id}', '{id}', 'ethereum', 'ETH', '0x{n}');
    INSERT INTO billing_payments (id, tenant_id, invoice_id, method, amount, currency, provider, provider_reference,
                                  wallet_id, crypto_amount, transaction_hash)
        VALUES ('{id}', '{id}', '{id}', 'crypto', 12.10, 'EUR', 'own', 'p{n}', '{id}', 0.000000000000000001, '0xa{n}');
"""

# For every constraint but the primary keys, what to SET on both tenants' rows to run into it, and into it only.
VIOLATIONS = {
    "clusters": {
        "clusters_id_check": "id = 'Central Primary' || id",
        "clusters_name_check": "name = ''",
        "clusters_kind_check": "kind = 'other'",
        "clusters_status_check": "status = 'other'",
        "clusters_max_streams_check": "max_streams = -1",
        "clusters_max_viewers_check": "max_viewers = -1",
        "clusters_max_bandwidth_mbps_check": "max_bandwidth_mbps = -1",
        "clusters_one_default": "is_default = true",
    },
    "services": {
        "services_id_check": "id = 'Api Tenants' || id",
        "services_name_check": "name = ''",
        "services_provider_check": "provider = ''",
        "services_protocol_check": "protocol = 'other'",
        "services_health_check_path_check": "health_check_path = 'health'",
    },
    "tenants": {
        "tenants_name_check": "name = ''",
        "tenants_subdomain_check": "subdomain = 'a_b' || subdomain",
        "tenants_subdomain_key": "subdomain = 'same'",
        "tenants_status_check": "status = 'other'",
        "tenants_settings_check": "settings = '[]'",
        "tenants_primary_cluster_id_fkey": "primary_cluster_id = 'nowhere'",
    },
    "tenant_cluster_access": {
        "tenant_cluster_access_access_level_check": "access_level = 'other'",
        "tenant_cluster_access_max_streams_check": "max_streams = -1",
        "tenant_cluster_access_max_viewers_check": "max_viewers = -1",
        "tenant_cluster_access_max_bandwidth_mbps_check": "max_bandwidth_mbps = -1",
        "tenant_cluster_access_expires_after_start": "expires_at = created_at",
        "tenant_cluster_access_tenant_id_fkey": "tenant_id = gen_random_uuid()",
        "tenant_cluster_access_cluster_id_fkey": "cluster_id = 'nowhere'",
    },
    "users": {
        "users_email_check": "email = 'no address'",
        "users_email": "email = CASE WHEN id = '{one}' THEN 'same@example.org' ELSE 'SAME@example.org' END",
        "users_password_hash_check": "password_hash = 'correct horse battery staple'",
        "users_display_name_check": "display_name = ''",
        "users_role_check": "role = 'other'",
        "users_status_check": "status = 'other'",
        "users_active_has_password": "password_hash = NULL",
        "users_tenant_id_id_key": None,  # id alone is the primary key: two rows cannot share both
    },
    "sessions": {
        "sessions_token_hash_check": "token_hash = 'a token in clear'",
        "sessions_token_hash_key": "token_hash = sha256('same')",
        "sessions_expires_after_start": "expires_at = created_at",
        "sessions_tenant_id_user_id_fkey": "user_id = '{nobody}'",
    },
    "api_tokens": {
        "api_tokens_name_check": "name = ''",
        "api_tokens_token_hash_check": "token_hash = 'a token in clear'",
        "api_tokens_token_hash_key": "token_hash = sha256('same')",
        "api_tokens_token_prefix_check": "token_prefix = 'the whole token'",
        "api_tokens_expires_after_start": "expires_at = created_at",
        "api_tokens_tenant_id_user_id_fkey": "user_id = '{nobody}'",
    },
    "streams": {
        "streams_internal_name_check": "internal_name = 'live/' || internal_name",
        "streams_internal_name_key": "internal_name = 'same'",
        "streams_title_check": "title = ''",
        "streams_visibility_check": "visibility = 'other'",
        "streams_status_check": "status = 'other'",
        "streams_tenant_id_user_id_fkey": "user_id = '{nobody}'",
        "streams_tenant_id_id_key": None,
    },
    "stream_keys": {
        "stream_keys_name_check": "name = ''",
        "stream_keys_key_hash_check": "key_hash = 'a key in clear'",
        "stream_keys_key_hash_key": "key_hash = sha256('same')",
        "stream_keys_key_prefix_check": "key_prefix = 'the whole key'",
        "stream_keys_tenant_id_stream_id_fkey": "stream_id = '{nobody}'",
    },
    "recordings": {
        "recordings_title_check": "title = ''",
        "recordings_status_check": "status = 'other'",
        "recordings_size_bytes_check": "size_bytes = -1",
        "recordings_ends_after_start": "ended_at = started_at - interval '1 s'",
        "recordings_ready_is_complete": "storage_path = NULL",
        "recordings_tenant_id_stream_id_fkey": "stream_id = '{nobody}'",
        "recordings_tenant_id_id_key": None,
    },
    "clips": {
        "clips_title_check": "title = ''",
        "clips_status_check": "status = 'other'",
        "clips_size_bytes_check": "size_bytes = -1",
        "clips_ends_after_start": "ended_at = started_at",
        "clips_ready_is_complete": "size_bytes = NULL",
        "clips_tenant_id_stream_id_fkey": "stream_id = '{nobody}'",
        "clips_tenant_id_recording_id_fkey": "recording_id = '{nobody}'",
        "clips_tenant_id_user_id_fkey": "user_id = '{nobody}'",
    },
    "stream_analytics": {
        "stream_analytics_current_viewers_check": "current_viewers = -1",
        "stream_analytics_total_connections_check": "total_connections = -1",
        "stream_analytics_total_watch_seconds_check": "total_watch_seconds = -1",
        "stream_analytics_total_bytes_in_check": "total_bytes_in = -1",
        "stream_analytics_total_bytes_out_check": "total_bytes_out = -1",
        "stream_analytics_bitrate_kbps_check": "bitrate_kbps = -1",
        "stream_analytics_peak_is_highest": "current_viewers = 2, peak_viewers = 1",
        "stream_analytics_tenant_id_stream_id_fkey": "stream_id = gen_random_uuid()",
    },
    "billing_tiers": {
        "billing_tiers_code_check": "code = 'Pro ' || code",
        "billing_tiers_code_key": "code = 'same'",
        "billing_tiers_name_check": "name = ''",
        "billing_tiers_base_price_check": "base_price = -0.01",
        "billing_tiers_currency_check": "currency = 'euro'",
        "billing_tiers_billing_period_check": "billing_period = 'other'",
        "billing_tiers_allowances_check": "allowances = '[]'",
        "billing_tiers_overage_rates_check": "overage_rates = '1'",
    },
    "cluster_tier_support": {"cluster_tier_support_tier_id_fkey": "tier_id = '{nobody}'"},
    "tenant_subscriptions": {
        "tenant_subscriptions_status_check": "status = 'other'",
        "tenant_subscriptions_billing_email_check": "billing_email = 'no address'",
        "tenant_subscriptions_custom_rates_check": "custom_rates = '[]'",
        "tenant_subscriptions_period_ends_after_start": "current_period_end = current_period_start",
        "tenant_subscriptions_cancelled_has_date": "status = 'cancelled'",
        "tenant_subscriptions_one_running": "tenant_id = '{nobody}'",
        "tenant_subscriptions_tier_id_fkey": "tier_id = '{nobody}'",
        "tenant_subscriptions_tenant_id_id_key": None,
    },
    "usage_records": {
        "usage_records_billing_month_check": "billing_month = '2026-01-02'",
        "usage_records_usage_type_check": "usage_type = 'Egress'",
        "usage_records_usage_value_check": "usage_value = -0.000001",
        "usage_records_usage_details_check": "usage_details = '[]'",
    },
    "billing_invoices": {
        "billing_invoices_invoice_number_check": "invoice_number = ''",
        "billing_invoices_invoice_number_key": "invoice_number = 'same'",
        "billing_invoices_status_check": "status = 'other'",
        "billing_invoices_currency_check": "currency = '€'",
        "billing_invoices_net_amount_check": "net_amount = -1, total_amount = 1.10",
        "billing_invoices_tax_amount_check": "tax_amount = -1, total_amount = 9",
        "billing_invoices_line_items_check": "line_items = '{{}}'",
        "billing_invoices_amounts_add_up": "total_amount = 12.11",
        "billing_invoices_period_ends_after_start": "period_end = period_start - 1",
        "billing_invoices_due_after_issue": "due_at = issued_at - interval '1 s'",
        "billing_invoices_paid_has_date": "status = 'paid'",
        "billing_invoices_tenant_id_subscription_id_fkey": "subscription_id = '{nobody}'",
        "billing_invoices_tenant_id_id_key": None,
    },
    "invoice_drafts": {
        "invoice_drafts_billing_month_check": "billing_month = '2026-01-31'",
        "invoice_drafts_tenant_id_billing_month_key": "tenant_id = '{nobody}'",
        "invoice_drafts_status_check": "status = 'other', invoice_id = NULL",
        "invoice_drafts_currency_check": "currency = 'EURO'",
        "invoice_drafts_net_amount_check": "net_amount = -0.01",
        "invoice_drafts_line_items_check": "line_items = '{{}}'",
        "invoice_drafts_invoiced_has_invoice": "invoice_id = NULL",
        "invoice_drafts_tenant_id_invoice_id_fkey": "invoice_id = '{nobody}'",
    },
    "crypto_wallets": {
        "crypto_wallets_network_check": "network = 'Ethereum main'",
        "crypto_wallets_asset_check": "asset = 'eth'",
        "crypto_wallets_address_check": "address = ''",
        "crypto_wallets_address_network_asset_key": "address = 'same'",
        "crypto_wallets_tenant_id_id_key": None,
    },
    "billing_payments": {
        "billing_payments_method_check":
            "method = 'other', wallet_id = NULL, crypto_amount = NULL, transaction_hash = NULL",
        "billing_payments_status_check": "status = 'other'",
        "billing_payments_amount_check": "amount = 0",
        "billing_payments_currency_check": "currency = 'eur'",
        "billing_payments_provider_check": "provider = ''",
        "billing_payments_provider_reference_check": "provider_reference = ''",
        "billing_payments_provider_reference_provider_key": "provider_reference = 'same'",
        "billing_payments_crypto_amount_check": "crypto_amount = 0",
        "billing_payments_transaction_hash_check": "transaction_hash = ''",
        "billing_payments_one_transaction": None,  # needs two payments to one wallet: a test of its own
        "billing_payments_crypto_has_wallet": "wallet_id = NULL",
        "billing_payments_crypto_only": "method = 'card', wallet_id = NULL",
        "billing_payments_confirmed_has_date": "status = 'confirmed'",
        "billing_payments_tenant_id_invoice_id_fkey": "invoice_id = '{nobody}'",
        "billing_payments_tenant_id_wallet_id_fkey": "wallet_id = '{nobody}'",
    },
}


def load(server, database, *paths):
    """Execute whole files, each in one go, as an ordinary role that owns `database`."""
    server.query(f"ALTER DATABASE {database} OWNER TO {ROLE['user']}")
    connection = server.connect(database, **ROLE)
    try:
        with connection.cursor() as cursor:
            for path in paths:
                cursor.execute(path.read_text())
    finally:
        connection.close()


@pytest.fixture(scope="module", autouse=True)
def owner(postgres):
    """The role that owns the databases: no superuser, as in production."""
    postgres.query(f"CREATE ROLE {ROLE['user']} LOGIN PASSWORD %s", [ROLE["password"]])
    yield
    postgres.query(f"DROP ROLE {ROLE['user']}")


@pytest.fixture(scope="module")
def loaded(postgres, owner):
    """The name of a database with init.sql in it. Tests leave it as it is: they use `db`."""
    name = f"schema_{secrets.token_hex(4)}"
    postgres.query(f"CREATE DATABASE {name}")
    load(postgres, name, POSTGRES_INIT)
    yield name
    postgres.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(postgres, loaded):
    """A cursor of the owner in a transaction that is rolled back afterwards."""
    connection = postgres.connect(loaded, **ROLE)
    connection.autocommit = False
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@pytest.fixture
def sample(db):
    """`db` with one row a table for each of two tenants."""
    for number, uuid in enumerate((ONE, TWO), 1):
        db.execute(SAMPLE.format(id=uuid, n=number, bcrypt=BCRYPT))
    return db


def rows(cursor, statement, parameters=None):
    """The rows of a query."""
    cursor.execute(statement, parameters)
    return cursor.fetchall()


@contextmanager
def refused(cursor, state, constraint=None):
    """Expect the server to refuse what is done inside, for this reason and no other; the transaction goes on."""
    cursor.execute("SAVEPOINT before")
    with pytest.raises(psycopg2.Error) as caught:
        yield caught
    cursor.execute("ROLLBACK TO before")
    assert caught.value.pgcode == state, caught.value
    assert constraint in (None, caught.value.diag.constraint_name)


CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, contype::text, confrelid::regclass::text, conkey, confkey, condeferrable
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""
COLUMNS = """
    SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
           col_description(attrelid, attnum), attnum
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
"""
INDEXES = """
    SELECT indrelid::regclass::text, indexrelid::regclass::text, indkey::int2[], indisunique, amname,
           indpred IS NOT NULL,
           ARRAY(SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = indexrelid ORDER BY attnum),
           indisvalid
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE relnamespace = 'public'::regnamespace
"""


# What is there

def test_tables_are_those_of_the_document(db):
    document = """
        tenants users sessions api_tokens streams stream_keys recordings clips stream_analytics
        billing_invoices billing_payments crypto_wallets
        billing_tiers cluster_tier_support tenant_subscriptions tenant_cluster_access usage_records invoice_drafts
    """
    found = {name for name, in rows(db, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert found == set(document.split()) | {"clusters", "services"} == TABLES
    assert rows(db, "SELECT extname FROM pg_extension") == [("plpgsql",)]


def test_foreign_keys_stay_inside_a_service(db):
    keys = [row for row in rows(db, CONSTRAINTS) if row[2] == "f"]
    assert len(keys) == 18
    assert [(table, parent) for table, _, _, parent, *_ in keys if DOMAIN[table] != DOMAIN[parent]] == []


def test_columns_that_refer_elsewhere_say_so(db):
    keyed = {(row[0], number) for row in rows(db, CONSTRAINTS) if row[2] == "f" for number in row[4]}
    elsewhere = {
        (table, column): comment for table, column, _, _, comment, number in rows(db, COLUMNS)
        if column.endswith("_id") and ((table, number) not in keyed or (column == "tenant_id" and table != "tenants"))
        and not (DOMAIN[table] == "Quartermaster" and column == "tenant_id")
    }
    assert ("users", "tenant_id") in elsewhere and ("usage_records", "cluster_id") in elsewhere
    assert {key for key, comment in elsewhere.items() if "foreign key" not in (comment or "")} == set()


def test_comments_where_they_are_promised(db):
    silent = rows(db, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND obj_description(oid) IS NULL "
                      "AND relnamespace = 'public'::regnamespace")
    assert silent == []
    described = rows(db, "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relkind = 'r' "
                         "AND relnamespace = 'public'::regnamespace")
    assert [name for name, text in described if not text.startswith(f"{DOMAIN[name]}: ")] == []
    functions = rows(db, "SELECT proname, obj_description(oid, 'pg_proc') FROM pg_proc "
                         "WHERE pronamespace = 'public'::regnamespace")
    assert {name for name, text in functions if text} == {"create_user_stream", "set_updated_at"}
    # Units, formats and what a JSON object holds cannot be guessed from a name.
    promised = re.compile(r"numeric|integer|bigint|bytea|jsonb|\[\]|date$")
    bare = [
        (table, column) for table, column, kind, _, comment, _ in rows(db, COLUMNS)
        if promised.search(kind) and not comment
    ]
    assert bare == []
    hashes = [(column, comment) for _, column, _, _, comment, _ in rows(db, COLUMNS) if column.endswith("_hash")]
    assert len(hashes) == 5
    assert all("SHA-256" in text or column == "transaction_hash" for column, text in hashes)


def test_types_are_the_house_s(db):
    columns = rows(db, COLUMNS)
    allowed = re.compile(
        r"uuid|text(\[\])?|boolean|integer|bigint|numeric\(\d+,\d+\)|date|timestamp with time zone|jsonb|bytea|inet"
    )
    assert [row[:3] for row in columns if not allowed.fullmatch(row[2])] == []
    money = {(table, column): kind for table, column, kind, *_ in columns if re.search(r"amount$|price$", column)}
    assert set(money.values()) == {"numeric(14,2)", "numeric(38,18)"}
    assert [key for key, kind in money.items() if kind == "numeric(38,18)"] == [("billing_payments", "crypto_amount")]
    currency = {table for table, column, *_ in columns if column == "currency"}
    assert {table for table, column in money} == currency
    assert {(column, kind) for _, column, kind, *_ in columns if column.endswith("_at")} == \
        {(column, "timestamp with time zone") for _, column, *_ in columns if column.endswith("_at")}
    ids = {(column, kind) for _, column, kind, *_ in columns if column.endswith("_id") and kind != "uuid"}
    assert ids == {("cluster_id", "text"), ("primary_cluster_id", "text"), ("node_id", "text")}
    assert {(row[1], row[3]) for row in columns if row[1] in ("tenant_id", "created_at", "updated_at")} == \
        {("tenant_id", True), ("created_at", True), ("updated_at", True)}


def test_no_time_series(db):
    """A table whose key begins with a moment, or that is fed by events, belongs into ClickHouse."""
    assert [name for name in TABLES if re.search(r"event|metric|sample|log", name)] == []
    keys = [kinds for _, name, _, _, _, _, kinds, _ in rows(db, INDEXES) if name.endswith("_pkey")]
    assert len(keys) == len(TABLES)
    assert [kinds for kinds in keys if any("timestamp" in kind for kind in kinds)] == []


def test_ysql_can_hold_every_key_and_index(db):
    refused_types = re.compile(r"json|\[\]|inet|citext|interval|bit|range|tsvector|oid|record")
    indexes = rows(db, INDEXES)
    assert {row[4] for row in indexes} == {"btree"}
    assert [row[1] for row in indexes if any(refused_types.search(kind) for kind in row[6])] == []
    assert [row[1] for row in indexes if not row[7]] == []
    assert [row[1] for row in rows(db, CONSTRAINTS) if row[6]] == []  # deferrable


def test_tenants_and_parents_are_found_by_index(db):
    numbers = {(table, column): number for table, column, *_, number in rows(db, COLUMNS)}
    indexes = {}
    for table, _, key, _, _, partial, _, _ in rows(db, INDEXES):
        indexes.setdefault(table, []).append((key, partial))
    tenant = {table for table, column in numbers if column == "tenant_id"}
    assert [
        table for table in tenant
        if not any(key[0] == numbers[table, "tenant_id"] and not partial for key, partial in indexes[table])
    ] == []
    assert [
        name for table, name, kind, _, columns, *_ in rows(db, CONSTRAINTS)
        if kind == "f" and not any(set(key[:len(columns)]) == set(columns) for key, _ in indexes[table])
    ] == []


def test_no_index_is_the_beginning_of_another(db):
    found = [(table, name, key, unique, partial) for table, name, key, unique, _, partial, _, _ in rows(db, INDEXES)]
    assert [
        (name, other) for table, name, key, unique, partial in found for table2, other, key2, _, partial2 in found
        if table == table2 and name != other and key2[:len(key)] == key and not unique and not partial2 and 0 not in key
    ] == []


# What is refused

def test_every_constraint_has_a_violation(db):
    declared = {(table, name) for table, name, kind, *_ in rows(db, CONSTRAINTS) if kind != "p"}
    declared |= {
        (table, name) for table, name, _, unique, *_ in rows(db, INDEXES)
        if unique and not rows(db, "SELECT FROM pg_constraint WHERE conindid = %s::regclass", [name])
    }
    assert {(table, name) for table, names in VIOLATIONS.items() for name in names} == declared


@pytest.mark.parametrize("table", VIOLATIONS)
def test_constraints_refuse(sample, table):
    kinds = {name: {"f": FOREIGN_KEY, "u": UNIQUE, "c": CHECK}[kind]
             for _, name, kind, *_ in rows(sample, CONSTRAINTS) if kind != "p"}
    for name, change in VIOLATIONS[table].items():
        if change is not None:
            with refused(sample, kinds.get(name, UNIQUE), name):
                sample.execute(f"UPDATE {table} SET {change.format(one=ONE, nobody=NOBODY)}")


def test_a_row_and_its_parent_have_the_same_tenant(sample):
    """Every foreign key that carries the tenant along, pointed at the other tenant's row."""
    names = {(table, number): column for table, column, *_, number in rows(sample, COLUMNS)}
    sample.execute("DELETE FROM stream_analytics WHERE tenant_id = %s", [TWO])  # else its primary key is in the way
    tried = 0
    for table, name, kind, _, columns, *_ in rows(sample, CONSTRAINTS):
        if kind == "f" and len(columns) == 2:
            column = names[table, columns[1]]
            assert (names[table, columns[0]], column != "tenant_id") == ("tenant_id", True), name
            with refused(sample, FOREIGN_KEY, name):
                sample.execute(f"UPDATE {table} SET {column} = %s WHERE tenant_id = %s", [TWO, ONE])
            tried += 1
    assert tried == 13


def test_a_transaction_is_counted_once_a_wallet(sample):
    again = ("INSERT INTO billing_payments (tenant_id, invoice_id, method, amount, currency, provider, wallet_id, "
             "transaction_hash) VALUES (%s, %s, 'crypto', 1, 'EUR', 'own', %s, %s)")
    with refused(sample, UNIQUE, "billing_payments_one_transaction"):
        sample.execute(again, [ONE, ONE, ONE, "0xa1"])
    sample.execute(again, [ONE, ONE, ONE, "0xa2"])  # the other tenant's transaction, but not its wallet


def test_one_running_subscription_and_any_number_of_cancelled_ones(sample):
    another = ("INSERT INTO tenant_subscriptions (tenant_id, tier_id, status, cancelled_at, current_period_end) "
               "VALUES (%s, %s, %s, %s, now() + interval '1 day')")
    with refused(sample, UNIQUE, "tenant_subscriptions_one_running"):
        sample.execute(another, [ONE, ONE, "trialing", None])
    for _ in range(2):
        sample.execute(another, [ONE, ONE, "cancelled", "2026-01-01"])


@pytest.mark.parametrize("value", [
    "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObG", BCRYPT, BCRYPT.replace("2a", "2b"),
])
def test_password_hashes_are_taken(sample, value):
    sample.execute("UPDATE users SET password_hash = %s", [value])


@pytest.mark.parametrize("value", [
    "", "hunter2", "$2a$12$short", "5f4dcc3b5aa765d61d8327deb882cf99", "$argon2id$", "$1$salt$hash",
])
def test_passwords_and_weak_hashes_are_not(sample, value):
    with refused(sample, CHECK, "users_password_hash_check"):
        sample.execute("UPDATE users SET password_hash = %s", [value])


def test_an_invited_user_needs_no_password_yet(sample):
    sample.execute("UPDATE users SET status = 'invited', password_hash = NULL")


def test_deletion_reaches_only_what_means_nothing_alone(db):
    found = rows(db, "SELECT conrelid::regclass::text, confrelid::regclass::text, confdeltype::text FROM pg_constraint "
                     "WHERE contype = 'f' AND confdeltype <> 'a'")
    assert set(found) == {
        ("tenant_cluster_access", "tenants", "c"), ("sessions", "users", "c"), ("api_tokens", "users", "c"),
        ("stream_keys", "streams", "c"), ("stream_analytics", "streams", "c"),
        ("cluster_tier_support", "billing_tiers", "c"),
    }


@pytest.mark.parametrize(("parent", "child"), [
    ("streams", "recordings"), ("recordings", "clips"), ("users", "streams"), ("clusters", "tenants"),
    ("billing_invoices", "billing_payments"), ("billing_tiers", "tenant_subscriptions"),
    ("tenant_subscriptions", "billing_invoices"), ("crypto_wallets", "billing_payments"),
])
def test_what_others_rely_on_is_not_deleted(sample, parent, child):
    with refused(sample, FOREIGN_KEY):
        sample.execute(f"DELETE FROM {parent}")
    assert rows(sample, f"SELECT count(*) FROM {child}") == [(2,)]


@pytest.mark.parametrize(("parent", "blocking", "children"), [
    ("streams", ["clips", "recordings"], ["stream_keys", "stream_analytics"]),
    ("users", ["clips", "recordings", "streams"], ["sessions", "api_tokens"]),
    ("tenants", [], ["tenant_cluster_access"]),
    ("billing_tiers", ["billing_payments", "invoice_drafts", "billing_invoices", "tenant_subscriptions"],
     ["cluster_tier_support"]),
])
def test_what_means_nothing_alone_goes_along(sample, parent, blocking, children):
    for table in blocking:
        sample.execute(f"DELETE FROM {table}")
    sample.execute(f"DELETE FROM {parent}")
    for table in children:
        assert rows(sample, f"SELECT count(*) FROM {table}") == [(0,)]


# updated_at

def test_updated_at_follows_changes_only(sample):
    stamped = sorted(table for table, column, *_ in rows(sample, COLUMNS) if column == "updated_at")
    assert len(stamped) == 16
    for table in stamped:
        sample.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        sample.execute(
            f"UPDATE {table} SET created_at = now() - interval '1 day', updated_at = now() - interval '1 day'")
        sample.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        sample.execute(f"UPDATE {table} SET created_at = created_at")
        assert rows(sample, f"SELECT DISTINCT updated_at < now() FROM {table}") == [(True,)], table
        sample.execute(f"UPDATE {table} SET created_at = created_at - interval '1 s'")
        assert rows(sample, f"SELECT DISTINCT updated_at = now() FROM {table}") == [(True,)], table


# create_user_stream

def clear_text_in(cursor, *values):
    """The tables in which one of `values` stands, as text or as bytes."""
    hits = []
    for table in TABLES:
        dump = "\n".join(text for text, in rows(cursor, f"SELECT t::text FROM {table} AS t"))
        if any(value in dump or value.encode().hex() in dump for value in values):
            hits.append(table)
    return hits


def test_create_user_stream_makes_a_stream_and_its_key(sample):
    (stream, internal_name, key_id, key), = rows(
        sample, "SELECT * FROM create_user_stream(%s, %s, 'My stream')", [ONE, ONE])
    assert [field.name for field in sample.description] == ["stream_id", "internal_name", "stream_key_id", "stream_key"]
    assert re.fullmatch(r"sk_[0-9a-f]{32}", key)
    assert re.fullmatch(r"[0-9a-f]{32}", internal_name) and internal_name not in key
    made, = rows(sample, "SELECT tenant_id, user_id, internal_name, title, status FROM streams WHERE id = %s", [stream])
    assert made == (ONE, ONE, internal_name, "My stream", "offline")
    (stored_id, owner, digest, prefix), = rows(
        sample, "SELECT id, tenant_id, key_hash, key_prefix FROM stream_keys WHERE stream_id = %s", [stream])
    assert (stored_id, owner, bytes(digest), prefix) == (key_id, ONE, hashlib.sha256(key.encode()).digest(), key[:7])
    assert clear_text_in(sample, key, key[3:]) == []
    assert clear_text_in(sample, internal_name) == ["streams"]  # the search does find what is there


def test_create_user_stream_never_makes_the_same_twice(sample):
    made = [rows(sample, "SELECT * FROM create_user_stream(%s, %s, 'S')", [ONE, ONE])[0] for _ in range(20)]
    assert all(len(set(values)) == 20 for values in zip(*made))


def test_create_user_stream_takes_an_id_and_a_key(sample):
    call = "SELECT stream_id, stream_key FROM create_user_stream(%s, %s, 'S', %s, %s)"
    key = "ключ of an encoder '\\"
    assert rows(sample, call, [ONE, ONE, NOBODY, key]) == [(NOBODY, key)]
    assert rows(sample, "SELECT key_hash = %s FROM stream_keys WHERE stream_id = %s",
                [hashlib.sha256(key.encode()).digest(), NOBODY]) == [(True,)]
    assert clear_text_in(sample, key) == []
    with refused(sample, UNIQUE, "streams_pkey"):
        sample.execute(call, [ONE, ONE, NOBODY, "another key of an encoder"])
    with refused(sample, UNIQUE, "stream_keys_key_hash_key"):
        sample.execute(call, [ONE, ONE, None, key])


@pytest.mark.parametrize(("arguments", "state", "says"), [
    ((ONE, NOBODY, "S", None), FOREIGN_KEY, f"User {NOBODY} is no active user of tenant {ONE}"),
    ((TWO, ONE, "S", None), FOREIGN_KEY, f"User {ONE} is no active user of tenant {TWO}"),
    ((ONE, None, "S", None), FOREIGN_KEY, "no active user"),
    ((ONE, ONE, "", None), CHECK, "streams_title_check"),
    ((ONE, ONE, None, None), NOT_NULL, "title"),
    ((ONE, ONE, "S", "fifteen letters"), CHECK, "A stream key of 15 characters is too short"),
])
def test_create_user_stream_refuses(sample, arguments, state, says):
    with refused(sample, state) as caught:
        sample.execute("SELECT * FROM create_user_stream(%s, %s, %s, NULL, %s)", arguments)
    assert says in str(caught.value)
    assert rows(sample, "SELECT (SELECT count(*) FROM streams), (SELECT count(*) FROM stream_keys)") == [(2, 2)]


def test_create_user_stream_refuses_a_disabled_user(sample):
    sample.execute("UPDATE users SET status = 'disabled'")
    with refused(sample, FOREIGN_KEY):
        sample.execute("SELECT * FROM create_user_stream(%s, %s, 'S')", [ONE, ONE])


# Loading again

FINGERPRINT = """
    SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'comment', objsubid::text, description FROM pg_description
        JOIN pg_class ON pg_class.oid = objoid AND relnamespace = 'public'::regnamespace
    UNION ALL SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod) || attnotnull
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0
    ORDER BY 1, 2, 3
"""


def content(server, database):
    """Every row of every table, as text."""
    return {table: server.query(f"SELECT t::text FROM {table} AS t ORDER BY 1", database=database) for table in TABLES}


def test_loading_twice_changes_nothing(postgres, postgres_database):
    load(postgres, postgres_database, POSTGRES_INIT)
    postgres.query(SAMPLE.format(id=ONE, n=1, bcrypt=BCRYPT), database=postgres_database)
    before = postgres.query(FINGERPRINT, database=postgres_database), content(postgres, postgres_database)
    load(postgres, postgres_database, POSTGRES_INIT)
    assert (postgres.query(FINGERPRINT, database=postgres_database), content(postgres, postgres_database)) == before


def test_a_script_that_stopped_anywhere_is_run_again(postgres, loaded, postgres_database):
    """Each statement alone, as where DDL commits by itself, and each of them twice, as after a lost answer."""
    load(postgres, postgres_database)
    connection = postgres.connect(postgres_database, **ROLE)
    try:
        with connection.cursor() as cursor:
            for statement in statements(POSTGRES_INIT.read_text()):
                for _ in range(2):
                    cursor.execute(statement)
    finally:
        connection.close()
    assert postgres.query(FINGERPRINT, database=postgres_database) == postgres.query(FINGERPRINT, database=loaded)


# The demo seed

@pytest.fixture
def demo(postgres, postgres_database):
    """The name of a database with the schema and the demo data."""
    load(postgres, postgres_database, POSTGRES_INIT, POSTGRES_SEED)
    return postgres_database


def test_demo_data(postgres, demo):
    def query(statement):
        return postgres.query(statement, database=demo)

    assert query("SELECT email FROM users") == [("demo@frameworks.dev",)]
    assert query("SELECT id, is_default, status FROM clusters") == [("central-primary", True, "active")]
    assert query("SELECT id, provider FROM services") == [("api_tenants", "quartermaster")]
    assert query("""
        SELECT tenants.name, cluster_id, tenant_cluster_access.is_active
        FROM tenants JOIN tenant_cluster_access ON tenant_id = id JOIN users ON users.tenant_id = tenants.id
    """) == [("Demo", "central-primary", True)]
    assert query("""
        SELECT streams.id::text, title, users.email, key_prefix, key_hash = sha256('sk_demo_not_a_secret')
        FROM streams JOIN users ON users.id = user_id JOIN stream_keys ON stream_id = streams.id
    """) == [("5eed0000-0000-4000-8000-000000000003", "Demo stream", "demo@frameworks.dev", "sk_demo", True)]
    ids = query("SELECT id::text FROM tenants UNION ALL SELECT id::text FROM users")
    assert ids == [("5eed0000-0000-4000-8000-000000000001",), ("5eed0000-0000-4000-8000-000000000002",)]


def test_demo_secrets_are_hashed(postgres, demo):
    connection = postgres.connect(demo)
    try:
        with connection.cursor() as cursor:
            assert clear_text_in(cursor, "sk_demo_not_a_secret", "demo-not-a-secret") == []
            cursor.execute("CREATE SCHEMA extras; CREATE EXTENSION pgcrypto SCHEMA extras")
            cursor.execute("SELECT extras.crypt('demo-not-a-secret', password_hash) = password_hash FROM users")
            assert cursor.fetchall() == [(True,)]
    finally:
        connection.close()


def test_demo_data_twice_changes_nothing(postgres, demo):
    before = content(postgres, demo)
    load(postgres, demo, POSTGRES_SEED)
    assert content(postgres, demo) == before
    assert {table: len(found) for table, found in before.items() if found} == {
        "clusters": 1, "services": 1, "tenants": 1, "tenant_cluster_access": 1, "users": 1, "streams": 1,
        "stream_keys": 1,
    }


def test_demo_data_leaves_what_a_developer_changed(postgres, postgres_database):
    load(postgres, postgres_database, POSTGRES_INIT)
    postgres.query("INSERT INTO clusters (id, name, kind, is_default) VALUES ('mine', 'M', 'edge', true)",
                   database=postgres_database)
    load(postgres, postgres_database, POSTGRES_SEED)
    assert postgres.query("SELECT id FROM clusters WHERE is_default", database=postgres_database) == [("mine",)]
    postgres.query("UPDATE streams SET title = 'Mine'; UPDATE users SET display_name = 'Me'; DELETE FROM services",
                   database=postgres_database)
    load(postgres, postgres_database, POSTGRES_SEED)
    assert postgres.query("SELECT title, display_name, (SELECT count(*) FROM services) FROM streams, users",
                          database=postgres_database) == [("Mine", "Me", 1)]
    assert postgres.query("SELECT count(*) FROM stream_keys", database=postgres_database) == [(1,)]
