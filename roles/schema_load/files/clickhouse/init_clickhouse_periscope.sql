-- FrameWorks, time-series analytics (Periscope). ClickHouse 25.3 or later, where the JSON type is generally available.
--
-- Names carry no database: the connection's own database gets the tables.
-- Every statement can run again, so a script that stopped half-way is simply run again.
-- A stream is identified by internal_name, the name it has on the media nodes.
-- Partitions are a month of one tenant, so that a tenant can be dropped or moved whole. An INSERT block that touches more
-- than max_partitions_per_insert_block (100) of them is refused: writers that mix tenants set it higher in their profile.
-- Codecs: a timestamp shrinks about tenfold as Delta + ZSTD, ZSTD(1) halves numbers and text against the default LZ4, and
-- random UUIDs do not shrink at all. Gorilla was measured and did not pay for these values.

CREATE TABLE IF NOT EXISTS viewer_metrics
(
    timestamp DateTime COMMENT 'When the sample was taken' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    internal_name String COMMENT 'Stream' CODEC(ZSTD(1)),
    viewer_count UInt32 COMMENT 'All viewers of the stream on this node at this moment' CODEC(ZSTD(1)),
    connection_type LowCardinality(String) COMMENT 'Protocol of the viewer that the sample describes: hls, webrtc, ...',
    node_id LowCardinality(String) COMMENT 'Media node that serves the viewers',
    country_code FixedString(2) COMMENT 'ISO 3166-1 alpha-2, two zero bytes where unknown' CODEC(ZSTD(1)),
    city LowCardinality(String) COMMENT 'Empty where unknown',
    latitude Float64 COMMENT 'Degrees north' CODEC(ZSTD(1)),
    longitude Float64 COMMENT 'Degrees east' CODEC(ZSTD(1)),
    connection_quality Float32 COMMENT '0 (unusable) to 1 (perfect)' CODEC(ZSTD(1)),
    buffer_health Float32 COMMENT '0 (empty) to 1 (full)' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, internal_name, timestamp)
TTL timestamp + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Samples of a stream''s viewers on a node. Kept 90 days; viewer_metrics_5m keeps the rollup longer.';

-- Addresses are personal data: without ttl_only_drop_parts, rows go when they are due and not up to a month later, with their part.
CREATE TABLE IF NOT EXISTS connection_events
(
    event_id UUID COMMENT 'Chosen by the producer; a redelivered event has the same one' CODEC(NONE),
    timestamp DateTime COMMENT 'When it happened' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    internal_name String COMMENT 'Stream' CODEC(ZSTD(1)),
    user_id String COMMENT 'Signed-in viewer, empty for the others' CODEC(ZSTD(1)),
    session_id String COMMENT 'The viewer''s connection: the same in its connect and its disconnect' CODEC(ZSTD(1)),
    connection_addr String COMMENT 'Viewer''s IP address: personal data' CODEC(ZSTD(1)),
    user_agent String CODEC(ZSTD(1)),
    connector LowCardinality(String) COMMENT 'Protocol: hls, webrtc, rtmp, ...',
    node_id LowCardinality(String) COMMENT 'Media node connected to',
    country_code FixedString(2) COMMENT 'ISO 3166-1 alpha-2, two zero bytes where unknown' CODEC(ZSTD(1)),
    city LowCardinality(String) COMMENT 'Empty where unknown',
    latitude Float64 COMMENT 'Degrees north' CODEC(ZSTD(1)),
    longitude Float64 COMMENT 'Degrees east' CODEC(ZSTD(1)),
    event_type LowCardinality(String) COMMENT 'connect or disconnect',
    session_duration UInt32 COMMENT 'Seconds, 0 until the disconnect' CODEC(ZSTD(1)),
    bytes_transferred UInt64 COMMENT 'Bytes in both directions, 0 until the disconnect' CODEC(ZSTD(1)),
    INDEX session_id_filter session_id TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, internal_name, timestamp)
TTL timestamp + INTERVAL 90 DAY
COMMENT 'A viewer came or went. Kept 90 days.';

CREATE TABLE IF NOT EXISTS node_metrics
(
    timestamp DateTime COMMENT 'When the sample was taken' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that the node works for',
    node_id LowCardinality(String) COMMENT 'Media node',
    cpu_usage Float32 COMMENT 'Percent of all cores' CODEC(ZSTD(1)),
    memory_usage Float32 COMMENT 'Percent of the memory' CODEC(ZSTD(1)),
    disk_usage Float32 COMMENT 'Percent of the disk' CODEC(ZSTD(1)),
    bandwidth_in UInt64 COMMENT 'Bytes received since the node started' CODEC(Delta, ZSTD(1)),
    bandwidth_out UInt64 COMMENT 'Bytes sent since the node started' CODEC(Delta, ZSTD(1)),
    download_speed UInt64 COMMENT 'Bytes per second, incoming' CODEC(ZSTD(1)),
    upload_speed UInt64 COMMENT 'Bytes per second, outgoing' CODEC(ZSTD(1)),
    connections UInt32 COMMENT 'Open connections' CODEC(ZSTD(1)),
    stream_count UInt32 COMMENT 'Streams on the node' CODEC(ZSTD(1)),
    health_score Float32 COMMENT '0 (failed) to 1 (well)' CODEC(ZSTD(1)),
    is_healthy Bool COMMENT 'Whether the node may be given viewers' CODEC(ZSTD(1)),
    latitude Float64 COMMENT 'Degrees north' CODEC(ZSTD(1)),
    longitude Float64 COMMENT 'Degrees east' CODEC(ZSTD(1)),
    tags Array(String) COMMENT 'Labels given by the operator' CODEC(ZSTD(1)),
    metadata JSON COMMENT 'What the node reports besides' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, node_id, timestamp)
TTL timestamp + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'State of the media nodes. Kept 30 days.';

CREATE TABLE IF NOT EXISTS routing_events
(
    timestamp DateTime COMMENT 'When the node was chosen' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    stream_name String COMMENT 'Stream as the viewer asked for it' CODEC(ZSTD(1)),
    selected_node LowCardinality(String) COMMENT 'Node the viewer was sent to, empty where none was found',
    status LowCardinality(String) COMMENT 'success, failed or redirected',
    details String COMMENT 'Why, in words' CODEC(ZSTD(1)),
    score Float64 COMMENT 'The chosen node''s score: higher is better' CODEC(ZSTD(1)),
    client_ip String COMMENT 'Viewer''s IP address: personal data' CODEC(ZSTD(1)),
    client_country FixedString(2) COMMENT 'ISO 3166-1 alpha-2, two zero bytes where unknown' CODEC(ZSTD(1)),
    client_region LowCardinality(String) COMMENT 'Empty where unknown',
    client_city LowCardinality(String) COMMENT 'Empty where unknown',
    client_latitude Float64 COMMENT 'Degrees north' CODEC(ZSTD(1)),
    client_longitude Float64 COMMENT 'Degrees east' CODEC(ZSTD(1)),
    node_scores String COMMENT 'Every candidate''s score, as JSON text' CODEC(ZSTD(1)),
    routing_metadata String COMMENT 'What the balancer records besides, as JSON text' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, stream_name, timestamp)
TTL timestamp + INTERVAL 30 DAY
COMMENT 'Which node the balancer chose for a viewer, and why. Kept 30 days.';

CREATE TABLE IF NOT EXISTS stream_health_metrics
(
    timestamp DateTime COMMENT 'When the sample was taken' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    internal_name String COMMENT 'Stream' CODEC(ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Media node that takes the stream in',
    health_score Float32 COMMENT '0 (failed) to 1 (well)' CODEC(ZSTD(1)),
    bitrate UInt32 COMMENT 'Kilobits per second, all tracks' CODEC(ZSTD(1)),
    video_codec LowCardinality(String) COMMENT 'Empty for a stream without video',
    width UInt16 COMMENT 'Pixels' CODEC(ZSTD(1)),
    height UInt16 COMMENT 'Pixels' CODEC(ZSTD(1)),
    fps Float32 COMMENT 'Frames per second' CODEC(ZSTD(1)),
    keyframe_interval UInt32 COMMENT 'Milliseconds between key frames' CODEC(ZSTD(1)),
    dropped_frames UInt64 COMMENT 'Frames dropped since the stream started' CODEC(Delta, ZSTD(1)),
    audio_codec LowCardinality(String) COMMENT 'Empty for a stream without sound',
    audio_channels UInt8 CODEC(ZSTD(1)),
    audio_sample_rate UInt32 COMMENT 'Hertz' CODEC(ZSTD(1)),
    audio_bitrate UInt32 COMMENT 'Kilobits per second' CODEC(ZSTD(1)),
    buffer_state LowCardinality(String) COMMENT 'FULL, DRY, RECOVER or EMPTY',
    buffer_size UInt32 COMMENT 'Milliseconds held' CODEC(ZSTD(1)),
    buffer_health Float32 COMMENT '0 (empty) to 1 (full)' CODEC(ZSTD(1)),
    packets_sent UInt64 COMMENT 'Since the stream started' CODEC(Delta, ZSTD(1)),
    packets_lost UInt64 COMMENT 'Since the stream started' CODEC(Delta, ZSTD(1)),
    packets_retransmitted UInt64 COMMENT 'Since the stream started' CODEC(Delta, ZSTD(1)),
    round_trip_time Float32 COMMENT 'Milliseconds' CODEC(ZSTD(1)),
    jitter Float32 COMMENT 'Milliseconds' CODEC(ZSTD(1)),
    track_metadata JSON COMMENT 'Every track as the node reports it' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, internal_name, timestamp)
TTL timestamp + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Quality of what a stream sends in. Kept 30 days.';

CREATE TABLE IF NOT EXISTS stream_events
(
    event_id UUID COMMENT 'Chosen by the producer; a redelivered event has the same one' CODEC(NONE),
    timestamp DateTime COMMENT 'When it happened' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    internal_name String COMMENT 'Stream' CODEC(ZSTD(1)),
    event_type LowCardinality(String) COMMENT 'lifecycle, ingest, buffer, push, recording, ...',
    status LowCardinality(String) COMMENT 'What became of it: live, offline, started, failed, ...',
    node_id LowCardinality(String) COMMENT 'Media node that reports it',
    ingest_protocol LowCardinality(String) COMMENT 'Of ingest events: rtmp, srt, whip, ...',
    buffer_state LowCardinality(String) COMMENT 'Of buffer events: FULL, DRY, RECOVER or EMPTY',
    push_target String COMMENT 'Of push events: host and application, never the stream key behind them' CODEC(ZSTD(1)),
    recording_id String COMMENT 'Of recording events: recordings.id' CODEC(ZSTD(1)),
    file_size UInt64 COMMENT 'Of recording events: bytes written' CODEC(ZSTD(1)),
    error_message String COMMENT 'Of failures' CODEC(ZSTD(1)),
    event_data JSON COMMENT 'The event as received, without secrets' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, internal_name, timestamp)
TTL timestamp + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'What happened to a stream. Fields of other event types are empty. Kept 90 days.';

CREATE TABLE IF NOT EXISTS track_list_events
(
    timestamp DateTime COMMENT 'When the list changed' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    internal_name String COMMENT 'Stream' CODEC(ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Media node that reports it',
    track_count UInt16 COMMENT 'Tracks in the list' CODEC(ZSTD(1)),
    track_list String COMMENT 'The whole list, as JSON text' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, internal_name, timestamp)
TTL timestamp + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Snapshots of a stream''s tracks. Kept 90 days.';

CREATE TABLE IF NOT EXISTS usage_records
(
    timestamp DateTime COMMENT 'End of the measured interval' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that pays',
    cluster_id String COMMENT 'Cluster where it was used: clusters.id' CODEC(ZSTD(1)),
    usage_type LowCardinality(String) COMMENT 'What was used: egress_gb, stream_hours, storage_gb, ...',
    usage_value Float64 COMMENT 'How much, in the unit of usage_type; sums up over a month' CODEC(ZSTD(1)),
    billing_month Date COMMENT 'First day of the month it is billed in' CODEC(Delta, ZSTD(1)),
    usage_details String COMMENT 'How it was measured, as JSON text' CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY (toYYYYMM(timestamp), tenant_id)
ORDER BY (tenant_id, cluster_id, usage_type, timestamp)
TTL timestamp + INTERVAL 2 YEAR
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Measured usage; its monthly sums are usage_records in the control plane. Kept 2 years.';

-- Viewers in steps of 5 minutes. Rows of one step arrive in many inserts, so the columns hold states that merge:
-- read them with avgMerge(), uniqMerge(), max() and sum() under GROUP BY, never as they are.
CREATE TABLE IF NOT EXISTS viewer_metrics_5m
(
    window_start DateTime COMMENT 'Start of the 5 minutes' CODEC(Delta, ZSTD(1)),
    tenant_id UUID COMMENT 'Tenant that owns the stream',
    internal_name String COMMENT 'Stream' CODEC(ZSTD(1)),
    node_id LowCardinality(String) COMMENT 'Media node: a stream''s viewers are the sum over its nodes',
    sample_count SimpleAggregateFunction(sum, UInt64) COMMENT 'Rows of viewer_metrics; read with sum()' CODEC(ZSTD(1)),
    avg_viewers AggregateFunction(avg, UInt32) COMMENT 'Read with avgMerge()' CODEC(ZSTD(1)),
    peak_viewers SimpleAggregateFunction(max, UInt32) COMMENT 'Read with max()' CODEC(ZSTD(1)),
    unique_countries AggregateFunction(uniq, FixedString(2)) COMMENT 'Known ones; read with uniqMerge()' CODEC(ZSTD(1)),
    unique_cities AggregateFunction(uniq, String) COMMENT 'Known ones; read with uniqMerge()' CODEC(ZSTD(1)),
    avg_connection_quality AggregateFunction(avg, Float32) COMMENT 'Read with avgMerge()' CODEC(ZSTD(1)),
    avg_buffer_health AggregateFunction(avg, Float32) COMMENT 'Read with avgMerge()' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY (toYYYYMM(window_start), tenant_id)
ORDER BY (tenant_id, internal_name, window_start, node_id)
TTL window_start + INTERVAL 2 YEAR
SETTINGS ttl_only_drop_parts = 1
COMMENT 'Viewers in steps of 5 minutes, written by viewer_metrics_5m_mv. Kept 2 years.';

CREATE MATERIALIZED VIEW IF NOT EXISTS viewer_metrics_5m_mv TO viewer_metrics_5m
AS SELECT
    toStartOfFiveMinutes(timestamp) AS window_start,
    tenant_id,
    internal_name,
    node_id,
    count() AS sample_count,
    avgState(viewer_count) AS avg_viewers,
    max(viewer_count) AS peak_viewers,
    uniqStateIf(country_code, country_code != '') AS unique_countries,
    uniqStateIf(city, city != '') AS unique_cities,
    avgState(connection_quality) AS avg_connection_quality,
    avgState(buffer_health) AS avg_buffer_health
FROM viewer_metrics
GROUP BY window_start, tenant_id, internal_name, node_id
COMMENT 'Rolls viewer_metrics up into viewer_metrics_5m as it is inserted.';
