"""What a run is built from, by its configuration: device, model, starting weights, images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch
from timm.models import load_state_dict
from torch import Tensor

from swwae_zoo.config import RunConfig
from swwae_zoo.data import SplitRequest, Splits, make_splits, physical_memory, seeded
from swwae_zoo.hub.config import read_model_config
from swwae_zoo.hub.remote import CONFIG, WEIGHTS
from swwae_zoo.models import SWWAE, build_meta
from swwae_zoo.models._registry import without_weights
from swwae_zoo.models.wrapped.model import WrappedSWWAE
from swwae_zoo.models.wrapped.wrapping import load_backbone
from swwae_zoo.optim.finetune import freeze
from swwae_zoo.training.classes import rows_by_name
from swwae_zoo.training.places import find_place
from swwae_zoo.utils.checksums import check_sealed
from swwae_zoo.utils.distributed import World
from swwae_zoo.utils.files import user_path
from swwae_zoo.utils.text import printable

__all__ = [
    "build_model",
    "initial_weights",
    "input_shape",
    "load_initial",
    "memory_limit",
    "request_of",
    "resolve_device",
    "splits_of",
]

SHOWN = 5  # names of new classes in a line


def splits_of(config: RunConfig, shape: tuple[int, int, int], tell: Callable[[int, int], None] | None = None) -> Splits:
    """The data of one round for images of ``shape`` (C, H, W); the seed draws labelled and validation images.

    Args:
        tell: called with how far the search for copies has come.
    """
    return make_splits(request_of(config, shape), tell)


def request_of(config: RunConfig, shape: tuple[int, int, int]) -> SplitRequest:
    """What `splits_of` asks for."""
    return SplitRequest(
        data=config.data,
        unlabeled=config.unlabeled,
        num_labels=config.num_labels,
        num_val=config.num_val,
        seed=config.seed,
        data_dir=config.data_dir or None,
        img_size=shape[1:],
        in_chans=shape[0],
        bad_images=config.bad_images,
        exclude=config.exclude,
        leakage=config.copies,
        limit=memory_limit(config.unlabeled_store),
        labeled_limit=memory_limit("auto"),
    )


def memory_limit(store: str) -> float:
    """Bytes of unlabelled images that may lie in memory: half of the machine's when `store` is "auto"."""
    if store == "auto":
        return physical_memory() / 2
    return 0 if store == "disk" else float("inf")


def input_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) of the images the model takes: its default, or model_args' in_chans and img_size.

    Raises:
        ValueError: no such model, or arguments it does not take.
    """
    model = build_meta(config.model, config.model_args)
    return model.in_chans, *model.img_size


def build_model(
    config: RunConfig,
    num_classes: int,
    world: World = World(),
    class_names: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    weights: bool = True,
) -> SWWAE:
    """The model of ``config``, initialised from its seed, from ``init``, or from the weights that its name stands for
    (a tag, "hf-hub:ORG/NAME", "local-dir:PATH"); dropout differs between processes.

    Args:
        class_names: of the classes it is to learn, for a classifier that is taken over (see `load_initial`).
        say: told in a line which weights it starts from.
        weights: load those that it starts from; a resumed run has its own.

    Raises:
        ValueError: an unknown argument, a model that is not a SWWAE, or ``init`` holds no weights for it.
    """
    torch.manual_seed(config.seed)
    args = {"num_classes": num_classes, **(config.model_args if weights else without_weights(config.model_args))}
    try:
        model = timm.create_model(config.model, **args)
    except TypeError as error:  # an argument of another name, or of another type
        raise ValueError(f"model_args: {config.model} can't be built with {config.model_args}: {error}") from error
    if not isinstance(model, SWWAE):
        raise ValueError(
            f"{config.model} has no decoder, so it can't learn from unlabelled images; `swwae list` shows models "
            "that can, and --backbone wraps another"
        )
    source = initial_weights(config)
    if source and weights:
        file = user_path(source)
        line = load_file(model, file) if file.is_file() else load_initial(model, source, class_names)
        if say is not None:
            say(line)
    freeze(model, config.freeze_stages, config.norm_eval)
    if not world.first:
        torch.manual_seed(seeded(config.seed, "dropout", world.rank).initial_seed())
    return model


def initial_weights(config: RunConfig) -> str:
    """The place of the weights that a run starts from; "" for random ones.

    Raises:
        ValueError: two places.
    """
    named = config.model if "." in config.model or ":" in config.model else ""  # a tag, hf-hub: or local-dir:
    if named and config.init:
        raise ValueError(
            f"model {printable(named)} names weights to start from, and so does init = {printable(config.init)}: leave "
            "one of them out"
        )
    return named or config.init


def resolve_device(name: str, world: World = World()) -> torch.device:
    """ "auto" takes CUDA, then Apple's GPU, then the CPU; of many processes each takes a CUDA device of its own.

    Raises:
        ValueError: the device asked for is absent, or one device for many processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if world.size > 1:
        if ":" in name or name == "mps":
            raise ValueError(
                f"device {name}: got one device for {world.size} processes, expected cuda (one for each) or cpu"
            )
        name = f"cuda:{world.local_rank}" if name == "cuda" else name
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(
                f"device {name} was asked for, but this machine has {count or 'no'} CUDA device{'s' * (count != 1)}: "
                "use --device cpu or auto"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps was asked for, but this machine has none: use --device cpu or auto")
    return device


def load_initial(model: SWWAE, source: str | Path, class_names: Sequence[str] = ()) -> str:
    """Copies a trained model's weights into ``model``; of the classifier, the rows of classes that both have by name.

    Where either's classes have no names but numbers, they are compared by position: a classifier of as many classes is
    kept, another stays as it was drawn.

    Args:
        model: changed in place.
        source: as `find_place` takes it; of a run, last/ is taken.
        class_names: of the classes that ``model`` is to learn, in the order of the logits.

    Returns:
        What was taken, in a line for the user.

    Raises:
        ValueError: no weights there, or those of another net.
    """
    try:
        place = find_place(source)
        file = place.folder / WEIGHTS
        check_sealed(file)
        known = read_model_config(place.folder / CONFIG, local=True).pretrained_cfg.get("label_names") or ()
        saved = safetensors.torch.load_file(file)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"init: {printable(' '.join(str(error).split()), 500)}") from error
    own = model.state_dict()
    heads = _classifiers(model)
    names = [name for name in own if name.rpartition(".")[0] in heads and name in saved]
    rows, fits = rows_by_name(known, class_names), all(saved[name].shape == own[name].shape for name in names)
    for name in names:
        saved[name] = _rows(saved[name], own[name], rows)
    differ = sorted(
        name
        for name in own.keys() | saved.keys()
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    )
    if differ:
        name = differ[0]
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (saved, own)]
        raise ValueError(
            f"init: {printable(file)} is of another net: {name} has {shapes[0]} there, but {shapes[1]} in this model"
            f"{f', and {len(differ) - 1} more' if len(differ) > 1 else ''}; give the model_args of that run"
        )
    model.load_state_dict(saved)
    return f"starts from the weights of {printable(place.name)}{_what_became(fits, rows, class_names)}"


def load_file(model: SWWAE, file: Path) -> str:
    """Copies the weights of a file into ``model``: the model's own, or those of the plain backbone that it wraps.

    A classifier of another width is left out: it starts at zero on a backbone's weights, else as it was drawn.

    Args:
        model: changed in place.
        file: safetensors, or a pickle that torch reads with weights_only=True.

    Returns:
        What was taken, in a line for the user.

    Raises:
        ValueError: it can't be read, or is of another net.
    """
    try:
        saved = load_state_dict(str(file), use_ema=True, device="cpu", weights_only=True)
    except Exception as error:  # torch's reader of pickles raises many kinds, and advises to run what is in them
        reason = printable(" ".join(str(error).split()) or "it is cut off", 200)
        reason = "it holds more than weights, or none" if "weights_only" in reason else reason
        raise ValueError(
            f"checkpoint: {printable(file)} can't be read ({reason}): expected weights as safetensors or torch.save "
            "writes them"
        ) from error
    own, heads = model.state_dict(), _classifiers(model)
    whole = len(own.keys() & saved.keys()) > len(own) // 2
    if isinstance(model, WrappedSWWAE) and not whole:
        fitting = load_backbone(model, file)
        classifier = "" if fitting else f"; the classifier is new ({model.num_classes} classes), and starts at zero"
        return f"starts from the weights of {printable(file)}{classifier}"
    dropped = [name for name in saved if name.rpartition(".")[0] in heads and saved[name].shape != own[name].shape]
    saved |= {name: own[name] for name in dropped}
    differ = sorted(
        name for name in own.keys() | saved.keys() if name not in own or name not in saved
        or own[name].shape != saved[name].shape
    )  # fmt: skip
    if differ:
        raise ValueError(
            f"checkpoint: {printable(file)} is of another net than {printable(model.text)}: {len(differ)} of "
            f"{len(own.keys() | saved.keys())} tensors differ, the first is {printable(differ[0], 100)}"
        )
    model.load_state_dict(saved)
    return f"starts from the weights of {printable(file)}{'; the classifier is new' if dropped else ''}"


def _classifiers(model: SWWAE) -> tuple[str, ...]:
    named = model.pretrained_cfg.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _rows(saved: Tensor, own: Tensor, rows: Sequence[int | None] | None) -> Tensor:
    """A classifier's tensor with a row for each class: the saved one where the class has one, else that of ``own``."""
    if saved.shape[1:] != own.shape[1:]:
        return saved  # another net, which is found out later
    if rows is None:
        return saved if saved.shape == own.shape else own
    mixed = own.detach().clone()
    for row, place in enumerate(rows[: len(mixed)]):
        if place is not None and place < len(saved):
            mixed[row] = saved[place].to(mixed.dtype)
    return mixed


def _what_became(fits: bool, rows: Sequence[int | None] | None, class_names: Sequence[str]) -> str:
    """What became of the classifier, in words."""
    if rows is None:
        return ", its classifier by position" if fits else "; the classifier is new, for it had other classes"
    new = [name for name, place in zip(class_names, rows, strict=True) if place is None]
    if not new:
        return ", its classifier by the names of the classes"
    if len(new) == len(rows):
        return "; the classifier is new, for it knew none of these classes"
    shown = ", ".join(printable(name, 50) for name in new[:SHOWN]) + ", ..." * (len(new) > SHOWN)
    return f"; of its classifier {len(rows) - len(new)} of {len(rows)} classes, by name (new: {shown})"
