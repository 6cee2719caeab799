"""The `swwae` command, and what it prints for an error: one line, with an exit code."""

import errno
import os
import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import swwae_zoo
from swwae_zoo.utils.text import printable

from . import bench, export, predict, pull, push, recipes, reconstruct, report, reproduce, show, train, tune
from . import eval as eval_command
from . import list as list_command

# Read when torch is first imported, in a command's body. Waiting threads sleep instead of spinning: next to another
# program on the same cores a step takes a quarter of the time, and no longer without one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


LONGEST = 2000  # characters of an error's line


def explain(error: BaseException) -> str | None:
    """One line that explains `error` to the user, or None if it is a bug of ours."""
    usage = getattr(error, "format_message", None)  # a flag or command that typer could not parse
    if usage is not None:
        return usage()
    if isinstance(error, OSError) and error.errno == errno.ENOSPC or "No space left on device" in str(error):
        where = getattr(error, "filename", None)
        return f"disk full: could not write {where or 'the output'}: free some space or choose another --out"
    if type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx", "httpx2", "httpcore", "h11"):
        # timm asked the Hub itself: a model named hf-hub:ORG/NAME
        from swwae_zoo.hub.errors import explained, place_of

        return str(explained(error, *place_of(error)))
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (ValueError, OSError, ArithmeticError)):
        line = str(error)
        if hasattr(error, "column"):  # a NotationError: below its line the notation is drawn, with a caret
            line = line.partition("\n")[0]
        return line or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return "out of GPU memory: lower --batch-size and --labeled-batch, or try --amp bf16"
    return None


def say(line: str) -> None:
    color = False if os.environ.get("NO_COLOR") else None
    typer.secho(printable(line, LONGEST), fg=typer.colors.RED, err=True, color=color)


class Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C ends with one line and exit code 130, or with those of a run that has saved its state."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # a further Ctrl-C would end in a traceback of what closes down
            say(str(stop) or "interrupted")
            raise typer.Exit(getattr(stop, "exit_code", 128 + signal.SIGINT)) from None

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Runs a command; bad input ends with one line on stderr and exit code 2."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            code = super().main(*args, standalone_mode=False, **kwargs) or 0
        except KeyboardInterrupt as stop:  # between the signal and what `invoke` does about it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            say(str(stop) or "interrupted")
            code = getattr(stop, "exit_code", 128 + signal.SIGINT)
        except Exception as error:
            line = explain(error)
            if line is None or os.environ.get("SWWAE_DEBUG"):
                raise
            if line:  # empty after the help that a bare `swwae` prints
                say(f"error: {line}")
            code = 2
        raise SystemExit(code)


app = typer.Typer(
    name="swwae",
    help="Stacked What-Where Auto-Encoders: train on few labels and many images.",
    epilog="SWWAE_DATA names the folder of data sets; SWWAE_DEBUG=1 shows tracebacks.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(wanted: bool) -> None:
    if wanted:
        from swwae_zoo.kernels.library import describe

        typer.echo(f"swwae_zoo {swwae_zoo.__version__} ({describe()})")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("tune")(tune.tune)
app.command("eval")(eval_command.evaluate)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("list")(list_command.list_models)
app.command("show")(show.show)
app.command("recipes")(recipes.recipes)
app.command("bench")(bench.bench)
app.command("reproduce")(reproduce.reproduce)
app.command("push")(push.push)
app.command("pull")(pull.pull)
