-- projection: alert_deliveries
-- One row per attempt to tell a channel of a change of an alert (OPS-01).
-- event: weir.alerts.delivered
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    notification_id,
    alert_id,
    alert_event_id,
    status,
    channel,
    attempt,
    outcome,
    error,
    make_timestamp(next_attempt_at_us) AS next_attempt_at,
    make_timestamp(first_attempt_at_us) AS first_attempt_at,
    duration_us,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
