"""What comes from outside: sizes known before they are fetched, tokens that stay secret, text that stays text."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import timm
from hub_server.client import Client
from hub_server.fixtures import TOKEN, OnePath, make_run
from typer.testing import CliRunner

import swwae_zoo
from swwae_zoo.analysis.load import load
from swwae_zoo.cli.main import app, explain
from swwae_zoo.hub.errors import HubError, check_token
from swwae_zoo.utils.json_files import write_json
from swwae_zoo.utils.text import markdown, markup, printable

HOSTILE = "a\x1b]0;title\x07\x1b[2J\nb\u202ec"


# --- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["README.md", "reconstructions.png", "config.json"])
def test_oversized_files_are_not_fetched(path: OnePath, tmp_path: Path, file: str) -> None:
    name = f"ann/big.{file[:3]}"
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", name)
    path.hub.repos[name].put(**{file: b" " * 20_000_000})
    path.hub.requests.clear()
    refused = path.client.swwae("pull", name, "--out", tmp_path / "out").refusal
    assert f"{file} has 20,000,000 bytes, expected at most" in refused and not (tmp_path / "out").exists()
    assert not any("/resolve/" in request and file in request or "storage" in request for request in path.hub.requests)
    home = path.client.home / "hub" / f"models--{name.replace('/', '--')}"
    assert not [each for each in home.rglob("*") if each.is_file() and each.stat().st_size > 10_000_000]


def test_weights_without_their_card_still_load(path: OnePath, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    path.push(tmp_path / "run", "ann/card")
    path.hub.repos["ann/card"].put(**{"README.md": b" " * 2_000_000})
    assert path.client.load("hf-hub:ann/card").get("weights")


# --- tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token, told",
    [
        ("s3cr3t\n", "a line break in it"),
        ("s3cr3t\rx", "a line break in it"),
        ("s3 cr3t", "white space in it"),
        ("s3cr3t\x07", "a character in it that no token has"),
        ("s3cr3té", "a character in it that no token has"),
        ("", "0 characters"),
        ("s3cr3t" * 1000, "6,000 characters"),
    ],
)
def test_a_token_is_checked_at_the_door(token: str, told: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    for call in (
        lambda: swwae_zoo.pull("ann/net", token=token),
        lambda: swwae_zoo.push(tmp_path / "run", "ann/net", token=token),
        lambda: check_token(token),
    ):
        with pytest.raises(HubError) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert told in str(caught.value) and "token" in str(caught.value) and "network" not in str(caught.value)
        assert "\n" not in str(caught.value) and "s3cr3t" not in shown.replace(repr(token), "")


def test_a_stored_token_is_checked_too(path: OnePath, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (("pull", "ann/net"), ("show", "hf-hub:ann/net")):
        refused = path.client.swwae(*command, token="s3cr3t\x07x").refusal
        assert "the stored token (or HF_TOKEN): got one with a character in it" in refused and "s3cr3t" not in refused


CHAIN = """
import traceback, swwae_zoo
try:
    swwae_zoo.pull("ann/absent", token="hf_wrong")
except ValueError as error:
    answer = "".join(traceback.format_exception(error))
"""


def test_no_chain_from_an_error_that_holds_the_token(path: OnePath) -> None:
    shown = path.client.tell(do="run", code=CHAIN, token=TOKEN)
    assert "HubError" in shown or "Missing" in shown
    assert "hf_wrong" not in shown.replace('token="hf_wrong"', "") and "During handling" not in shown
    assert "direct cause" not in shown


# --- text -----------------------------------------------------------------------------------------------


def test_printable_text() -> None:
    assert printable(HOSTILE) == r"a\x1b]0;title\x07\x1b[2J\nb\u202ec"
    assert len(printable("x" * 10_000, 100)) == 99 or len(printable("x" * 10_000, 100)) == 100
    assert printable("größe ☕") == "größe ☕"


def test_markup_is_shown_by_rich_as_it_stands() -> None:
    from rich.console import Console
    from rich.text import Text

    for text in ("run[/red]x", "[bold]", "a[1]", "\\[/x]"):
        assert Text.from_markup(markup(text)).plain == text
        Console(quiet=True).print(markup(text))


def test_markdown_is_escaped() -> None:
    assert markdown("<script>|[x](y)`*_\n") == r"&lt;script&gt;\|\[x\]\(y\)\`\*\_\\n"


@pytest.mark.parametrize("command", [["eval", HOSTILE], ["push", HOSTILE, "--repo", "ann/net"]])
def test_a_path_with_escape_codes_is_shown_as_text(command: list[str]) -> None:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.strip().isprintable() and r"\x1b" in result.stderr and "is not there;" in result.stderr


def test_a_line_break_in_a_name_does_not_cut_off_the_remedy(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["push", f"{tmp_path}/a\nb", "--repo", "ann/net"])
    assert r"a\nb, which is not there; expected a run" in result.stderr
    assert explain(ValueError("a\nb: give another")) == "a\nb: give another"  # shown by printable


def test_an_error_line_is_bounded() -> None:
    result = CliRunner().invoke(app, ["eval", "x" * 300_000])
    assert result.exit_code == 2 and len(result.stderr) < 2100


def test_hostile_names_on_the_card(tmp_path: Path) -> None:
    from swwae_zoo.models._data_config import describe_training_data
    from swwae_zoo.training.run_directory import RunDirectory

    make_run(tmp_path / "run", data="digits", unlabeled="same")
    net = timm.create_model("swwae_mnist", notation="(4)3c-2p-(4)3c-2p-10fc")
    names = ["<script>alert(1)</script>", "| x |", "a\x1b[2Jb", "[x](http://y)", *"efghij"]
    describe_training_data(net, label_names=names)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "run" / "last" / file).unlink()
    RunDirectory(tmp_path / "run", resume=True).save_model("last", net)
    write_json(
        tmp_path / "run" / "run.json",
        {"commit": "`b`", "versions": {"torch": "<i>"}, "machine": {"gpu": "<img src=x>\x1b[2J"}},
    )
    card = swwae_zoo.push(tmp_path / "run", "ann/net", dry_run=True).card
    body = card.partition("## Model")[2].partition("<details>")[0]
    assert "&lt;script&gt;" in body and "<" not in body.replace("&lt;", "") and "\x1b" not in card
    assert r"\| x \|" in body and r"\[x\]\(http://y\)" in body


# --- files of a run that hold something else ------------------------------------------------------------

OTHERS = ["[1, 2]", "3", "null", "{", "\udcff", "[" * 5000, "{}  ", '{"val_error": "low"}', "1" * 5000, '"text"']


@pytest.mark.parametrize("content", OTHERS, ids=range(len(OTHERS)))
@pytest.mark.parametrize("file", ["result.json", "run.json", "last/config.json", "config.toml"])
def test_every_file_of_a_run_is_named_by_its_reader(tmp_path: Path, file: str, content: str) -> None:
    make_run(tmp_path / "run")
    target = tmp_path / "run" / file
    target.write_bytes(content.encode(errors="surrogateescape"))
    readers: list[Any] = [
        lambda: swwae_zoo.push(tmp_path / "run", "ann/net", dry_run=True),
        lambda: load(tmp_path / "run", "last", "cpu"),
    ]
    for read in readers:
        try:
            read()
        except ValueError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 1000 and Path(file).name in line or "is not finished" in line, line


@pytest.mark.parametrize("nested", ["x = " + "[" * 3000 + "]" * 3000, "x = " + "{a=" * 3000 + "1" + "}" * 3000])
def test_a_recipe_nested_too_deep(tmp_path: Path, nested: str) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "config.toml").write_text(nested)
    for command in (["eval", tmp_path / "run"], ["push", tmp_path / "run", "--repo", "ann/net"]):
        result = CliRunner().invoke(app, [str(each) for each in command])
        assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "config.toml" in result.stderr


def test_a_pipe_instead_of_a_file(tmp_path: Path) -> None:
    import os

    make_run(tmp_path / "run")
    for file in ("result.json", "last/config.json"):
        kept = (tmp_path / "run" / file).read_bytes()
        (tmp_path / "run" / file).unlink()
        os.mkfifo(tmp_path / "run" / file)
        with pytest.raises(ValueError, match="regular file|has no config|not finished"):
            swwae_zoo.push(tmp_path / "run", "ann/net", dry_run=True)
        (tmp_path / "run" / file).unlink()
        (tmp_path / "run" / file).write_bytes(kept)


def test_clients_see_no_tokens(path: OnePath) -> None:
    """Whatever was tried before: the fixture looks again when all is done."""
    assert path.client.swwae("pull", "ann/net", token="s3cr3t\x07x").code == 2
    assert isinstance(path.client, Client) and "s3cr3t" not in path.client.stderr.read_text()
