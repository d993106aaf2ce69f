-- FrameWorks, state and configuration: PostgreSQL 15, or YugabyteDB with YSQL based on PostgreSQL 15 (2025.1 or later).
--
-- Three services share this database, each with tables of its own: Quartermaster (tenants, clusters, services, access),
-- Commodore (users, streams, recordings, clips) and Purser (billing, usage). Foreign keys stay inside one service. Where
-- a column refers to another service's row, its comment says so, and that service's API answers for it.
-- Inside a service, keys carry tenant_id along, so that no row can belong to one tenant and its parent to another.
-- Events and time series are not here but in ClickHouse. Secrets are stored as hashes only.
-- Every statement can run again: where DDL is not transactional, a script that stopped half-way is simply run again.
-- YSQL hashes the first column of a key or an index unless it says ASC or DESC: those that are read by range say it.

CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END;
$$;

COMMENT ON FUNCTION set_updated_at() IS 'Trigger function: stamps updated_at of a row that changes.';

-- Quartermaster: tenants, clusters, services, access

CREATE TABLE IF NOT EXISTS clusters (
    id TEXT PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    name TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    kind TEXT NOT NULL CHECK (kind IN ('central', 'regional', 'edge')),
    region TEXT,
    base_domain TEXT,
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'draining', 'offline')),
    is_default BOOLEAN NOT NULL DEFAULT false,
    max_streams INTEGER CHECK (max_streams >= 0),
    max_viewers INTEGER CHECK (max_viewers >= 0),
    max_bandwidth_mbps INTEGER CHECK (max_bandwidth_mbps >= 0),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX IF NOT EXISTS clusters_one_default ON clusters (is_default) WHERE is_default;

COMMENT ON TABLE clusters IS 'Quartermaster: groups of media nodes that streams run on.';
COMMENT ON COLUMN clusters.id IS 'Readable and permanent, e.g. central-primary: analytics and usage refer to it.';
COMMENT ON COLUMN clusters.status IS 'draining: existing streams end, new ones go elsewhere.';
COMMENT ON COLUMN clusters.is_default IS 'Where new tenants start; one cluster at most.';
COMMENT ON COLUMN clusters.max_streams IS 'Streams at the same time; NULL: no limit.';
COMMENT ON COLUMN clusters.max_viewers IS 'Viewers at the same time; NULL: no limit.';
COMMENT ON COLUMN clusters.max_bandwidth_mbps IS 'Megabits per second, outgoing; NULL: no limit.';

CREATE TABLE IF NOT EXISTS services (
    id TEXT PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9_]{0,62}$'),
    name TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description TEXT,
    provider TEXT NOT NULL CHECK (char_length(provider) BETWEEN 1 AND 63),
    protocol TEXT NOT NULL CHECK (protocol IN ('http', 'https', 'grpc', 'tcp', 'udp')),
    health_check_path TEXT CHECK (health_check_path LIKE '/%'),
    is_active BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE services IS
    'Quartermaster: the service catalogue, what the platform offers to its own parts and to tenants.';
COMMENT ON COLUMN services.id IS 'Readable and permanent, e.g. api_tenants.';
COMMENT ON COLUMN services.provider IS 'Component that answers, e.g. quartermaster.';
COMMENT ON COLUMN services.health_check_path IS 'HTTP path that answers 200 when well; NULL: checked by connecting.';

CREATE TABLE IF NOT EXISTS tenants (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    name TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    subdomain TEXT UNIQUE CHECK (subdomain ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'closed')),
    primary_cluster_id TEXT REFERENCES clusters (id),
    settings JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS tenants_primary_cluster_id ON tenants (primary_cluster_id);

COMMENT ON TABLE tenants IS
    'Quartermaster: customers of the platform. Every tenant_id elsewhere is an id of this table.';
COMMENT ON COLUMN tenants.subdomain IS 'DNS label of the tenant''s own pages; NULL: it has none.';
COMMENT ON COLUMN tenants.status IS 'suspended: nothing may be started; closed: kept for the records only.';
COMMENT ON COLUMN tenants.settings IS 'Preferences by name, such as branding. No secrets.';

CREATE TABLE IF NOT EXISTS tenant_cluster_access (
    tenant_id UUID NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    cluster_id TEXT NOT NULL REFERENCES clusters (id),
    access_level TEXT NOT NULL DEFAULT 'shared' CHECK (access_level IN ('shared', 'priority', 'dedicated')),
    is_active BOOLEAN NOT NULL DEFAULT true,
    max_streams INTEGER CHECK (max_streams >= 0),
    max_viewers INTEGER CHECK (max_viewers >= 0),
    max_bandwidth_mbps INTEGER CHECK (max_bandwidth_mbps >= 0),
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, cluster_id),
    CONSTRAINT tenant_cluster_access_expires_after_start CHECK (expires_at > created_at)
);

CREATE INDEX IF NOT EXISTS tenant_cluster_access_cluster_id ON tenant_cluster_access (cluster_id);

COMMENT ON TABLE tenant_cluster_access IS 'Quartermaster: which tenant may use which cluster, and how much of it.';
COMMENT ON COLUMN tenant_cluster_access.max_streams IS 'Streams at the same time; NULL: the cluster''s limit.';
COMMENT ON COLUMN tenant_cluster_access.max_viewers IS 'Viewers at the same time; NULL: the cluster''s limit.';
COMMENT ON COLUMN tenant_cluster_access.max_bandwidth_mbps IS
    'Megabits per second, outgoing; NULL: the cluster''s limit.';
COMMENT ON COLUMN tenant_cluster_access.expires_at IS 'NULL: until it is taken back.';

-- Commodore: users, streams, recordings, clips

CREATE TABLE IF NOT EXISTS users (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    email TEXT NOT NULL CHECK (char_length(email) <= 254 AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    password_hash TEXT CHECK (password_hash ~ '^[$](argon2id[$]v=[0-9]+[$].+|2[aby][$][0-9]{2}[$][./A-Za-z0-9]{53})$'),
    display_name TEXT CHECK (char_length(display_name) BETWEEN 1 AND 200),
    role TEXT NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    status TEXT NOT NULL DEFAULT 'invited' CHECK (status IN ('invited', 'active', 'disabled')),
    email_verified_at TIMESTAMPTZ,
    last_login_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    CONSTRAINT users_active_has_password CHECK (status <> 'active' OR password_hash IS NOT NULL)
);

CREATE UNIQUE INDEX IF NOT EXISTS users_email ON users (lower(email));

COMMENT ON TABLE users IS 'Commodore: people who sign in, each for one tenant.';
COMMENT ON COLUMN users.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN users.email IS 'Kept as typed, unique whatever the case: look it up by lower(email).';
COMMENT ON COLUMN users.password_hash IS
    'argon2id in PHC format; bcrypt where imported. Salted and slow: never a plain SHA-256. NULL until the invitation '
    'is accepted.';

CREATE TABLE IF NOT EXISTS sessions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    user_id UUID NOT NULL,
    token_hash BYTEA NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    ip_address INET,
    user_agent TEXT,
    last_seen_at TIMESTAMPTZ,
    expires_at TIMESTAMPTZ NOT NULL,
    revoked_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT sessions_expires_after_start CHECK (expires_at > created_at)
);

CREATE INDEX IF NOT EXISTS sessions_user_id ON sessions (tenant_id, user_id);
CREATE INDEX IF NOT EXISTS sessions_expires_at ON sessions (expires_at ASC);

COMMENT ON TABLE sessions IS 'Commodore: signed-in browsers. Expired rows are deleted.';
COMMENT ON COLUMN sessions.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN sessions.token_hash IS
    'SHA-256 of the session token, which is random and of 128 bits or more: look it up by sha256(token).';
COMMENT ON COLUMN sessions.ip_address IS 'Where it was signed in from: personal data.';

CREATE TABLE IF NOT EXISTS api_tokens (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    user_id UUID NOT NULL,
    name TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    token_hash BYTEA NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    token_prefix TEXT NOT NULL CHECK (char_length(token_prefix) <= 8),
    scopes TEXT[] NOT NULL DEFAULT '{}',
    last_used_at TIMESTAMPTZ,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT api_tokens_expires_after_start CHECK (expires_at > created_at)
);

CREATE INDEX IF NOT EXISTS api_tokens_user_id ON api_tokens (tenant_id, user_id);

COMMENT ON TABLE api_tokens IS 'Commodore: tokens that programs use in a user''s name.';
COMMENT ON COLUMN api_tokens.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN api_tokens.token_hash IS
    'SHA-256 of the token, which is random and of 128 bits or more: look it up by sha256(token).';
COMMENT ON COLUMN api_tokens.token_prefix IS 'First characters of the token, for people to tell tokens apart.';
COMMENT ON COLUMN api_tokens.scopes IS 'What it may do, e.g. streams:read; empty: nothing.';
COMMENT ON COLUMN api_tokens.expires_at IS 'NULL: until it is revoked.';

CREATE TABLE IF NOT EXISTS streams (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    user_id UUID NOT NULL,
    internal_name TEXT NOT NULL UNIQUE CHECK (internal_name ~ '^[a-z0-9][a-z0-9_+-]{0,126}$'),
    title TEXT NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    description TEXT,
    visibility TEXT NOT NULL DEFAULT 'public' CHECK (visibility IN ('public', 'unlisted', 'private')),
    status TEXT NOT NULL DEFAULT 'offline' CHECK (status IN ('offline', 'live', 'disabled')),
    is_recording_enabled BOOLEAN NOT NULL DEFAULT false,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
);

CREATE INDEX IF NOT EXISTS streams_user_id ON streams (tenant_id, user_id);

COMMENT ON TABLE streams IS
    'Commodore: what a tenant broadcasts. create_user_stream() makes one together with its key.';
COMMENT ON COLUMN streams.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN streams.internal_name IS
    'Name on the media nodes and in all analytics; public, unlike the stream key.';

CREATE TABLE IF NOT EXISTS stream_keys (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    stream_id UUID NOT NULL,
    name TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    key_hash BYTEA NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    key_prefix TEXT NOT NULL CHECK (char_length(key_prefix) <= 8),
    last_used_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, stream_id) REFERENCES streams (tenant_id, id) ON DELETE CASCADE
);

CREATE INDEX IF NOT EXISTS stream_keys_stream_id ON stream_keys (tenant_id, stream_id);

COMMENT ON TABLE stream_keys IS
    'Commodore: keys that encoders publish with. To replace one, add the new one first, then revoke the old.';
COMMENT ON COLUMN stream_keys.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN stream_keys.key_hash IS
    'SHA-256 of the key, which is random and of 122 bits or more: look it up by sha256(key).';
COMMENT ON COLUMN stream_keys.key_prefix IS 'First characters of the key, for people to tell keys apart.';

CREATE TABLE IF NOT EXISTS recordings (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    stream_id UUID NOT NULL,
    cluster_id TEXT,
    title TEXT CHECK (char_length(title) BETWEEN 1 AND 200),
    status TEXT NOT NULL DEFAULT 'recording'
        CHECK (status IN ('recording', 'processing', 'ready', 'failed', 'deleted')),
    storage_path TEXT,
    format TEXT,
    size_bytes BIGINT CHECK (size_bytes >= 0),
    started_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, stream_id) REFERENCES streams (tenant_id, id),
    CONSTRAINT recordings_ends_after_start CHECK (ended_at >= started_at),
    CONSTRAINT recordings_ready_is_complete
        CHECK (status <> 'ready' OR (ended_at IS NOT NULL AND storage_path IS NOT NULL AND size_bytes IS NOT NULL))
);

CREATE INDEX IF NOT EXISTS recordings_stream_id ON recordings (tenant_id, stream_id, started_at DESC);
CREATE INDEX IF NOT EXISTS recordings_expires_at ON recordings (expires_at ASC) WHERE status <> 'deleted';

COMMENT ON TABLE recordings IS
    'Commodore: recorded broadcasts. A stream that has some cannot be deleted: their files would be lost track of.';
COMMENT ON COLUMN recordings.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN recordings.cluster_id IS
    'Quartermaster''s clusters.id, where it was recorded; no foreign key across services.';
COMMENT ON COLUMN recordings.status IS 'deleted: the file is gone, the row stays for the records.';
COMMENT ON COLUMN recordings.storage_path IS 'Object''s path in the store; never a signed link.';
COMMENT ON COLUMN recordings.size_bytes IS 'Bytes; NULL until known.';
COMMENT ON COLUMN recordings.expires_at IS 'When the file may be deleted; NULL: kept.';

CREATE TABLE IF NOT EXISTS clips (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    stream_id UUID NOT NULL,
    recording_id UUID,
    user_id UUID NOT NULL,
    title TEXT NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    status TEXT NOT NULL DEFAULT 'requested'
        CHECK (status IN ('requested', 'processing', 'ready', 'failed', 'deleted')),
    storage_path TEXT,
    size_bytes BIGINT CHECK (size_bytes >= 0),
    started_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, stream_id) REFERENCES streams (tenant_id, id),
    FOREIGN KEY (tenant_id, recording_id) REFERENCES recordings (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id),
    CONSTRAINT clips_ends_after_start CHECK (ended_at > started_at),
    CONSTRAINT clips_ready_is_complete
        CHECK (status <> 'ready' OR (storage_path IS NOT NULL AND size_bytes IS NOT NULL))
);

CREATE INDEX IF NOT EXISTS clips_stream_id ON clips (tenant_id, stream_id, started_at DESC);
CREATE INDEX IF NOT EXISTS clips_recording_id ON clips (tenant_id, recording_id) WHERE recording_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS clips_user_id ON clips (tenant_id, user_id);
CREATE INDEX IF NOT EXISTS clips_expires_at ON clips (expires_at ASC) WHERE status <> 'deleted';

COMMENT ON TABLE clips IS 'Commodore: cuttings from a stream or one of its recordings.';
COMMENT ON COLUMN clips.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN clips.recording_id IS 'Cut from this recording; NULL: from the live stream.';
COMMENT ON COLUMN clips.user_id IS 'Who cut it.';
COMMENT ON COLUMN clips.status IS 'deleted: the file is gone, the row stays for the records.';
COMMENT ON COLUMN clips.storage_path IS 'Object''s path in the store; never a signed link.';
COMMENT ON COLUMN clips.size_bytes IS 'Bytes; NULL until known.';
COMMENT ON COLUMN clips.started_at IS 'First moment shown, in the stream''s own time.';
COMMENT ON COLUMN clips.ended_at IS 'Last moment shown, in the stream''s own time.';
COMMENT ON COLUMN clips.expires_at IS 'When the file may be deleted; NULL: kept.';

CREATE TABLE IF NOT EXISTS stream_analytics (
    tenant_id UUID NOT NULL,
    stream_id UUID PRIMARY KEY,
    node_id TEXT,
    current_viewers INTEGER NOT NULL DEFAULT 0 CHECK (current_viewers >= 0),
    peak_viewers INTEGER NOT NULL DEFAULT 0,
    total_connections BIGINT NOT NULL DEFAULT 0 CHECK (total_connections >= 0),
    total_watch_seconds BIGINT NOT NULL DEFAULT 0 CHECK (total_watch_seconds >= 0),
    total_bytes_in BIGINT NOT NULL DEFAULT 0 CHECK (total_bytes_in >= 0),
    total_bytes_out BIGINT NOT NULL DEFAULT 0 CHECK (total_bytes_out >= 0),
    bitrate_kbps INTEGER CHECK (bitrate_kbps >= 0),
    last_started_at TIMESTAMPTZ,
    last_ended_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, stream_id) REFERENCES streams (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT stream_analytics_peak_is_highest CHECK (peak_viewers >= current_viewers)
);

CREATE INDEX IF NOT EXISTS stream_analytics_stream_id ON stream_analytics (tenant_id, stream_id);

COMMENT ON TABLE stream_analytics IS
    'Commodore: one row a stream, its present state and its totals. The history is in ClickHouse.';
COMMENT ON COLUMN stream_analytics.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN stream_analytics.node_id IS
    'Media node that takes it in, as the analytics name it; NULL: not live. No foreign key: nodes are not in this '
    'database.';
COMMENT ON COLUMN stream_analytics.current_viewers IS 'Viewers now, on all nodes.';
COMMENT ON COLUMN stream_analytics.peak_viewers IS 'Most viewers ever at the same time.';
COMMENT ON COLUMN stream_analytics.total_connections IS 'Viewers'' connections ever.';
COMMENT ON COLUMN stream_analytics.total_watch_seconds IS 'Seconds watched, over all viewers.';
COMMENT ON COLUMN stream_analytics.total_bytes_in IS 'Bytes received from encoders.';
COMMENT ON COLUMN stream_analytics.total_bytes_out IS 'Bytes sent to viewers.';
COMMENT ON COLUMN stream_analytics.bitrate_kbps IS 'Kilobits per second now; NULL: not live.';

CREATE OR REPLACE FUNCTION create_user_stream(
    p_tenant_id UUID,
    p_user_id UUID,
    p_title TEXT,
    p_stream_id UUID DEFAULT NULL,
    p_stream_key TEXT DEFAULT NULL
) RETURNS TABLE (stream_id UUID, internal_name TEXT, stream_key_id UUID, stream_key TEXT)
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM FROM users WHERE id = p_user_id AND tenant_id = p_tenant_id AND status = 'active';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'User % is no active user of tenant %', p_user_id, p_tenant_id
            USING ERRCODE = 'foreign_key_violation', HINT = 'Check the ids, and the status of the user.';
    END IF;
    IF char_length(p_stream_key) < 16 THEN
        RAISE EXCEPTION 'A stream key of % characters is too short', char_length(p_stream_key)
            USING ERRCODE = 'check_violation', HINT = 'Give 16 characters or more, or none to have one generated.';
    END IF;

    stream_id := COALESCE(p_stream_id, gen_random_uuid());
    internal_name := replace(gen_random_uuid()::text, '-', '');
    stream_key_id := gen_random_uuid();
    -- A random UUID comes from the operating system's generator and holds 122 random bits: too many to guess.
    stream_key := COALESCE(p_stream_key, 'sk_' || replace(gen_random_uuid()::text, '-', ''));

    INSERT INTO streams (id, tenant_id, user_id, internal_name, title)
    VALUES (stream_id, p_tenant_id, p_user_id, internal_name, p_title);

    INSERT INTO stream_keys (id, tenant_id, stream_id, name, key_hash, key_prefix)
    VALUES (
        stream_key_id, p_tenant_id, stream_id, 'Default', sha256(convert_to(stream_key, 'UTF8')), left(stream_key, 7)
    );

    RETURN NEXT;
END;
$$;

COMMENT ON FUNCTION create_user_stream(UUID, UUID, TEXT, UUID, TEXT) IS
    'Makes a stream and its first key for an active user of a tenant. Returns the key in clear, the only time: '
    'just its hash is stored. With p_stream_id a repeated call cannot make a second stream; p_stream_key keeps '
    'a key that an encoder already has.';

-- Purser: billing, usage

CREATE TABLE IF NOT EXISTS billing_tiers (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    code TEXT NOT NULL UNIQUE CHECK (code ~ '^[a-z][a-z0-9_]{0,62}$'),
    name TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description TEXT,
    base_price NUMERIC(14, 2) NOT NULL CHECK (base_price >= 0),
    currency TEXT NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    billing_period TEXT NOT NULL DEFAULT 'monthly' CHECK (billing_period IN ('monthly', 'yearly')),
    allowances JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(allowances) = 'object'),
    overage_rates JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(overage_rates) = 'object'),
    is_active BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

COMMENT ON TABLE billing_tiers IS 'Purser: what can be subscribed to, and for how much.';
COMMENT ON COLUMN billing_tiers.base_price IS 'For one billing_period, without tax, in currency.';
COMMENT ON COLUMN billing_tiers.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN billing_tiers.allowances IS 'Included amount by usage_type, e.g. {"egress_gb": 500}.';
COMMENT ON COLUMN billing_tiers.overage_rates IS
    'Price of one unit beyond the allowance by usage_type, in currency, e.g. {"egress_gb": 0.015}.';
COMMENT ON COLUMN billing_tiers.is_active IS 'false: existing subscriptions go on, new ones are refused.';

CREATE TABLE IF NOT EXISTS cluster_tier_support (
    cluster_id TEXT NOT NULL,
    tier_id UUID NOT NULL REFERENCES billing_tiers (id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, tier_id)
);

CREATE INDEX IF NOT EXISTS cluster_tier_support_tier_id ON cluster_tier_support (tier_id);

COMMENT ON TABLE cluster_tier_support IS 'Purser: which tiers a cluster serves.';
COMMENT ON COLUMN cluster_tier_support.cluster_id IS 'Quartermaster''s clusters.id; no foreign key across services.';

CREATE TABLE IF NOT EXISTS tenant_subscriptions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    tier_id UUID NOT NULL REFERENCES billing_tiers (id),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('trialing', 'active', 'past_due', 'cancelled')),
    billing_email TEXT CHECK (char_length(billing_email) <= 254 AND billing_email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    custom_rates JSONB CHECK (jsonb_typeof(custom_rates) = 'object'),
    trial_ends_at TIMESTAMPTZ,
    current_period_start TIMESTAMPTZ NOT NULL DEFAULT now(),
    current_period_end TIMESTAMPTZ NOT NULL,
    cancelled_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    CONSTRAINT tenant_subscriptions_period_ends_after_start CHECK (current_period_end > current_period_start),
    CONSTRAINT tenant_subscriptions_cancelled_has_date CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL))
);

CREATE UNIQUE INDEX IF NOT EXISTS tenant_subscriptions_one_running
    ON tenant_subscriptions (tenant_id) WHERE status <> 'cancelled';
CREATE INDEX IF NOT EXISTS tenant_subscriptions_tier_id ON tenant_subscriptions (tier_id);
CREATE INDEX IF NOT EXISTS tenant_subscriptions_current_period_end
    ON tenant_subscriptions (current_period_end ASC) WHERE status <> 'cancelled';

COMMENT ON TABLE tenant_subscriptions IS 'Purser: a tenant''s subscriptions, one running at most; cancelled ones stay.';
COMMENT ON COLUMN tenant_subscriptions.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN tenant_subscriptions.custom_rates IS
    'Agreed prices of one unit by usage_type, in the tier''s currency; NULL: the tier''s own.';
COMMENT ON COLUMN tenant_subscriptions.trial_ends_at IS 'NULL: without a trial.';

CREATE TABLE IF NOT EXISTS usage_records (
    tenant_id UUID NOT NULL,
    billing_month DATE NOT NULL CHECK (extract(day FROM billing_month) = 1),
    cluster_id TEXT NOT NULL,
    usage_type TEXT NOT NULL CHECK (usage_type ~ '^[a-z][a-z0-9_]{0,62}$'),
    usage_value NUMERIC(24, 6) NOT NULL CHECK (usage_value >= 0),
    usage_details JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(usage_details) = 'object'),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, billing_month, cluster_id, usage_type)
);

COMMENT ON TABLE usage_records IS
    'Purser: monthly sums of the usage_records that ClickHouse holds, one row a tenant, month, cluster and type.';
COMMENT ON COLUMN usage_records.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN usage_records.billing_month IS 'First day of the month.';
COMMENT ON COLUMN usage_records.cluster_id IS
    'Quartermaster''s clusters.id, where it was used; no foreign key across services.';
COMMENT ON COLUMN usage_records.usage_type IS 'What was used: egress_gb, stream_hours, storage_gb, ...';
COMMENT ON COLUMN usage_records.usage_value IS 'How much in that month, in the unit of usage_type.';
COMMENT ON COLUMN usage_records.usage_details IS 'How the sum came about, for the tenant to read.';

CREATE TABLE IF NOT EXISTS billing_invoices (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    subscription_id UUID,
    invoice_number TEXT NOT NULL UNIQUE CHECK (char_length(invoice_number) BETWEEN 1 AND 64),
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'overdue', 'paid', 'void')),
    currency TEXT NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    net_amount NUMERIC(14, 2) NOT NULL CHECK (net_amount >= 0),
    tax_amount NUMERIC(14, 2) NOT NULL DEFAULT 0 CHECK (tax_amount >= 0),
    total_amount NUMERIC(14, 2) NOT NULL,
    line_items JSONB NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(line_items) = 'array'),
    period_start DATE NOT NULL,
    period_end DATE NOT NULL,
    issued_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    due_at TIMESTAMPTZ NOT NULL,
    paid_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, subscription_id) REFERENCES tenant_subscriptions (tenant_id, id),
    CONSTRAINT billing_invoices_amounts_add_up CHECK (total_amount = net_amount + tax_amount),
    CONSTRAINT billing_invoices_period_ends_after_start CHECK (period_end >= period_start),
    CONSTRAINT billing_invoices_due_after_issue CHECK (due_at >= issued_at),
    CONSTRAINT billing_invoices_paid_has_date CHECK ((status = 'paid') = (paid_at IS NOT NULL))
);

CREATE INDEX IF NOT EXISTS billing_invoices_issued_at ON billing_invoices (tenant_id, issued_at DESC);
CREATE INDEX IF NOT EXISTS billing_invoices_subscription_id ON billing_invoices (tenant_id, subscription_id);
CREATE INDEX IF NOT EXISTS billing_invoices_due_at ON billing_invoices (due_at ASC) WHERE status IN ('open', 'overdue');

COMMENT ON TABLE billing_invoices IS 'Purser: invoices as sent. What is not sent yet is an invoice_drafts row.';
COMMENT ON COLUMN billing_invoices.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN billing_invoices.subscription_id IS 'NULL: not for a subscription.';
COMMENT ON COLUMN billing_invoices.status IS 'void: cancelled after it was sent; never deleted.';
COMMENT ON COLUMN billing_invoices.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN billing_invoices.net_amount IS 'Without tax, in currency.';
COMMENT ON COLUMN billing_invoices.tax_amount IS 'In currency.';
COMMENT ON COLUMN billing_invoices.total_amount IS 'To be paid, tax included, in currency.';
COMMENT ON COLUMN billing_invoices.line_items IS
    'What is billed: description, quantity, unit_price and amount each, in currency.';
COMMENT ON COLUMN billing_invoices.period_start IS 'First day that is billed.';
COMMENT ON COLUMN billing_invoices.period_end IS 'Last day that is billed.';

CREATE TABLE IF NOT EXISTS invoice_drafts (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    billing_month DATE NOT NULL CHECK (extract(day FROM billing_month) = 1),
    invoice_id UUID,
    status TEXT NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'approved', 'invoiced', 'discarded')),
    currency TEXT NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    net_amount NUMERIC(14, 2) NOT NULL DEFAULT 0 CHECK (net_amount >= 0),
    line_items JSONB NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(line_items) = 'array'),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, billing_month),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES billing_invoices (tenant_id, id),
    CONSTRAINT invoice_drafts_invoiced_has_invoice CHECK ((status = 'invoiced') = (invoice_id IS NOT NULL))
);

CREATE INDEX IF NOT EXISTS invoice_drafts_invoice_id
    ON invoice_drafts (tenant_id, invoice_id) WHERE invoice_id IS NOT NULL;

COMMENT ON TABLE invoice_drafts IS
    'Purser: a tenant''s coming invoice, one a month, computed anew from usage_records until it is approved.';
COMMENT ON COLUMN invoice_drafts.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN invoice_drafts.billing_month IS 'First day of the month.';
COMMENT ON COLUMN invoice_drafts.invoice_id IS 'What it became; NULL until then.';
COMMENT ON COLUMN invoice_drafts.currency IS 'ISO 4217 code.';
COMMENT ON COLUMN invoice_drafts.net_amount IS 'Without tax, in currency.';
COMMENT ON COLUMN invoice_drafts.line_items IS 'As billing_invoices.line_items.';

CREATE TABLE IF NOT EXISTS crypto_wallets (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    network TEXT NOT NULL CHECK (network ~ '^[a-z][a-z0-9_]{0,62}$'),
    asset TEXT NOT NULL CHECK (asset ~ '^[A-Z][A-Z0-9]{1,11}$'),
    address TEXT NOT NULL CHECK (char_length(address) BETWEEN 1 AND 128),
    is_active BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, id),
    UNIQUE (address, network, asset)
);

COMMENT ON TABLE crypto_wallets IS
    'Purser: addresses that tenants pay to, each its own. Public addresses only: no private key or seed is ever '
    'stored here.';
COMMENT ON COLUMN crypto_wallets.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN crypto_wallets.network IS 'Chain, e.g. ethereum.';
COMMENT ON COLUMN crypto_wallets.asset IS 'What is accepted there, e.g. USDC.';
COMMENT ON COLUMN crypto_wallets.is_active IS 'false: no longer shown, but payments to it still count.';

CREATE TABLE IF NOT EXISTS billing_payments (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    method TEXT NOT NULL CHECK (method IN ('card', 'bank_transfer', 'crypto')),
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirmed', 'failed', 'refunded')),
    amount NUMERIC(14, 2) NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    provider TEXT NOT NULL CHECK (char_length(provider) BETWEEN 1 AND 63),
    provider_reference TEXT CHECK (char_length(provider_reference) BETWEEN 1 AND 255),
    wallet_id UUID,
    crypto_amount NUMERIC(38, 18) CHECK (crypto_amount > 0),
    transaction_hash TEXT CHECK (char_length(transaction_hash) BETWEEN 1 AND 128),
    confirmed_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (provider_reference, provider),
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES billing_invoices (tenant_id, id),
    FOREIGN KEY (tenant_id, wallet_id) REFERENCES crypto_wallets (tenant_id, id),
    CONSTRAINT billing_payments_crypto_has_wallet CHECK ((method = 'crypto') = (wallet_id IS NOT NULL)),
    CONSTRAINT billing_payments_crypto_only
        CHECK (method = 'crypto' OR (crypto_amount IS NULL AND transaction_hash IS NULL)),
    CONSTRAINT billing_payments_confirmed_has_date
        CHECK (status NOT IN ('confirmed', 'refunded') OR confirmed_at IS NOT NULL)
);

CREATE INDEX IF NOT EXISTS billing_payments_invoice_id ON billing_payments (tenant_id, invoice_id);
CREATE UNIQUE INDEX IF NOT EXISTS billing_payments_one_transaction
    ON billing_payments (wallet_id, transaction_hash) WHERE transaction_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS billing_payments_wallet_id
    ON billing_payments (tenant_id, wallet_id) WHERE wallet_id IS NOT NULL;

COMMENT ON TABLE billing_payments IS 'Purser: payments of invoices, tried and done. An invoice may take several.';
COMMENT ON COLUMN billing_payments.tenant_id IS 'Quartermaster''s tenants.id; no foreign key across services.';
COMMENT ON COLUMN billing_payments.amount IS 'Counted towards the invoice, in currency.';
COMMENT ON COLUMN billing_payments.currency IS 'ISO 4217 code, the invoice''s.';
COMMENT ON COLUMN billing_payments.provider IS 'Who processes it, e.g. stripe or mollie.';
COMMENT ON COLUMN billing_payments.provider_reference IS
    'The provider''s id of it. Unique, so that a notice delivered twice counts once. Never card data.';
COMMENT ON COLUMN billing_payments.crypto_amount IS 'Received, in the wallet''s asset: 18 decimals hold a wei.';
COMMENT ON COLUMN billing_payments.transaction_hash IS 'The chain''s public id of the transfer, counted once a wallet.';

-- updated_at follows every change of the row; an UPDATE that changes nothing leaves it.

CREATE OR REPLACE TRIGGER clusters_set_updated_at BEFORE UPDATE ON clusters
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER services_set_updated_at BEFORE UPDATE ON services
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER tenants_set_updated_at BEFORE UPDATE ON tenants
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER tenant_cluster_access_set_updated_at BEFORE UPDATE ON tenant_cluster_access
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER users_set_updated_at BEFORE UPDATE ON users
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER streams_set_updated_at BEFORE UPDATE ON streams
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER recordings_set_updated_at BEFORE UPDATE ON recordings
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER clips_set_updated_at BEFORE UPDATE ON clips
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER stream_analytics_set_updated_at BEFORE UPDATE ON stream_analytics
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER billing_tiers_set_updated_at BEFORE UPDATE ON billing_tiers
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER tenant_subscriptions_set_updated_at BEFORE UPDATE ON tenant_subscriptions
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER usage_records_set_updated_at BEFORE UPDATE ON usage_records
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER billing_invoices_set_updated_at BEFORE UPDATE ON billing_invoices
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER invoice_drafts_set_updated_at BEFORE UPDATE ON invoice_drafts
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER crypto_wallets_set_updated_at BEFORE UPDATE ON crypto_wallets
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE OR REPLACE TRIGGER billing_payments_set_updated_at BEFORE UPDATE ON billing_payments
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
