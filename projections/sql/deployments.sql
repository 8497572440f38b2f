-- projection: deployments
-- One row per change of a deployment; the highest entity_version of an id is its state.
-- event: weir.deployments.deployment.changed
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    entity_version,
    actor,
    deleted,
    deployment_id,
    model_version_id,
    model,
    provider,
    environment,
    state,
    percentage,
    baseline_deployment_id,
    reason,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
