"""What a run says: a bar on a terminal, lines that stand alone elsewhere."""

from io import StringIO

from rich.console import Console

from swwae_zoo.training.progress import Progress

PARTS = {"loss": 1.25, "nll": 0.75, "rec": 0.0625, "middle": 0.4375, "l1": 0.125}


def say_everything(terminal: bool, width: int = 80) -> str:
    text = StringIO()
    progress = Progress(Console(file=text, force_terminal=terminal, width=width, color_system=None, highlight=False))
    with progress.run("runs/mnist-1000/seed0-twin", steps=40):
        progress.tick(20)
        progress.step(20, PARTS, 1234.4)
        progress.evaluated(20, 12.5)
    progress.say("test error [of the last model] 9.00 % " + 80 * "-")
    return text.getvalue()


def test_lines_elsewhere() -> None:
    name, step, error, last = say_everything(terminal=False).splitlines()
    assert name == "runs/mnist-1000/seed0-twin: 40 steps"
    assert step.startswith("step 20/40  loss 1.25  nll 0.75  rec 0.0625  middle 0.438  l1 0.125  1,234 images/s  ")
    assert step.endswith(" s left") and error == "step 20/40  validation error 12.50 %"
    assert last.startswith("test error [of the last model] 9.00 % ---"), "markup was read, or a line broken"


def test_a_bar_on_a_terminal_of_80_columns() -> None:
    shown = say_everything(terminal=True)
    bar, parts, more = shown.rpartition("\r")[2].splitlines()[0], *shown.splitlines()[-3:-1]
    assert "20/40" in bar and bar.rstrip().endswith("left") and "mnist-1000/seed0-twin" in bar
    said = " ".join(f"{parts} {more}".split())
    assert "loss 1.25 nll 0.75 rec 0.0625 middle 0.438 l1 0.125 1,234 images/s val error 12.50 %" in said
    assert max(map(len, (bar, parts, more))) <= 90, "wider than the terminal and its control sequences"
