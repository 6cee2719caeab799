"""A term that is registered from outside the package: no other file knows it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import swwae_zoo
from swwae_zoo.config import RunConfig, read_recipe
from swwae_zoo.experiments.runs import lambdas as lambdas_in_records
from swwae_zoo.loss import TERMS, Step, Term
from swwae_zoo.publish.card import _lambdas as lambdas_on_card
from swwae_zoo.training import figures
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.training.signals import Stopped
from swwae_zoo.training.trainer import Trainer
from swwae_zoo.utils.json_files import unsealed

CONFIG = RunConfig(
    model_args={"notation": "(4)3c-2p-(4)3c-2p-10fc"},
    num_labels=50,
    num_val=50,
    steps=12,
    batch_size=24,
    labeled_batch=16,
    log_every=4,
    save_every=4,
    lambda_other={"spread": 0.5},
)


def spread(step: Step) -> torch.Tensor:
    """Variance of the top what, over all images."""
    return step.encoding.features.float().var()


@pytest.fixture
def term() -> Iterator[Term]:
    yield swwae_zoo.register_term(Term("spread", "spread of the top what", "all", spread, frozenset({"encoding"})))
    del TERMS["spread"]


@pytest.mark.usefixtures("term", "one_thread")
def test_it_trains_is_logged_drawn_resumed_and_left_out_of_the_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_term, plain = replace(CONFIG, out=str(tmp_path / "a")), replace(CONFIG, lambda_other={})
    legends: list[list[str]] = []
    real = figures.Figure.savefig

    def note(figure: Any, *args: Any, **kwargs: Any) -> None:
        legends.append([line.get_label() for axis in figure.axes for line in axis.lines])
        real(figure, *args, **kwargs)

    monkeypatch.setattr(figures.Figure, "savefig", note)
    train_rounds(replace(with_term, twin=True))
    weights = {
        name: (tmp_path / "a" / name / "last" / "model.safetensors").read_bytes() for name in ("seed0", "seed0-twin")
    }

    lines = [
        unsealed(json.loads(line)) for line in (tmp_path / "a" / "seed0" / "metrics.jsonl").read_text().splitlines()
    ]
    logged = [line["spread"] for line in lines if "loss" in line]
    assert len(logged) == 3 and all(value > 0 for value in logged)
    first = next(line for line in lines if "loss" in line)
    parts = first["nll"] + first["rec"] + first["middle"] + 0.5 * first["spread"]
    assert first["loss"] == pytest.approx(parts, rel=1e-5)
    assert any("spread of the top what" in legend for legend in legends)

    assert read_recipe(tmp_path / "a" / "seed0" / "config.toml").lambda_other == {"spread": 0.5}
    assert "λ_spread = 0.5" in lambdas_on_card(with_term) and lambdas_in_records(with_term)["spread"] == 0.5
    assert read_recipe(tmp_path / "a" / "seed0-twin" / "config.toml").lambda_other == {}
    train_rounds(replace(plain, lambda_rec=0.0, lambda_middle=0.0, out=str(tmp_path / "b")))
    assert (tmp_path / "b" / "last" / "model.safetensors").read_bytes() == weights["seed0-twin"]
    train_rounds(replace(plain, out=str(tmp_path / "c")))
    assert (tmp_path / "c" / "last" / "model.safetensors").read_bytes() != weights["seed0"]  # it had an effect

    step = Trainer.train_step

    def stop_at_6(self: Trainer) -> Any:
        if self.step == 6:
            raise Stopped("enough", 2)
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", stop_at_6)
    with pytest.raises(Stopped):
        train_rounds(replace(with_term, out=str(tmp_path / "d")))
    monkeypatch.setattr(Trainer, "train_step", step)
    train_rounds(replace(with_term, out=str(tmp_path / "d")), resume=True)
    assert (tmp_path / "d" / "last" / "model.safetensors").read_bytes() == weights["seed0"]


@pytest.mark.usefixtures("term")
def test_it_is_told_what_it_lacks(tmp_path: Path) -> None:
    needy = swwae_zoo.register_term(Term("needy", "needy", "unlabeled", spread, frozenset({"strong view", "teacher"})))
    try:
        config = replace(CONFIG, lambda_other={"needy": 1.0}, out=str(tmp_path / "run"))
        with pytest.raises(ValueError, match="lambda_needy: needs strong views of the unlabelled images"):
            train_rounds(config)
        with pytest.raises(ValueError, match="lambda_needy: needs a teacher"):
            train_rounds(replace(config, strong="grey"))
        assert not (tmp_path / "run").exists()
    finally:
        del TERMS[needy.name]
