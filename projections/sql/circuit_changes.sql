-- projection: circuit_changes
-- One row per change of a target's circuit (RT-07); the last one of a target is its state.
-- event: weir.circuits.circuit.changed
-- version: 1
-- grain: event_id
-- audit one_change_per_number: SELECT target, number FROM circuit_changes GROUP BY ALL HAVING count(*) > 1
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    target,
    provider,
    model,
    state,
    number,
    make_timestamp(since_us) AS since,
    openings,
    make_timestamp(opened_at_us) AS opened_at,
    make_timestamp(next_probe_at_us) AS next_probe_at,
    failure_count,
    success_count,
    make_timestamp(last_failure_at_us) AS last_failure_at,
    reason,
    actor,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
