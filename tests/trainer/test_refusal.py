"""What teaches nothing is refused: by the gate, or by the data before anything is trained."""

from pathlib import Path

import pytest

from infra.kafka import KafkaLog
from tests.trainer import support
from tests.trainer.running import ended, install, settings_for, trainer, watching


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.req("FT-12", "EVAL-02", "REG-01")
async def test_corrections_that_teach_nothing_are_refused(
    fresh_log: KafkaLog, tuner: Path, tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, tuner)
    install(tiny_base, settings)
    async with watching(fresh_log) as seen, trainer(settings, fresh_log):
        await support.record(fresh_log, support.corrections(3, 40, shuffled=True), "boris")
        run_id = await support.fire(fresh_log, 40)
        run = await ended(seen.journal, run_id)
        assert run.status == "refused"
        version = seen.versions.get(run.output("register", "model_version_id"))
        assert version is not None
        assert version.status == "archived"
        assert "not shown to be better" in (version.reason or "")
