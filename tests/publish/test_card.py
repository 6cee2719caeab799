"""The card says what the run directory says, in words that others can check, and no path of this machine."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from hub_server.fixtures import make_run
from huggingface_hub import ModelCard

import swwae_zoo
from swwae_zoo.config import read_recipe, to_toml
from swwae_zoo.publish.trained import Figure, find_run
from swwae_zoo.utils.checksums import save_sealed


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
            results.append({**json.loads((home / "result.json").read_text()), "seed": seed, "twin": twin})
    shutil.copy(root / "seed0" / "config.toml", root / "config.toml")
    (root / "results.json").write_text(json.dumps(results))
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
    config.write_text(config.read_text().replace("[model_args]", own))
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
    import timm
    import torch

    from swwae_zoo.analysis.load import load
    from swwae_zoo.publish.folder import build_folder

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
