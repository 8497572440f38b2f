-- projection: anomalies
-- One row per change of an anomaly (ANA-05); the last one of an anomaly_id is its state.
-- event: weir.anomalies.anomaly.changed
-- version: 1
-- grain: event_id
-- audit one_change_per_number: SELECT anomaly_id, number FROM anomalies WHERE number > 0 GROUP BY ALL HAVING count(DISTINCT event_id) > 1
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    anomaly_id,
    metric,
    dimension,
    kind,
    severity,
    status,
    expected,
    actual,
    score,
    make_timestamp(started_at_us) AS started_at,
    make_timestamp(ended_at_us) AS ended_at,
    explanation,
    make_timestamp(found_at_us) AS found_at,
    number,
    drivers,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
