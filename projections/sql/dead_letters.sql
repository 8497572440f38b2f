-- projection: dead_letters
-- One row per record that a named consumer could not take, with its bytes and the reason.
-- event: weir.dead-letter
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    consumer,
    source_topic,
    source_partition,
    source_offset,
    error_code,
    error,
    record_key,
    record_value,
    record_headers,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
