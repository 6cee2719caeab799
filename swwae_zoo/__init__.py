"""Stacked What-Where Auto-Encoders (arXiv:1506.02351) as timm models.

`import swwae_zoo` registers the models with timm: `timm.create_model("swwae_mnist")` works from then on.

    train            what `swwae train` does, on data sets by name, tensors or Datasets
    load             a trained model from a run, a folder, the Hub or a tag: predict, reconstruct, transform
    wrap             any backbone as a SWWAE
    SWWAETask        one training step: the losses of a batch, for a loop of one's own
    losses           the loss functions and eq. (1): `losses.reconstruction_loss`, `losses.Lambdas`, ...
    register_term    a loss term from outside the package
    preprocess_of    uint8 images -> the input a loaded model was trained on
    push, pull       to and from the Hugging Face Hub
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swwae_zoo.version import __version__

if TYPE_CHECKING:
    from swwae_zoo import loss as losses
    from swwae_zoo.analysis.load import Prediction, Trained, load
    from swwae_zoo.analysis.preprocess import preprocess_of
    from swwae_zoo.api import Run, train
    from swwae_zoo.hub import pull
    from swwae_zoo.loss import register_term
    from swwae_zoo.models import SWWAE, Decoding, Encoding, SWWAEOutput, wrap
    from swwae_zoo.publish import push
    from swwae_zoo.task import SWWAETask

__all__ = [
    "SWWAE",
    "Decoding",
    "Encoding",
    "Prediction",
    "Run",
    "SWWAEOutput",
    "SWWAETask",
    "Trained",
    "__version__",
    "load",
    "losses",
    "preprocess_of",
    "pull",
    "push",
    "register_term",
    "train",
    "wrap",
]

# Torch and timm take seconds to import, and `swwae --help` needs neither: names are imported when they are first used.
_MODULES = {
    "SWWAETask": "swwae_zoo.task",
    **dict.fromkeys(("Prediction", "Trained", "load"), "swwae_zoo.analysis.load"),
    **dict.fromkeys(("Run", "train"), "swwae_zoo.api"),
    "preprocess_of": "swwae_zoo.analysis.preprocess",
    "pull": "swwae_zoo.hub",
    "push": "swwae_zoo.publish",
    "register_term": "swwae_zoo.loss",
    **dict.fromkeys(("SWWAE", "Decoding", "Encoding", "SWWAEOutput", "wrap"), "swwae_zoo.models"),
}


def __getattr__(name: str) -> Any:
    if name == "losses":  # the package of the loss functions, by a name of its own
        globals()[name] = importlib.import_module("swwae_zoo.loss")
        return globals()[name]
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _RegisterModels(MetaPathFinder):
    """Imports `swwae_zoo.models`, which registers them, once timm or a part that needs it is imported."""

    WITHOUT_TIMM = frozenset(
        f"swwae_zoo.{name}"
        for name in ("cli", "config", "experiments", "kernels", "models", "recipes", "utils", "version")
    )

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname == "timm":
            sys.meta_path.remove(self)
            return _then_import_models(find_spec("timm"))
        if fullname.startswith("swwae_zoo.") and fullname.count(".") == 1 and fullname not in self.WITHOUT_TIMM:
            sys.meta_path.remove(self)
            importlib.import_module("swwae_zoo.models")
        return None


def _then_import_models(spec: ModuleSpec | None) -> ModuleSpec | None:
    if spec is not None and spec.loader is not None:
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("swwae_zoo.models")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
    return spec


if "timm" in sys.modules:
    importlib.import_module("swwae_zoo.models")
else:
    sys.meta_path.insert(0, _RegisterModels())
