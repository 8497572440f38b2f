-- projection: alerts
-- One row per change of an alert; the last one of an alert_id is its state.
-- event: weir.alerts.alert.changed
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    alert_id,
    alert_type,
    severity,
    scope,
    status,
    message,
    value,
    threshold,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
