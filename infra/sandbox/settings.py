"""Settings of the sandbox."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SandboxSettings:
    """Where it listens, where its books lie, and how it behaves at start."""

    host: str = "127.0.0.1"
    port: int = 8083
    books: Path | None = None
    """JSONL file of the books; None keeps them in memory alone."""
    behaviour: Path | None = None
    """TOML or JSON file with `rules` and further `models`."""
    seed: int = 0
    keys: frozenset[str] = frozenset()
    """Keys that are accepted; empty accepts every key that is presented."""
    body_bytes_max: int = 64 * 1024 * 1024
    files_bytes_max: int = 256 * 1024 * 1024
    """Most bytes of uploaded files held in memory."""
    tuning_s: float = 10.0
    """How long a fine-tuning job takes from creation to success."""
