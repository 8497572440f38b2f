-- projection: training_steps
-- One row per ended step of a training run: a run can be explained from these alone.
-- event: weir.training.step.completed
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    run_id,
    step,
    status,
    output,
    metrics,
    reason,
    duration_us,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
