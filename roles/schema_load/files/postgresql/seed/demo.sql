-- FrameWorks, demo data for development. Never load it where anyone else can reach the database: its secrets are
-- published here, as demo values. Rows keep their ids on every machine; those that exist already stay as they are.
--   sign in     demo@frameworks.dev, password demo-not-a-secret
--   publish     stream key sk_demo_not_a_secret

INSERT INTO clusters (id, name, kind, is_default)
VALUES ('central-primary', 'Central primary', 'central', NOT EXISTS (SELECT FROM clusters WHERE is_default))
ON CONFLICT (id) DO NOTHING;

INSERT INTO services (id, name, description, provider, protocol, health_check_path)
VALUES ('api_tenants', 'Tenants API', 'Tenants, their clusters and their access', 'quartermaster', 'http', '/health')
ON CONFLICT (id) DO NOTHING;

INSERT INTO tenants (id, name, subdomain, primary_cluster_id, settings)
VALUES ('5eed0000-0000-4000-8000-000000000001', 'Demo', 'demo', 'central-primary', '{"demo": true}')
ON CONFLICT (id) DO NOTHING;

INSERT INTO tenant_cluster_access (tenant_id, cluster_id)
VALUES ('5eed0000-0000-4000-8000-000000000001', 'central-primary')
ON CONFLICT (tenant_id, cluster_id) DO NOTHING;

-- The hash is bcrypt's of the demo password above.
INSERT INTO users (id, tenant_id, email, password_hash, display_name, role, status, email_verified_at)
VALUES (
    '5eed0000-0000-4000-8000-000000000002', '5eed0000-0000-4000-8000-000000000001', 'demo@frameworks.dev',
    '$2a$12$59jpJHXHDzBbxjgwKrdmx.PUFNcARun1DvLtxlZjSFaAwlDZmf2ku', 'Demo', 'owner', 'active', now()
)
ON CONFLICT (id) DO NOTHING;

SELECT demo_stream.stream_id
FROM users
CROSS JOIN LATERAL create_user_stream(
    users.tenant_id, users.id, 'Demo stream', '5eed0000-0000-4000-8000-000000000003', 'sk_demo_not_a_secret'
) AS demo_stream
WHERE users.id = '5eed0000-0000-4000-8000-000000000002'
    AND NOT EXISTS (SELECT FROM streams WHERE id = '5eed0000-0000-4000-8000-000000000003');
