-- projection: requests
-- One row per admitted request: who asked what of whom, and how likely that choice was.
-- event: weir.llm.request.admitted
-- version: 2
-- grain: event_id
-- audit admitted_once: SELECT request_id FROM requests GROUP BY request_id HAVING count(*) > 1
-- audit propensity_is_a_probability: SELECT event_id FROM requests WHERE NOT propensity BETWEEN 0 AND 1
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    request_id,
    key_id,
    team,
    project,
    user_id,
    cost_center,
    session_id,
    tags,
    dialect,
    endpoint,
    model_requested,
    route,
    strategy,
    task_type,
    stream,
    target,
    provider,
    model,
    deployment_id,
    propensity,
    candidates,
    input_tokens_estimate,
    max_output_tokens,
    reserved_nano_usd,
    durability,
    worker,
    outbox_id,
    decision_us,
    organization,
    surface,
    reason,
    task_confidence,
    complexity,
    budgets,
    traceparent,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
