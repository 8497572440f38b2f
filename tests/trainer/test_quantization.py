"""Quantization is asserted on the layers themselves, never believed from a flag."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the trainer's environment runs these: make test-trainer")

import torch

from trainer import tiny, tune
from trainer.config import Line, Notice, tuning_config


class Heard:
    """Keeps what a child would have said."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def say(self, line: Line) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.build_model(300).save_pretrained(folder)
    return folder


@pytest.mark.req("TRAIN-01")
@pytest.mark.skipif(torch.cuda.is_available(), reason="8-bit stays on with CUDA")
def test_8bit_turns_off_without_cuda_and_says_so(base: Path) -> None:
    heard = Heard()
    model = tune.load_base(str(base), tuning_config(), heard)  # type: ignore[arg-type]
    assert any(isinstance(line, Notice) and "8-bit is off" in line.message for line in heard.lines)
    with pytest.raises(RuntimeError, match="holds no Linear8bitLt"):
        tune.assert_quantized(model, "Linear8bitLt")


@pytest.mark.req("TRAIN-06")
def test_4bit_layers_are_really_there(base: Path) -> None:
    config = tuning_config({"use_4bit": True, "use_8bit": False})
    model = tune.load_base(str(base), config, Heard())  # type: ignore[arg-type]
    tune.assert_quantized(model, "Linear4bit")
    out = model(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert torch.isfinite(out.logits.float()).all()
