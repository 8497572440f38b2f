-- projection: model_versions
-- One row per change of a model version; the highest entity_version of an id is its state.
-- event: weir.models.version.changed
-- version: 1
-- grain: event_id
SELECT
    event_id,
    make_timestamp(occurred_at_us) AS occurred_at,
    entity_version,
    actor,
    deleted,
    model_version_id,
    name,
    status,
    base_model,
    run_id,
    dataset_id,
    files,
    metrics,
    metadata,
    reason,
    log_topic,
    log_partition,
    log_offset,
    appended_at,
    ingested_at
FROM events
