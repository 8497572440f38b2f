-- projection: alerts
-- One row per change of an alert; the last one of an alert_id is its state.
-- event: weir.alerts.alert.changed
-- version: 2
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
    make_timestamp(opened_at_us) AS opened_at,
    make_timestamp(acknowledged_at_us) AS acknowledged_at,
    acknowledged_by,
    make_timestamp(resolved_at_us) AS resolved_at,
    resolved_by,
    rule_id,
    channels,
    details,
    number,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
