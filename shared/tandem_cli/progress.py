"""Progress of long work on the terminal: a bar for the step under way, a line for each that is done."""

from __future__ import annotations

from typing import Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tandem_cli.console import out
from tandem_trainer.progress import Progress as Steps


class ConsoleProgress(Steps):
    """Draws steps with rich; where the output is no terminal, only the lines of finished steps appear."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=out,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        self._remove()
        self._task = self._bar.add_task(name, total=None, text="")

    def end(self, name: str, seconds: float) -> None:
        self._remove()
        out.print(f"  [green]done[/]  {name} [dim]{seconds:.1f} s[/]", highlight=False)

    def advance(self, done: int, total: int, text: str = "") -> None:
        if self._task is None:
            self._task = self._bar.add_task(text, total=total, text="")
        self._bar.update(self._task, completed=done, total=total, text=text)

    def _remove(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
