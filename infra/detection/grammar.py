r"""Makes prompts from the grammars in `corpus/`.

A grammar is sections of lines. ``[name]`` holds the alternatives of a symbol, ``[@task grade]``
prompts of a task and a complexity (any other word there is a language, graded simple). In a line
``{name}`` stands for a symbol and ``{a|b|}`` for one of the alternatives; ``\n`` is a new line,
``«»`` are braces, ``{anything}`` is any prompt that pastes nothing. A line that starts with ``#``
is a comment.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

from gateway.detection.detector import COMPLEXITIES

CORPUS = Path(__file__).with_name("corpus")
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_DEPTH_MAX = 200
ANYTHING = "anything"
_PASTES = re.compile(
    r"pasted|prose|ask|email|table|report|code|story|chat|notes|log|legal|anything"
)


@dataclass(frozen=True)
class Prompt:
    """A labelled prompt."""

    text: str
    task: str
    complexity: str
    system: str = ""


@dataclass
class Grammar:
    """Symbols, and the patterns of each task with their complexity."""

    symbols: dict[str, list[str]] = field(default_factory=dict)
    patterns: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def read(self, path: Path) -> None:
        """Add a file's sections."""
        task, grade, lines = "", "simple", self.symbols.setdefault("", [])
        for line in path.read_text("utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if line.startswith("[@"):
                task, _, kind = line[2:-1].partition(" ")
                grade = kind if kind in COMPLEXITIES else "simple"
            elif re.fullmatch(r"\[\w+\]", line):
                task, lines = "", self.symbols.setdefault(line[1:-1], [])
            elif task:
                self.patterns.setdefault(task, []).append((line, grade))
            else:
                lines.append(line)

    def expand(self, line: str, rng: random.Random) -> str:
        """Return a line with every choice made."""

        def choose(match: re.Match[str]) -> str:
            parts = match.group(1).split("|")
            if parts == [ANYTHING]:
                return self._anything(rng)
            if len(parts) == 1 and parts[0] in self.symbols:
                parts = self.symbols[parts[0]]
            chosen: str = rng.choice(parts)
            return chosen

        for _ in range(_DEPTH_MAX):
            line, changed = _INNERMOST.subn(choose, line)
            if not changed:
                return line.replace("\\n", "\n").replace("«", "{").replace("»", "}")
        raise ValueError(f"a symbol contains itself: {line[:80]}")

    def _anything(self, rng: random.Random) -> str:
        """Return a sentence or two that people might paste: what others ask is as good as any."""
        while True:
            line, _ = rng.choice(self.patterns[rng.choice(list(self.patterns))])
            if not _PASTES.search(line):
                return line.replace("\\n", " ")

    def prompt(self, task: str, rng: random.Random) -> Prompt:
        """Return a prompt of a task."""
        pattern, grade = rng.choice(self.patterns[task])
        return Prompt(self.expand(pattern, rng), task, grade)


def load() -> Grammar:
    """Read every grammar of the corpus."""
    grammar = Grammar()
    for path in sorted(CORPUS.glob("*.txt")):
        grammar.read(path)
    return grammar
