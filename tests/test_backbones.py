"""Every family of timm's backbones, wrapped both ways: a sample here, all of them with `pytest -m backbones`.

The whole survey takes an hour of one core; each line of docs/backbones.md is rewritten as its model comes through.
"""
import copy
import re
import warnings
from pathlib import Path

import pytest
import timm
import torch

import swwae_zoo

TABLE = Path(__file__).parent.parent / "docs" / "backbones.md"
SAMPLE = [  # a stride, a max pool, a blur, an average pool, a patchify stem, space-to-depth, branches, NHWC, an attention
    "test_resnet", "test_convnext", "test_efficientnet", "test_nfnet", "resnetblur18", "lcnet_035", "ese_vovnet19b_slim_dw",
    "cs3darknet_focus_s", "pvt_v2_b0", "mobilevit_xxs", "inception_next_atto", "test_mambaout", "starnet_s050",
]
REFUSED = ["test_vit", "gmlp_ti16_224"]


def rows() -> dict[str, list[str]]:
    """Name -> cells of the table's line."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0].strip("`"): row for row in cells if row[0].startswith("`")}


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
    except (RuntimeError, AssertionError):
        return False


def check(name):
    """Wraps it both ways and looks at everything that is promised; gives the cells of its line."""
    plain, size = backbone(name)
    sizes = [size] + ([97] if size == 96 and takes(plain, 97) else [])
    kinds = []
    for pools in ("tap", "insert"):
        model = swwae_zoo.wrap(copy.deepcopy(plain), pools=pools, decoder="light", img_size=size)
        kinds.append(" ".join(step.event.kind for step in model.ladder.steps))
        for side in sizes:
            x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side))
            model.backbone.load_state_dict(plain.state_dict())  # a training pass moves the norms' statistics
            if pools == "tap":
                for training in (False, True):
                    torch.manual_seed(1)
                    with torch.no_grad():
                        expected = copy.deepcopy(plain).train(training)(x)
                    torch.manual_seed(1)
                    with torch.no_grad():
                        got = copy.deepcopy(model).train(training).forward_swwae(x).logits
                    assert torch.equal(got, expected), (name, side, training)
            out = model.train().forward_swwae(x)
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
    failed, table = [], rows()
    for name, row in table.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                cells = check(name)
            except ValueError as error:
                cells = [f"`{name}`", "", "", *[f"refused: {re.split(r': |;', str(error))[1].split(', and')[0]}"] * 2]
                if "tokens" not in str(error):
                    failed.append(name)
            except Exception as error:
                cells = [f"`{name}`", "", "", *[f"fails: {' '.join(str(error).split()):.80}"] * 2]
                failed.append(name)
        text = TABLE.read_text(encoding="utf-8")
        TABLE.write_text(text.replace("| " + " | ".join(row) + " |", "| " + " | ".join(cells) + " |"), encoding="utf-8")
    assert not failed
