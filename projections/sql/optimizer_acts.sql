-- projection: optimizer_acts
-- One row per step of an automatic change of routing (RT-09); the last one of an action_id is its state.
-- event: weir.optimizer.acted
-- version: 1
-- grain: event_id
-- audit one_step_per_number: SELECT target, number FROM optimizer_acts WHERE number > 0 GROUP BY ALL HAVING count(DISTINCT event_id) > 1
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    action_id,
    rule,
    target,
    reason,
    metric,
    before,
    after,
    state,
    make_timestamp(expires_at_us) AS expires_at,
    alternative,
    factor,
    number,
    step,
    make_timestamp(started_at_us) AS started_at,
    make_timestamp(stepped_at_us) AS stepped_at,
    window_s,
    verdict,
    share_before,
    share_after,
    evidence,
    actor,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
