"""The `swwae` command."""
import typer

app = typer.Typer(name="swwae", add_completion=False, pretty_exceptions_enable=False)
