-- projection: responses
-- One row per ended request: its outcome, every upstream attempt, tokens and times.
-- event: weir.llm.response.completed
-- version: 3
-- grain: event_id
-- audit ended_once: SELECT request_id FROM responses GROUP BY request_id HAVING count(*) > 1
-- audit no_negative_tokens: SELECT event_id FROM responses WHERE least(input_tokens, output_tokens) < 0
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    request_id,
    key_id,
    team,
    project,
    user_id,
    cost_center,
    route,
    task_type,
    target,
    provider,
    model,
    deployment_id,
    outcome,
    status,
    error_code,
    attempts,
    input_tokens,
    cached_input_tokens,
    output_tokens,
    reasoning_tokens,
    usage_basis,
    finish_reason,
    stream,
    latency_us,
    first_token_us,
    cost_nano_usd,
    organization,
    surface,
    cache_write_input_tokens,
    cache,
    guardrails,
    units,
    trials,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
