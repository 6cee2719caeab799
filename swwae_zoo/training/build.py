"""What a run is built from, by its configuration: device, model, starting weights, images."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch

from swwae_zoo.config import RunConfig
from swwae_zoo.data import SplitRequest, Splits, make_splits, physical_memory, seeded
from swwae_zoo.models import SWWAE, build_meta
from swwae_zoo.optim.finetune import freeze
from swwae_zoo.utils.checksums import check_sealed
from swwae_zoo.utils.distributed import World
from swwae_zoo.utils.files import user_path

__all__ = ["build_model", "input_shape", "load_initial", "memory_limit", "resolve_device", "splits_of"]


def splits_of(config: RunConfig, shape: tuple[int, int, int]) -> Splits:
    """The data of one round for images of ``shape`` (C, H, W); the seed draws labelled and validation images."""
    request = SplitRequest(
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
    return make_splits(request)


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


def build_model(config: RunConfig, num_classes: int, world: World = World()) -> SWWAE:
    """The model of ``config``, initialised from its seed or from ``init``; dropout differs between processes.

    Raises:
        ValueError: an unknown argument, a model that is not a SWWAE, or ``init`` holds no weights for it.
    """
    torch.manual_seed(config.seed)
    args = {"num_classes": num_classes, **config.model_args}
    try:
        model = timm.create_model(config.model, **args)
    except TypeError as error:  # an argument of another name, or of another type
        raise ValueError(f"model_args: {config.model} can't be built with {config.model_args}: {error}") from error
    if not isinstance(model, SWWAE):
        raise ValueError(
            f"{config.model} has no decoder, so it can't learn from unlabelled images; `swwae list` shows models "
            "that can, and --backbone wraps another"
        )
    if config.init:
        load_initial(model, config.init)
    freeze(model, config.freeze_stages, config.norm_eval)
    if not world.first:
        torch.manual_seed(seeded(config.seed, "dropout", world.rank).initial_seed())
    return model


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


def load_initial(model: SWWAE, source: str | Path) -> None:
    """Copies a run's weights into ``model``; a classifier for other classes stays as it was drawn.

    Args:
        model: changed in place.
        source: a run directory (its best/ is taken), or its best/ or last/.

    Raises:
        ValueError: no weights there, or those of another net.
    """
    source = user_path(source)
    file = next((f for f in (source / "model.safetensors", source / "best" / "model.safetensors") if f.is_file()), None)
    if file is None:
        raise ValueError(
            f"init: {source} holds no weights: expected a run directory that `swwae train` wrote, or its best/ or last/"
        )
    try:
        check_sealed(file)
        saved = safetensors.torch.load_file(file)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"init: {file} can't be read: {' '.join(str(error).split()):.200}") from error
    own = model.state_dict()
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for name in [name for name in own if name.rpartition(".")[0] in heads]:
        if name in saved and saved[name].shape != own[name].shape:
            saved[name] = own[name]
    differ = sorted(
        name
        for name in own.keys() | saved.keys()
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    )
    if differ:
        name = differ[0]
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (saved, own)]
        raise ValueError(
            f"init: {file} is of another net: {name} has {shapes[0]} there, but {shapes[1]} in this model"
            f"{f', and {len(differ) - 1} more' if len(differ) > 1 else ''}; give the model_args of that run"
        )
    model.load_state_dict(saved)
