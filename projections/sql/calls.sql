-- projection: calls
-- One row per request: what was asked, how it ended, what it cost, what people said of it.
-- Facts arrive in any order and any of them may still be missing; a view over them needs no order.
-- from: requests, responses, costs, feedback
-- version: 3
-- grain: request_id
-- audit one_row_per_request: SELECT request_id FROM calls GROUP BY request_id HAVING count(*) > 1
-- audit nothing_lost: SELECT count(*) FROM calls HAVING count(*) < (SELECT count(DISTINCT request_id) FROM requests)
WITH corrected AS (
    SELECT DISTINCT corrects AS event_id FROM costs WHERE entry = 'corrected' AND corrects IS NOT NULL
),
paid AS (
    SELECT
        request_id,
        -- The reservation of an admission is no cost; null, never 0, while nothing is priced.
        sum(cost_nano_usd) FILTER (entry <> 'admitted') AS cost_nano_usd,
        sum(cache_saved_nano_usd) AS cache_saved_nano_usd,
        count(*) FILTER (entry <> 'admitted') AS cost_entries,
        -- A correction names the line that it prices: of two without a price the other one stays so.
        bool_or(entry = 'unpriced' AND corrected.event_id IS NULL) AS is_unpriced
    FROM costs LEFT JOIN corrected USING (event_id)
    GROUP BY request_id
),
judged AS (
    SELECT request_id, count(*) AS feedback_count, bool_or(has_correction) AS has_correction
    FROM feedback
    WHERE request_id IS NOT NULL
    GROUP BY request_id
)
SELECT
    request_id,
    asked.occurred_at AS started_at,
    ended.occurred_at AS ended_at,
    coalesce(asked.key_id, ended.key_id) AS key_id,
    coalesce(asked.organization, ended.organization) AS organization,
    coalesce(asked.team, ended.team) AS team,
    coalesce(asked.project, ended.project) AS project,
    coalesce(asked.user_id, ended.user_id) AS user_id,
    asked.session_id,
    coalesce(asked.surface, ended.surface) AS surface,
    asked.model_requested,
    coalesce(asked.route, ended.route) AS route,
    asked.strategy,
    coalesce(asked.task_type, ended.task_type) AS task_type,
    asked.target AS first_target,
    asked.propensity,
    asked.complexity,
    coalesce(ended.target, asked.target) AS target,
    coalesce(ended.provider, asked.provider) AS provider,
    coalesce(ended.model, asked.model) AS model,
    coalesce(ended.deployment_id, asked.deployment_id) AS deployment_id,
    coalesce(ended.stream, asked.stream) AS stream,
    ended.outcome,
    ended.status,
    ended.error_code,
    len(ended.attempts) AS attempt_count,
    ended.input_tokens,
    ended.cached_input_tokens,
    ended.output_tokens,
    ended.usage_basis,
    ended.finish_reason,
    ended.cache,
    ended.latency_us,
    ended.first_token_us,
    paid.cost_nano_usd,
    paid.cache_saved_nano_usd,
    coalesce(paid.cost_entries, 0) AS cost_entries,
    coalesce(paid.is_unpriced, false) AS is_unpriced,
    coalesce(judged.feedback_count, 0) AS feedback_count,
    coalesce(judged.has_correction, false) AS has_correction
FROM requests AS asked
FULL JOIN responses AS ended USING (request_id)
FULL JOIN paid USING (request_id)
FULL JOIN judged USING (request_id)
