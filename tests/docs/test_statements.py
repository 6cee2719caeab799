"""What the pages name is there: commands, flags, attributes, files, and the models with their figures."""

import importlib
import re
import shlex
from typing import Any

import pytest
import timm
from doc_pages import PAGES, ROOT, blocks, in_line, text_of
from typer.main import get_command
from typer.testing import CliRunner

import swwae_zoo
from swwae_zoo import config
from swwae_zoo.cli.main import app
from swwae_zoo.training import rounds
from swwae_zoo.training.build import resolve_device

COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
FLAGS = {flag for each in COMMANDS.values() for key in each.params for flag in (*key.opts, *key.secondary_opts)}
# Flags of other programs that a sentence names.
OTHERS = {"--max-restarts", "--nproc-per-node"}
FILES = re.compile(r"(?<![\w./~-])(?:swwae_zoo|cli|tests|benchmarks|examples|recipes|docs)/[\w./-]*\w")


def swwae_lines(page: str) -> list[list[str]]:
    """Arguments of each `swwae` command in the page's blocks, torchrun's included."""
    found = []
    for block in blocks(page):
        for line in block.commands if block.language == "" else ():
            words = shlex.split(line, comments=True)
            if words[0] == "swwae":
                found.append(words[1:])
            elif "swwae_zoo.cli" in words:
                found.append(words[words.index("swwae_zoo.cli") + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_command_line_takes_every_command(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag with its value's type; of `train` also every name and number, up to the data."""

    def train_rounds(run: config.RunConfig, **control: Any) -> list[dict[str, Any]]:
        weights = {key: value for key, value in run.model_args.items() if key != "backbone_checkpoint"}
        rounds.check_before_data(config.merge(run, {"model_args": weights, "init": ""}), resolve_device("cpu"))
        taken.append(run)
        return []

    monkeypatch.setattr(rounds, "train_rounds", train_rounds)
    taken: list[config.RunConfig] = []
    for words in swwae_lines(page):
        assert words[0] in COMMANDS, words
        COMMANDS[words[0]].make_context(words[0], words[1:])
        if words[0] == "train" and "--recipe" not in words:
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0 and taken, f"{words}: {done.output}"


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_in_a_sentence_is_one(page: str) -> None:
    for code in in_line(page):
        if code.startswith("swwae "):
            words = code.split()
            assert words[1] in COMMANDS or words[1].isupper() or words[1].startswith("-"), code
            if words[1] in COMMANDS:
                known = {name for each in COMMANDS[words[1]].params for name in (*each.opts, *each.secondary_opts)}
                used = {word for word in words if word.startswith("--")}
                assert used <= known | {"--help"}, code
        elif not code.startswith(("torchrun", "pip", "python", "pytest", "trackio", "tensorboard")):
            used = set(re.findall(r"(?<!\S)--[a-z][\w-]*", code))
            assert used <= FLAGS | OTHERS, code


@pytest.mark.parametrize("page", PAGES)
def test_every_file_in_a_sentence_is_there(page: str) -> None:
    for code in in_line(page):
        for path in FILES.findall(code) if "{" not in code and "*" not in code else ():
            if not path.startswith("swwae_zoo/weights/MODEL"):
                assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_every_attribute_in_a_sentence_is_there(page: str) -> None:
    for code in in_line(page):
        for name in re.findall(r"(?<![\w./'\"-])(?:swwae_zoo|sz)((?:\.[A-Za-z_]\w*)+)", code):
            found: Any = swwae_zoo
            for part in name.split(".")[1:]:
                if not hasattr(found, part) and hasattr(found, "__path__"):
                    importlib.import_module(f"{found.__name__}.{part}")
                assert hasattr(found, part), f"{page}: {code}"
                found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not target.startswith(("http:", "https:")):
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.exists(), f"{page}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


@pytest.mark.parametrize("page", ["README.md", "MODEL_CARD.md"])
def test_the_tables_of_models_are_those_that_are_built(page: str) -> None:
    rows = {}
    for line in text_of(page).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].startswith("`(") and cells[0].startswith("`swwae"):
            rows |= {name.strip("` "): cells for name in cells[0].split(",")}
    assert set(rows) == {name for name in timm.list_models("swwae*") if name != "swwae_wrap"}
    for name, cells in rows.items():
        model = timm.create_model(name)
        assert cells[1] == f"`{model.notation}`", name
        assert cells[2] == "×".join(map(str, (model.in_chans, *model.img_size))), name
        if page == "MODEL_CARD.md":
            decoder = sum(p.numel() for key, p in model.named_parameters() if key.startswith("decoder."))
            encoder = sum(p.numel() for p in model.parameters()) - decoder
            assert cells[3] == f"{encoder:,} · {decoder:,}", name
