-- projection: training_triggers
-- One row per crossing of a feedback threshold, or per run that a person asked for.
-- event: weir.training.trigger.fired
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    trigger_id,
    scope,
    reason,
    "count",
    threshold,
    total,
    make_timestamp(since_us) AS since,
    make_timestamp(until_us) AS until,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
