"""The card says what the run directory says, in words that others can check, and no path of this machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import yaml
from hub_server.fixtures import make_run
from huggingface_hub import ModelCard
from timm.models import save_for_hf
from typer.testing import CliRunner

import swwae_zoo
from swwae_zoo.analysis.load import load
from swwae_zoo.cli.main import app
from swwae_zoo.config import read_recipe, to_toml
from swwae_zoo.hub.verify import sums_of
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.publish.folder import build_folder
from swwae_zoo.publish.trained import Figure, find_run
from swwae_zoo.utils.checksums import save_sealed
from swwae_zoo.utils.json_files import read_json, write_json


def card_of(run: Path, **how: str) -> str:
    return swwae_zoo.push(run, "ann/net", dry_run=True, **how).card


@pytest.fixture
def rounds(tmp_path: Path) -> Path:
    """Two rounds and their twins; the second has the lower validation error."""
    root, results = tmp_path / "runs" / "two", []
    for seed, error in ((0, 10.0), (1, 13.0)):
        for twin in (False, True):
            home = root / f"seed{seed}{'-twin' if twin else ''}"
            lambdas = (
                {"lambda_rec": 0.0, "lambda_middle": 0.0} if twin else {"lambda_rec": 2.5, "lambda_middle": [1.0, 0.5]}
            )
            result = {
                "val_error": 9.0 - seed,
                "best_val_error": 7.0,
                "test_error": error + 2 * twin,
                "test_rec": None if twin else 0.01,
            }
            make_run(home, result=result, seed=seed, unlabeled="folder:/home/ann/secret", **lambdas)
            results.append({**read_json(home / "result.json", dict, ""), "seed": seed, "twin": twin})
    shutil.copy(root / "seed0" / "config.toml", root / "config.toml")
    write_json(root / "results.json", results)
    return root


def test_rounds_and_twin(rounds: Path) -> None:
    card = card_of(rounds)
    assert "| test error | 11.50 ± 2.12 % (10.00, 13.00) | 13.50 ± 2.12 % (12.00, 15.00) |" in card
    assert "These weights (seed 1): test error 13.00 %" in card  # by validation error, not by test error
    assert "λ_NLL = 1, λ_L2rec = 2.5, λ_L2M = 1, 0.5" in card and "all seeds: 0, 1" in card
    assert "(4)3c-2p-(4)3c-2p-10fc" in card and "50 labels" in card and "import swwae_zoo  # first" in card
    [error, rec] = ModelCard(card).data.eval_results
    assert (error.metric_value, error.metric_args, error.dataset_split) == (
        11.5,
        {"rounds": 2, "seeds": [0, 1], "std": 2.12},
        "test",
    )
    assert rec.metric_type == "mse" and "over 2 rounds" in error.metric_name


def test_one_round_of_several_knows_the_others(rounds: Path) -> None:
    assert "11.50 ± 2.12 % (10.00, 13.00)" in card_of(rounds / "seed0")
    assert "These weights (seed 0): test error 10.00 %" in card_of(rounds / "seed0" / "last")
    twin = card_of(rounds / "seed0-twin")
    assert "this is the twin" in twin and "13.50 ± 2.12" in twin and "11.50" not in twin
    assert "The decoder of this model was not trained" in twin and "not trained" not in card_of(rounds)


def test_best_has_no_test_error(rounds: Path) -> None:
    """The test error is the last model's."""
    best = rounds / "seed0" / "best" / "model.safetensors"
    tensors = safetensors.torch.load_file(best)
    tensors["head.fc.bias"] += 1
    best.unlink()  # it is last's, by another name
    save_sealed(tensors, best, best.with_name("config.json").read_bytes())
    card = card_of(rounds / "seed0", weights="best")
    assert "test error" not in card.partition("## Results")[2].partition("\n|")[2] and "validation error | 7.00" in card
    assert ModelCard(card).data.eval_results is None and "their test error was not measured" in card


def test_no_path_and_the_recipe_runs(rounds: Path, tmp_path: Path) -> None:
    card = card_of(rounds)
    assert "/home/ann" not in card and str(tmp_path) not in card and "a folder of own images" in card
    recipe = card.partition("```toml\n")[2].partition("```")[0]
    assert recipe == to_toml(read_recipe(_saved(tmp_path, recipe)))


def _saved(folder: Path, recipe: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(recipe)
    return path


def test_no_path_of_what_a_run_started_from(tmp_path: Path) -> None:
    secret = str(tmp_path / "secret")
    make_run(tmp_path / "run", init=f"{secret}/run", exclude=f"1-based:{secret}", unlabeled=f"parquet:{secret}")
    config = tmp_path / "run" / "config.toml"
    own = f'[model_args]\nbackbone_checkpoint = "{secret}/plain.safetensors"\nbackbone = "local-dir:{secret}"'
    head, _, rest = config.read_text().split("\n", 2)  # the second line is the checksum
    config.write_text(f"{head}\n{rest}".replace("[model_args]", own))
    card = card_of(tmp_path / "run")
    assert "secret" not in card and "Started from the weights of another run" in card
    assert (
        'exclude = "1-based:..."' in card
        and 'backbone = "local-dir:..."' in card
        and "your own path for the <code>...</code>" in card
    )


@pytest.mark.parametrize(
    "unlabeled", ["folder:/data/tiny_images", "tinyimages", "tinyimages:/data/tiny_images.bin", "tiny-images:part=3"]
)
def test_tiny_images_was_withdrawn(tmp_path: Path, unlabeled: str) -> None:
    make_run(tmp_path / "run", unlabeled=unlabeled)
    card = card_of(tmp_path / "run")
    assert "withdrawn by its authors in June 2020" in card and "/data" not in card
    assert "unlabelled: 80 Million Tiny Images;" in card or not unlabeled.startswith("tinyimages")


def test_contrast_and_picture(tmp_path: Path) -> None:
    make_run(tmp_path / "run", contrast="image")
    plain = card_of(tmp_path / "run")
    assert 'contrast = "image"' in plain and "reconstructions.png" not in plain and "withdrawn" not in plain
    (tmp_path / "run" / "reconstructions.png").write_bytes(b"\x89PNG")
    made = swwae_zoo.push(tmp_path / "run", "ann/net", dry_run=True)
    assert "](reconstructions.png)" in made.card and "reconstructions.png" in made.files


def test_card_is_valid_and_the_same_again(rounds: Path) -> None:
    card = card_of(rounds)
    head = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in head and head["library_name"] == "timm" and head["datasets"] == ["digits"]
    assert card == card_of(rounds)


def test_preprocess_of_a_loaded_model(tmp_path: Path) -> None:
    import torch

    make_run(tmp_path / "run", "swwae_svhn", contrast="image")
    (tmp_path / "built").mkdir()
    build_folder(find_run(tmp_path / "run"), tmp_path / "built", "hf-hub:ann/net")
    images = torch.randint(0, 256, (2, 3, 30, 30), dtype=torch.uint8)
    prepare = swwae_zoo.preprocess_of(timm.create_model(f"local-dir:{tmp_path / 'built'}", pretrained=True))
    assert torch.equal(prepare(images), load(tmp_path / "run", device="cpu").prepare(images))


def test_runs_that_are_none(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="is a folder without a model"):
        find_run(tmp_path)
    with pytest.raises(ValueError, match="expected one of last, best"):
        find_run(tmp_path / "run", "first")
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(ValueError, match="no valid JSON"):
        find_run(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(ValueError, match="is not finished"):
        find_run(tmp_path / "run")


def test_figures() -> None:
    assert (
        Figure((1.0, 2.0, 4.0)).text(2, " %") == "2.33 ± 1.53 %"
        and Figure((3.0,)).text(1) == "3.0"
        and Figure((3.0,)).std is None
    )


# --- licence, pictures, and a folder without a run ------------------------------------------------------------


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_licence_is_never_claimed_for_the_user(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    plain, given = card_of(tmp_path / "run"), card_of(tmp_path / "run", license="cc-by-4.0")
    assert "license" not in front(plain) and "No licence was given for these weights." in plain
    assert front(given)["license"] == "cc-by-4.0" and "Weights: cc-by-4.0." in given
    for wrong in ("My Licence", "", "mit\nx: y", "a" * 100):
        with pytest.raises(ValueError, match="license: got .*, expected the Hub's name of one"):
            card_of(tmp_path / "run", license=wrong)


@pytest.mark.parametrize("license", [None, "cc-by-4.0"])
def test_nor_in_config_json(tmp_path: Path, license: str | None) -> None:
    """Not by a run of an earlier version either, which has the licence of the packaged weights there."""
    make_run(tmp_path / "run")
    saved = tmp_path / "run" / "last"
    about = json.loads((saved / "config.json").read_text())
    assert "license" not in about["pretrained_cfg"]
    about["pretrained_cfg"]["license"] = "mit"
    tensors, text = safetensors.torch.load_file(saved / "model.safetensors"), json.dumps(about)
    (saved / "config.json").write_text(text)
    (saved / "model.safetensors").unlink()
    save_sealed(tensors, saved / "model.safetensors", text.encode())
    (tmp_path / "built").mkdir()
    build_folder(find_run(tmp_path / "run"), tmp_path / "built", "hf-hub:ann/net", license)
    assert json.loads((tmp_path / "built" / "config.json").read_text())["pretrained_cfg"].get("license") == license
    assert load(tmp_path / "built", device="cpu").model.num_classes == 10


def test_the_card_says_how_to_predict_and_what(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    card = card_of(tmp_path / "run")
    assert "swwae predict IMAGES --model hf-hub:ann/net" in card and 'swwae_zoo.load("hf-hub:ann/net")' in card
    make_run(tmp_path / "unsupervised", lambda_nll=0.0)
    assert "swwae predict" not in card_of(tmp_path / "unsupervised")
    assert "curves.png" not in card
    (tmp_path / "run" / "curves.png").write_bytes(b"\x89PNG")
    made = swwae_zoo.push(tmp_path / "run", "ann/net", dry_run=True)
    assert "![training losses and validation error](curves.png)" in made.card and "curves.png" in made.files


def test_class_names_on_the_card(tmp_path: Path) -> None:
    card = card_of(folder_of(tmp_path / "net", "cat", "a|b<script>"))
    assert r"2 classes: cat, a\|b&lt;script&gt;" in card


def folder_of(folder: Path, *names: str) -> Path:
    """A model that timm saved, of no run."""
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-3fc", num_classes=len(names))
    describe_training_data(model, label_names=names)
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def test_a_folder_is_pushed_as_it_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", "cat", "dog")
    made = swwae_zoo.push(folder, "ann/net", dry_run=True)
    assert list(made.files) == ["README.md", "config.json", "model.safetensors"]
    assert "## Training" not in made.card and "## Results" not in made.card and "cat, dog" in made.card
    assert made.files["config.json"] == sums_of(folder / "config.json")
    assert made.files["model.safetensors"] == sums_of(folder / "model.safetensors")


def test_the_card_of_a_folder_is_kept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", "cat", "dog")
    own = "---\nlibrary_name: timm\nlicense: apache-2.0\n---\n\n# My own words\n"
    (folder / "README.md").write_text(own)
    assert card_of(folder) == own
    changed = card_of(folder, license="mit")
    assert front(changed) == {"library_name": "timm", "license": "mit"} and "# My own words" in changed
    (folder / "README.md").write_bytes(b"\xff" + own.encode())
    with pytest.raises(ValueError, match="README.md can't be read as a model card"):
        card_of(folder, license="mit")
    (folder / "README.md").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(ValueError, match="has 1,048,577 bytes, expected at most"):
        card_of(folder)


def test_what_is_neither_run_nor_folder(tmp_path: Path) -> None:
    for place, words in (
        ("swwae_mnist.mnist_100", "got swwae_mnist.mnist_100, which is a registered name already: expected a run"),
        ("hf-hub:ann/net", "which lies on the Hub already: expected a run or a folder"),
        (tmp_path, "is a folder without a model"),
        (tmp_path / "none", "is not there"),
    ):
        with pytest.raises(ValueError, match=words):
            swwae_zoo.push(place, "ann/other", dry_run=True)


def test_a_dry_run_shows_the_card(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", "cat", "dog")
    (folder / "README.md").write_text("# A card\n\n\x1b[2J" + "long " * 500 + "end\n")
    result = CliRunner().invoke(app, ["push", str(folder), "--repo", "ann/net", "--dry-run"])
    assert result.exit_code == 0 and "\n# A card\n\n\\x1b[2Jlong " in result.stdout and "long end\n" in result.stdout
    assert result.stdout.splitlines()[-1] == "dry run: ann/net@main"
