-- projection: feedback
-- One row per piece of feedback. Its texts stay sealed; GET /api/v1/feedback opens them.
-- event: weir.llm.feedback.recorded
-- version: 2
-- grain: event_id
-- audit recorded_once: SELECT feedback_id FROM feedback GROUP BY feedback_id HAVING count(*) > 1
-- audit score_in_range: SELECT event_id FROM feedback WHERE NOT satisfaction_score BETWEEN -1 AND 1
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    feedback_id,
    request_id,
    key_id,
    user_id,
    feedback_type,
    satisfaction_score,
    has_correction,
    user_segment,
    session_id,
    client_application,
    request_parameters,
    prompt_tokens,
    response_tokens,
    processing_time_ms,
    model_id,
    deployment_id,
    task_type,
    data_key_id,
    nonce,
    ciphertext,
    model_known,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
