"""Every family of timm's backbones, wrapped both ways: a sample here, all of them with `pytest -m backbones`.

The whole survey takes about half an hour of one core; each line of docs/backbones.md is rewritten as soon as its
model came through.  `SWWAE_BACKBONES=resnet18,vgg11` takes these alone, so that a survey that was broken off can go on.
"""

import copy
import fcntl
import os
import re
import warnings
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import to_2tuple
from timm.models import model_entrypoint
from torch import nn

import swwae_zoo

TABLE = Path(__file__).parents[2] / "docs" / "backbones.md"
# A stride, a max pool, a blur, an average pool, a patchify stem, space-to-depth, branches, NHWC, an attention.
SAMPLE = [
    "test_resnet",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "resnetblur18",
    "lcnet_035",
    "ese_vovnet19b_slim_dw",
    "cs3darknet_focus_s",
    "pvt_v2_b0",
    "mobilevit_xxs",
    "inception_next_atto",
    "test_mambaout",
    "starnet_s050",
]
REFUSED = ["test_vit", "gmlp_ti16_224"]


def rows() -> dict[str, list[str]]:
    """Name -> cells of the table's line."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0].strip("`"): row for row in cells if row[0].startswith("`")}


def write(cells):
    """Puts one line into the table, in the order of timm's module files; another process may be at it, too."""
    with TABLE.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        table = {**rows(), cells[0].strip("`"): cells}
        order = sorted(table, key=lambda name: (model_entrypoint(name).__module__, name))
        head = text[: text.index("| --- |")] + "| --- | --- | --- | --- | --- |\n"
        file.seek(0)
        file.truncate()
        file.write(head + "".join("| " + " | ".join(table[name]) + " |\n" for name in order))


def stem(model):
    """Kind, kernel and stride of the first three convolutions and pools."""
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    found = [
        (kind.__name__, to_2tuple(module.kernel_size), to_2tuple(module.stride))
        for module in model.modules()
        for kind in kinds
        if isinstance(module, kind)
    ]
    return tuple(found[:3])


def families():
    """Name of the smallest model of each of timm's module files, and of each distinct stem within it."""
    least = {}
    for name in timm.list_models(exclude_filters="swwae*"):
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except (RuntimeError, NotImplementedError):  # one that looks at its numbers while it is built
            model = timm.create_model(name)
        size = sum(parameter.numel() for parameter in model.parameters())
        key = (model_entrypoint(name).__module__, stem(model))
        least[key] = min(least.get(key, (size, name)), (size, name))
    return sorted(name for _, name in least.values())


def backbone(name):
    """The model for 96x96 images, or of the only size it takes."""
    for args, size in (({"img_size": 96}, 96), ({}, 96), ({}, timm.get_pretrained_cfg(name).input_size[1])):
        try:
            torch.manual_seed(0)
            model = timm.create_model(name, num_classes=10, **args).eval()
            with torch.no_grad():
                model(torch.rand(1, 3, size, size))
            return model, size
        except (TypeError, RuntimeError, AssertionError):
            continue
    raise AssertionError(name)


def takes(model, size):
    try:
        with torch.no_grad():
            model.eval()(torch.rand(2, 3, size, size))
        return True
    except (RuntimeError, AssertionError, IndexError):
        return False


def run(model, x, seed=1):
    torch.manual_seed(seed)
    return model(x)


def check(name):
    """Wraps it both ways and looks at everything that is promised; gives the cells of its line."""
    plain, size = backbone(name)
    sizes = [size] + ([97] if size == 96 and takes(plain, 97) else [])
    kinds = []
    for pools in ("tap", "insert"):
        model = swwae_zoo.wrap(copy.deepcopy(plain), pools=pools, decoder="light", img_size=size)
        kinds.append(" ".join(step.event.kind for step in model.path.steps))
        for side in sizes:
            x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side))
            if pools == "tap":
                with torch.no_grad():
                    assert torch.equal(run(model.eval().forward_swwae, x).logits, run(plain.eval(), x)), (name, side)
            out = run(model.train().forward_swwae, x)
            if pools == "tap":
                assert torch.equal(out.logits, run(plain.train(), x)), (name, side, "train")
                for key, value in plain.state_dict().items():  # the norms' statistics have moved alike
                    assert torch.equal(model.backbone.state_dict()[key], value), (name, side, key)
            assert out.reconstruction.shape == x.shape and len(out.middles) == model.num_middles
            assert all(what.shape == decoded.shape for what, decoded in out.middles)
            model.zero_grad()
            loss = out.logits.square().sum() + out.reconstruction.square().mean()
            (loss + sum((a - b).square().mean() for a, b in out.middles)).backward()
            without = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
            assert not without, (name, pools, side, without)
        assert list(model.backbone.state_dict()) == list(plain.state_dict())
    return [f"`{name}`", ", ".join(map(str, sizes)), kinds[0], "wraps", "wraps"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of some old models
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name):
    check(name)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, size = backbone(name)
    with pytest.raises(ValueError, match="work on tokens .* a convnet near its size is"):
        swwae_zoo.wrap(model, img_size=size)


def test_table_holds_the_sample_and_no_failure():
    table = rows()
    assert set(SAMPLE + REFUSED) <= set(table)
    assert all(re.fullmatch(r"wraps|refused.*", row[3]) for row in table.values())


@pytest.mark.backbones
def test_every_backbone():
    """Rewrites the table, line by line; a line that fails says why."""
    failed = []
    chosen = os.environ.get("SWWAE_BACKBONES")
    for name in chosen.split(",") if chosen else sorted({*families(), *rows()}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                cells = check(name)
            except ValueError as error:
                reason = re.search(r"\d+ of its \d+ layers work on tokens", str(error))
                cells = [f"`{name}`", "", "", *["refused: " + (reason[0] if reason else str(error))] * 2]
                if reason is None:
                    failed.append(name)
            except Exception as error:
                cells = [f"`{name}`", "", "", *[f"fails: {' '.join(str(error).split()):.80}"] * 2]
                failed.append(name)
        write(cells)
    assert not failed
