"""Every family of timm's backbones, wrapped, trained, saved and loaded: a sample here, all by `pytest -m backbones`.

Each line of docs/backbones.md is written as soon as its model is done, and a complete line is left as it is, so that
an interrupted survey goes on where it was: about 25 minutes of one core from empty cells.
`SWWAE_BACKBONES=resnet18,vgg11` tests these again, `SWWAE_BACKBONES=all` looks for new families in timm as well.
"""

import copy
import fcntl
import os
import pickle
import random
import re
import tempfile
import time
import warnings
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import to_2tuple
from timm.models import model_entrypoint
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import swwae_zoo
from swwae_zoo.loss.objective import Lambdas
from swwae_zoo.optim.finetune import freeze
from swwae_zoo.task.swwae_task import SWWAETask
from swwae_zoo.training.run_directory import RunDirectory

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
# Of these everything is tried: a max pool, NHWC, a cache in evaluation, space-to-depth, gates.
TRIED = ["test_resnet", "test_convnext", "test_efficientnet", "levit_128s", "cs3darknet_focus_s", "lcnet_035"]
COLUMNS = ("train", "save", "resume", "decay", "freeze", "pickle", "export", "modes")
SIDES = (32, 64, 96)  # of the images that the further checks train on, the first that the backbone takes
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
        names = ("backbone", "sizes", "steps", "tap", "insert", *COLUMNS)
        head = (
            text[: text.index("| backbone ")]
            + "| "
            + " | ".join(names)
            + " |\n"
            + "| --- " * (5 + len(COLUMNS))
            + "|\n"
        )
        file.seek(0)
        file.truncate()
        file.write(
            head
            + "".join("| " + " | ".join((table[name] + [""] * len(names))[: len(names)]) + " |\n" for name in order)
        )


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


class Tried:
    """The further checks of one wrapped backbone; each returns the text of its cell and raises if it fails.

    They follow each other on one model, since most of their time would go into building and copying it.
    """

    def __init__(self, name, folder, size):
        self.folder = folder
        torch.manual_seed(0)
        self.model = timm.create_model("swwae_wrap", backbone=name, num_classes=10, decoder="light", img_size=size)
        self.x = torch.rand(3, self.model.in_chans, size, size, generator=torch.Generator().manual_seed(5))
        self.target = torch.tensor([1, 0])

    def optimizer(self):
        return torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], 1e-4, momentum=0.9)

    def step(self, optimizer, seed):
        """One step of eq. (1) with two labelled images and one unlabelled."""
        torch.manual_seed(seed)
        task = SWWAETask(self.model.train(), Lambdas(1.0, 0.1, 0.1))
        optimizer.zero_grad()
        parts = task(self.x, self.target)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        assert parts["loss"].isfinite() and {"nll", "rec"} <= set(parts)

    def outputs(self, model):
        with torch.no_grad():
            return run(model.eval().forward_swwae, self.x)

    def train(self):
        """Two steps, a copy of everything, and the third."""
        optimizer = self.optimizer()
        for seed in (0, 1):
            self.step(optimizer, seed)
        self.state = copy.deepcopy((self.model.state_dict(), optimizer.state_dict()))
        self.step(optimizer, 2)

    def resume(self):
        trained = {key: value.clone() for key, value in self.model.state_dict().items()}
        optimizer = self.optimizer()
        self.model.load_state_dict(self.state[0])
        optimizer.load_state_dict(self.state[1])
        self.step(optimizer, 2)
        del self.state
        for key, value in self.model.state_dict().items():
            assert torch.equal(trained[key], value), key

    def save(self):
        RunDirectory(self.folder).save_model("last", self.model.eval())
        again = timm.create_model(f"local-dir:{self.folder / 'last'}", pretrained=True)
        self.given = self.outputs(self.model)
        same(self.outputs(again), self.given)

    def pickle(self):
        same(self.outputs(pickle.loads(pickle.dumps(self.model))), self.given)

    def decay(self):
        """timm's own number of rates."""
        rates = [
            {group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5)}
            for model in (self.model, self.model.backbone)
        ]
        assert rates[0] == rates[1]
        return str(len(rates[0]))

    def export(self):
        """Where timm's own model exports."""
        try:
            program = torch.export.export(self.model.eval(), (self.x,)).module()
        except Exception:
            try:
                torch.export.export(self.model.backbone.eval(), (self.x,))
            except Exception:
                return "as timm"
            raise
        torch.testing.assert_close(program(self.x), self.model(self.x), rtol=1e-3, atol=1e-3)

    def modes(self):
        """The trace of training captures the same maps, if no layer computes other numbers there."""
        evaluation = self.model.eval().forward_encoder(self.x)
        for module in self.model.train().modules():
            module.training = any(True for _ in module.children()) and not isinstance(module, _BatchNorm)
        training = self.model.forward_encoder(self.x)
        self.model.eval()
        assert len(self.model._traces) == 2  # none was traced again
        same(training.whats + training.switches, evaluation.whats + evaluation.switches)

    def freeze(self):
        freeze(self.model, stages=1)
        before = {name: p.detach().clone() for name, p in self.model.named_parameters() if not p.requires_grad}
        assert before
        self.step(self.optimizer(), 3)
        assert all(torch.equal(p, before[name]) for name, p in self.model.named_parameters() if name in before)


def same(a, b):
    """Whether two structures of tensors are equal to the last bit."""
    leaves = [torch.utils._pytree.tree_leaves(tree) for tree in (a, b)]
    assert all(x is y is None or torch.equal(x, y) for x, y in zip(*leaves, strict=True))


def failure(error):
    return f"fails: {type(error).__name__} {' '.join(str(error).split()):.100}".replace("|", "/")


def try_out(name, folder, sides, strict=True):
    """Cells of the further columns; a failure is raised if strict, else it is a cell."""
    for side in sides:
        try:
            tried = Tried(name, folder, side)
            tried.train()
            break
        except Exception as error:
            if strict:
                raise
            if side == sides[-1]:
                return [failure(error)] + [""] * (len(COLUMNS) - 1)
    cells = {"train": "yes"}
    for column in ("resume", "save", "pickle", "decay", "export", "modes", "freeze"):  # freeze changes the model
        try:
            cells[column] = getattr(tried, column)() or "yes"
        except Exception as error:
            if strict:
                raise
            cells[column] = failure(error)
    return [cells[column] for column in COLUMNS]


def is_complete(cells):
    return cells[3].startswith("refused") or (
        len(cells) == 5 + len(COLUMNS) and all(cells) and not {"time", "fails"} & {cell.split(":")[0] for cell in cells}
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of some old models
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name):
    check(name)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TRIED)
def test_tried(name, tmp_path):
    try_out(name, tmp_path, [224 if name == "levit_128s" else 32])


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
@pytest.mark.timeout(0)
def test_every_backbone():
    """Completes the table, line by line; a line that fails says why."""
    failed = []
    chosen = os.environ.get("SWWAE_BACKBONES", "")
    torch.set_num_threads(1)
    names = {*families(), *rows()} if chosen == "all" else set(chosen.split(",")) if chosen else set(rows())
    for name in random.sample(sorted(names), len(names)):  # so that several processes can share the work
        cells = [] if chosen and chosen != "all" else rows().get(name, [])
        if cells and is_complete(cells):
            continue
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                cells = cells[:5] if cells and cells[3:5] == ["wraps", "wraps"] else check(name)
                size = int(cells[1].split(",")[0])
                with tempfile.TemporaryDirectory() as folder:
                    cells += try_out(name, Path(folder), SIDES if size == 96 else [size], strict=False)
                failed += [name] if any(cell.startswith("fails") for cell in cells) else []
            except ValueError as error:
                reason = re.search(r"\d+ of its \d+ layers work on tokens", str(error))
                cells = [f"`{name}`", "", "", *["refused: " + (reason[0] if reason else str(error))] * 2]
                if reason is None:
                    failed.append(name)
            except Exception as error:
                cells = [f"`{name}`", "", "", *[f"fails: {' '.join(str(error).split()):.80}"] * 2]
                failed.append(name)
        write(cells)
        print(f"{time.strftime('%H:%M:%S')} {name}: {time.monotonic() - start:.0f} s", flush=True)
    assert not failed
