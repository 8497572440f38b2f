-- projection: costs
-- The ledger, one row per line: admitted, settled, wasted, corrected, unpriced, abandoned.
-- event: weir.llm.cost.entered
-- version: 4
-- grain: event_id
-- audit settled_once: SELECT request_id FROM costs WHERE entry = 'settled' GROUP BY request_id HAVING count(*) > 1
-- audit unpriced_has_no_cost: SELECT event_id FROM costs WHERE entry = 'unpriced' AND cost_nano_usd IS NOT NULL
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
    entry,
    input_tokens,
    cached_input_tokens,
    output_tokens,
    input_price,
    cached_input_price,
    output_price,
    cost_nano_usd,
    price_version,
    basis,
    organization,
    surface,
    cache_write_input_tokens,
    cache_write_input_price,
    units,
    cache_saved_nano_usd,
    budgets,
    price_list,
    make_timestamp(priced_at_us) AS priced_at,
    corrects,
    first_price,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
