"""The model card of trained weights, made from their run directory and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from swwae_zoo.config import RunConfig, to_toml
from swwae_zoo.models._data_config import contrast_of
from swwae_zoo.publish.trained import Figure, TrainedRun
from swwae_zoo.training.trainer import lambdas_of
from swwae_zoo.utils.text import markdown, printable

__all__ = ["make_card"]

NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "stl10": "STL-10",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "scikit-learn's handwritten digits",
    "tinyimages": "80 Million Tiny Images",
}
TINY = re.compile("tiny[-_ ]?images", re.IGNORECASE)
TINY_NOTE = """
**Tiny Images.** The unlabelled images came from 80 Million Tiny Images, as in the paper. That set was withdrawn by \
its authors in June 2020: it had been gathered by automatic search for the nouns of WordNet, among them derogatory \
terms, so that it holds offensive labels and images, and its 32x32 pixels are too small and too many to check by \
hand. Its labels were not used here, and none of its images is given on; what the weights took from them can't be \
taken out again. Don't use these weights where that matters.
"""
RECONSTRUCTIONS = (
    "## Reconstructions",
    "",
    "Test images, their reconstruction from what and where, and from the what alone.",
    "",
    "![input, reconstruction from what and where, reconstruction from the what alone](reconstructions.png)",
    "",
)
HIDDEN = "..."  # where a path stood
SHOWN = 20  # names of classes
PAPER = """@article{zhao2015stacked,
  title   = {Stacked What-Where Auto-encoders},
  author  = {Zhao, Junbo and Mathieu, Michael and Goroshin, Ross and LeCun, Yann},
  journal = {arXiv preprint arXiv:1506.02351},
  year    = {2015}
}"""


def make_card(
    trained: TrainedRun | None, model: nn.Module, load_as: str, pictures: Sequence[str] = (), license: str | None = None
) -> ModelCard:
    """The card, the same text for the same run.

    Args:
        trained: the run; None: only the model is known.
        model: the loaded model, for its architecture.
        load_as: what `swwae_zoo.load` and timm.create_model are given to load it: "hf-hub:ORG/NAME", or a registered
            name.
        pictures: names of the files that lie beside the card: reconstructions.png, curves.png.
        license: of the weights; None: nothing is said of one.
    """
    net: Any = model
    data = None if trained is None else _without_paths(trained.config)
    short = load_as.rpartition("/")[2].removeprefix("hf-hub:")
    uses_tiny = trained is not None and TINY.search(f"{trained.config.data} {trained.config.unlabeled}")
    specs = () if data is None else (data.data, data.unlabeled)
    sets = [spec.partition(":")[0] for spec in specs if spec.partition(":")[0] in NAMES]
    head = ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag="image-classification",
        model_name=short,
        tags=["image-classification", "timm", "swwae", "semi-supervised-learning", "arxiv:1506.02351"],
        datasets=list(dict.fromkeys(sets)) or None,
        eval_results=(_eval_results(trained, data) if trained is not None and data is not None else None) or None,
    )
    body = [
        f"# {short}",
        "",
        "A Stacked What-Where Auto-Encoder ([arXiv:1506.02351](https://arxiv.org/abs/1506.02351)): a convnet whose "
        "pooling keeps the *what* (the maximum) for the classifier and the *where* (its position) for a mirrored "
        "decoder, so that one net learns from labelled and unlabelled images.",
        "",
        *_use(net, load_as, data),
        "## Model",
        "",
        *_architecture(model, data),
        "",
        *(["## Training", "", *_training(trained, data), ""] if trained is not None and data is not None else []),
        *(["![training losses and validation error](curves.png)", ""] if "curves.png" in pictures else []),
        *([TINY_NOTE.strip(), ""] if uses_tiny else []),
        *(["## Results", "", *_results(trained), ""] if trained is not None else []),
        *(RECONSTRUCTIONS if "reconstructions.png" in pictures else []),
        "## Limits",
        "",
        "Made for research on semi-supervised learning and as features for small images like those it was trained on. "
        "It knows the classes of its data set and nothing else, says nothing of images of another kind, and was not "
        "tested for robustness, calibration or fairness."
        + (" The figures above are all that was measured." if trained is not None else ""),
        *(_untrained(data) if data is not None else []),
        "",
        "## Licence",
        "",
        _licences(net, license),
        "",
        "## Citation",
        "",
        "```bibtex",
        PAPER,
        "```",
    ]
    return ModelCard(f"---\n{head.to_yaml().strip()}\n---\n\n" + "\n".join(body).strip() + "\n")


def _use(net: Any, load_as: str, config: RunConfig | None) -> list[str]:
    """How to load it and what to do with it."""
    classifies = net.num_classes > 0 and (config is None or lambdas_of(config).classifies)
    predict = [
        "```",
        f"swwae predict IMAGES --model {load_as}",
        "```",
        "",
        "```python",
        "import swwae_zoo",
        "",
        f'model = swwae_zoo.load("{load_as}")',
        'model.predict("image.png")  # the likeliest classes, with their probabilities',
        "```",
        "",
    ]
    options = "`num_classes`, `in_chans`, `features_only` and `unpool` can be changed on the way."
    if not hasattr(net, "notation"):
        options = (
            "`num_classes`, `in_chans` and `features_only` can be changed on the way; "
            "`model.backbone` is the plain backbone."
        )
    return [
        "## Use",
        "",
        *(predict if classifies else []),
        "With timm:",
        "",
        "```python",
        'import swwae_zoo  # first: it registers the models, else timm says "Unknown model"',
        "import timm",
        "",
        f'model = timm.create_model("{load_as}", pretrained=True).eval()',
        "prepare = swwae_zoo.preprocess_of(model)  # uint8 images (B, C, H, W) -> the input it was trained on",
        "logits = model(prepare(images))",
        "out = model.forward_swwae(prepare(images))  # out.logits, out.reconstruction, out.middles",
        "```",
        "",
        options,
        *_contrast(contrast_of(net.pretrained_cfg)),
        "",
    ]


def _licences(net: Any, license: str | None) -> str:
    own = f"Weights: {markdown(license, 100)}." if license else "No licence was given for these weights."
    backbone = net.pretrained_cfg.get("license")
    if not hasattr(net, "notation") and backbone and backbone != license:
        own += f" timm names the licence {markdown(backbone, 100)} for the backbone."
    return f"{own} The code is under the MIT licence. The data sets have terms of their own."


def _without_paths(config: RunConfig) -> RunConfig:
    """A path on someone's machine is nobody else's business."""

    def bare(spec: str) -> str:
        kind, colon, _ = spec.partition(":")
        is_path = (
            colon
            and kind in ("folder", "npz", "parquet", "local-dir", "0-based", "1-based")
            or (("/" in spec or "\\" in spec) and kind != "hf-hub")
        )
        return (f"{kind}:{HIDDEN}" if colon else HIDDEN) if is_path else spec

    args = {
        name: bare(str(value)) if name in ("backbone", "backbone_checkpoint") else value
        for name, value in config.model_args.items()
    }
    return replace(
        config,
        data=bare(config.data),
        unlabeled=bare(config.unlabeled),
        exclude=bare(config.exclude),
        init=HIDDEN if config.init else "",
        model_args=args,
        data_dir="",
        out="",
    )


def _name(spec: str) -> str:
    kind, _, option = spec.partition(":")
    own = {"folder": "a folder of own images", "npz": "an own file of images", "parquet": "own files of images"}
    shown = f" ({markdown(option, 100)})" if option and option != HIDDEN else ""
    return own.get(kind) or NAMES.get(kind, markdown(kind, 100)) + shown


def _labels(config: RunConfig) -> str:
    return f"{config.num_labels:,} labels" if config.num_labels else "all labels"


def _contrast(contrast: str) -> list[str]:
    if contrast == "none":
        return []
    return [
        "",
        "**Preprocessing.** Each image had its own mean taken away and was divided by its own standard deviation "
        f"(`contrast = \"{contrast}\"`). timm's transforms don't do that: use `preprocess_of`, as above.",
    ]


def _architecture(model: nn.Module, config: RunConfig | None) -> list[str]:
    net: Any = model
    size = "x".join(map(str, net.pretrained_cfg["input_size"]))
    params = sum(parameter.numel() for parameter in model.parameters())
    unused: Any = getattr(model, "decoder", None)
    decoder = 0 if unused is None else sum(parameter.numel() for parameter in unused.parameters())
    kind = (
        f"`{net.notation}`, in the paper's notation"
        if hasattr(model, "notation")
        else f"a wrapped timm backbone, `{_code(net.text)}`"
    )
    args = ", ".join(
        f"{name} = {markdown(repr(value), 100)}"
        for name, value in (config.model_args if config is not None else {}).items()
        if name not in ("notation", "backbone")
    )
    registered = net.pretrained_cfg.get("architecture") or "" if config is None else config.model.partition(".")[0]
    return [
        f"- Architecture: {kind}" + (f"; {args}" if args else ""),
        f"- Registered as: `{_code(registered)}`; input {size}; {net.num_classes} classes"
        + _classes(net.pretrained_cfg.get("label_names") or ()),
        f"- Parameters: {params - decoder:,} in encoder and classifier, {decoder:,} in the decoder, which classifying "
        "does without",
    ]


def _classes(names: Sequence[str]) -> str:
    """Their names, where they are more than numbers."""
    if not names or all(str(name).isdigit() for name in names):
        return ""
    return ": " + ", ".join(markdown(name, 50) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _code(text: str) -> str:
    """Text for a code span, in which nothing can be escaped."""
    return printable(text).replace("`", "'")


def _untrained(config: RunConfig) -> list[str]:
    lambdas = lambdas_of(config)
    parts = [
        name for name, trained in (("classifier", lambdas.classifies), ("decoder", lambdas.runs_decoder)) if not trained
    ]
    return (
        [f"The {' and the '.join(parts)} of this model was not trained: what it gives means nothing."] if parts else []
    )


def _lambdas(config: RunConfig) -> str:
    """The weights of the paper's terms, and of others that are not 0: "λ_NLL = 1, λ_L2rec = 20, λ_L2M = 1"."""
    names = {"nll": "NLL", "rec": "L2rec", "middle": "L2M", "l1": "L1"}
    weights = {
        name: weight for name, weight in lambdas_of(config).items() if weight or name in ("nll", "rec", "middle")
    }
    shown = {
        name: ", ".join(f"{part:g}" for part in (weight if isinstance(weight, tuple) else [weight]))
        for name, weight in weights.items()
    }
    return ", ".join(f"λ_{names.get(name, name)} = {text}" for name, text in shown.items())


def _training(trained: TrainedRun, config: RunConfig) -> list[str]:
    versions = trained.provenance.get("versions", {})
    machine = trained.provenance.get("machine", {})
    where = markdown(machine.get("gpu") or machine.get("processor") or "", 100)
    unlabeled = {"same": "the images of the training set", "none": "none"}.get(config.unlabeled) or _name(
        config.unlabeled
    )
    commit = trained.provenance.get("commit")
    recipe = to_toml(_without_paths(trained.recipe)).strip()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0))
    with_versions = ", ".join(
        f"{name} {markdown(versions[name], 50)}" for name in ("swwae_zoo", "torch", "timm") if versions.get(name)
    )
    return [
        f"- Data: {_name(config.data)}, {_labels(config)}, class-balanced and drawn by the seed; "
        f"unlabelled: {unlabeled}; {config.num_val:,} training images held out for validation",
        *(["- Started from the weights of another run"] if config.init else []),
        f"- Losses: {_lambdas(config)} (equation 1 of the paper)"
        + ("; this is the twin, the plain convnet" if trained.is_twin else ""),
        f"- Seed of these weights: {config.seed}; all seeds: {', '.join(map(str, trained.seeds))}",
        f"- {trained.result.get('steps') or 0:,} steps, {trained.result.get('seconds') or 0:,.0f} s"
        + (f" on {where}" if where else "")
        + (f"; {with_versions}" if with_versions else "")
        + (f"; commit `{_code(commit)}`" if commit else ""),
        "",
        "<details><summary>The whole recipe: save it as recipe.toml"
        + (", with your own path for the <code>...</code>," if HIDDEN in recipe else "")
        + " and run <code>swwae train --recipe recipe.toml</code></summary>",
        "",
        f"{fence}toml",
        recipe,
        fence,
        "",
        "</details>",
    ]


def _results(trained: TrainedRun) -> list[str]:
    rows, columns = [], ["this model"]
    twin = not trained.is_twin and any(result.get("twin") for result in trained.results)
    if twin:
        columns.append("twin: the same net, recipe and seeds, every λ but λ_NLL 0: the plain convnet")
    keys = (
        [("test_error", "test error", 2, " %"), ("test_rec", "test L2rec, mean square", 5, "")]
        if trained.is_last
        else []
    )
    keys.append(("val_error" if trained.is_last else "best_val_error", "validation error", 2, " %"))
    for key, name, digits, unit in keys:
        own = trained.figure(key)
        if own is None:
            continue
        other = trained.figure(key, twin=True) if twin else None
        rows.append(
            f"| {name} | {_cell(own, digits, unit)} |"
            + (f" {_cell(other, digits, unit) if other else '–'} |" if twin else "")
        )
    if not rows:
        return ["Nothing was measured."]
    count = len(trained.seeds)
    how = (
        f"Mean ± sample standard deviation over {count} rounds, each with labels drawn anew."
        if count > 1
        else "One round."
    )
    value, these = trained.result.get(keys[0][0]), ""
    if count > 1 and isinstance(value, (int, float)):
        these = f" These weights (seed {trained.config.seed}): {keys[0][1]} {value:.{keys[0][2]}f}{keys[0][3]}."
    if not trained.is_last:
        these += (
            " They were chosen by validation error, which is too good for that reason; "
            "their test error was not measured."
        )
    return [f"{how}{these}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *rows]


def _cell(figure: Figure, digits: int, unit: str) -> str:
    each = f" ({', '.join(f'{value:.{digits}f}' for value in figure.values)})" if len(figure.values) > 1 else ""
    return f"{figure.text(digits)}{unit}{each}"


def _eval_results(trained: TrainedRun, config: RunConfig) -> list[EvalResult]:
    """Of the data set's test images; means over rounds, the spread beside."""
    found = []
    for key, type_, name, digits in (
        ("test_error", "error_rate", "test error (%)", 2),
        ("test_rec", "mse", "test L2rec", 5),
    ):
        figure = trained.figure(key) if trained.is_last else None
        if figure is None:
            continue
        rounds = len(figure.values)
        args: dict[str, Any] = {"rounds": rounds, "seeds": trained.seeds}
        if figure.std is not None:
            args["std"] = round(figure.std, digits)
        found.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=config.data.partition(":")[0],
                dataset_split="test",
                dataset_name=f"{_name(config.data)}, {_labels(config)}",
                metric_type=type_,
                metric_value=round(figure.mean, digits),
                metric_name=f"{name}, {figure.text(digits)} over {rounds} round{'s' * (rounds != 1)}",
                metric_args=args,
            )
        )
    return found
