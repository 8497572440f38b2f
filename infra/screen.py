"""What `weir up` shows in a terminal: steps with their time, one ready block, then notes."""

import os
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from infra.seeding import Seeded
from infra.settings import WeirSettings
from infra.state import InstallationState

_REQUEST = """\
curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


def _command() -> str:
    """How the operator calls `weir` from here: an environment of `make up` is on nobody's path."""
    own = Path(sys.prefix) / "bin" / "weir"
    found = shutil.which("weir")
    if not own.exists() or (found and Path(found).resolve() == own.resolve()):
        return "weir"
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


class TerminalScreen:
    """Prints the start step by step; quiet lines where the output is no terminal."""

    def __init__(self, console: Console, settings: WeirSettings) -> None:
        self._console = console
        self._settings = settings
        self._began_s = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_progress()

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _elapsed(self) -> str:
        return f"[dim]{time.monotonic() - self._began_s:6.1f} s[/dim]"

    def step(self, text: str) -> None:
        """A step of the start has begun."""
        self._end_progress()
        self._console.print(f"{self._elapsed()}  {text}")

    def progress(self, done: int, total: int) -> None:
        """How many files of the present step are there."""
        if not self._console.is_terminal:
            return
        if self._progress is None:
            columns = (TextColumn("          downloading"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.add_task("jars", total=total)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done)

    def ready(self, state: InstallationState, seeded: Seeded) -> None:
        """Print the one block that a new operator needs."""
        self._end_progress()
        key = seeded.admin_key or "$WEIR_KEY"
        lines = [
            "",
            f"[bold green]Weir is ready[/bold green] after {self._elapsed().strip()}",
            "",
            f"  OpenAI clients     base_url {state.public_url}/v1",
            f"  Anthropic clients  base_url {state.public_url}",
            f"  status             {state.public_url}/status  ({state.public_url}/openapi.json: the API)",
            *([f"  API in a browser   {state.public_url}/docs"] if self._settings.docs else []),
            f"  Kafka              {state.kafka}",
            f"  data               {self._settings.home}",
        ]
        if seeded.admin_key:
            lines.append(
                f"  admin key          [bold]{seeded.admin_key}[/bold]  (shown this once: keep it)"
            )
        if state.sandbox:
            lines += ["", *self._sandbox_warning()]
        for line in lines:
            self._console.print(line, soft_wrap=True)
        request = _REQUEST.format(url=state.public_url, key=key, model="auto")
        where = "" if seeded.admin_key else ", with your key in WEIR_KEY"
        self._console.print(f"\nA first request{where}:\n")
        self._console.print(request, soft_wrap=True, markup=False)
        weir = _command()
        self._console.print(
            f"\nCtrl-C stops everything in order; `{weir} status` shows the parts, `{weir} --help` the rest.\n",
            soft_wrap=True,
        )

    def _sandbox_warning(self) -> list[str]:
        if self._settings.sandbox == "on":
            return [
                "  [bold yellow]WEIR_SANDBOX=on: a sandbox answers with made-up text.[/bold yellow]"
            ]
        return [
            "  [bold yellow]NO PROVIDER KEY IS SET: a sandbox answers with made-up text.[/bold yellow]",
            "  Set OPENAI_API_KEY, ANTHROPIC_API_KEY or another vendor's (docs/providers.md) and start",
            "  again for real answers.",
        ]

    def note(self, text: str) -> None:
        """Something worth a line has happened."""
        self._end_progress()
        self._console.print(f"{self._elapsed()}  {escape(text)}", soft_wrap=True)
