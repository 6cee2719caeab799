"""Every family of timm's backbones, wrapped, trained, saved and loaded: a sample here, all by `pytest -m backbones`.

The whole survey takes about an hour of one core; each line of docs/backbones.md is rewritten as soon as its model
is done.  `SWWAE_BACKBONES=resnet18,vgg11` runs these alone, so that an interrupted survey can go on.
"""

import copy
import fcntl
import os
import pickle
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
SECONDS = 20  # of the further checks of one model; those that would come later are left out
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
    """The further checks of one wrapped backbone; each returns the text of its cell and raises if it fails."""

    def __init__(self, name, folder, size):
        self.folder, self.size = folder, size
        self.model = self.build(name)
        self.x = torch.rand(3, self.model.in_chans, size, size, generator=torch.Generator().manual_seed(5))
        self.target = torch.tensor([1, 0])

    def build(self, name):
        torch.manual_seed(0)
        return timm.create_model("swwae_wrap", backbone=name, num_classes=10, decoder="light", img_size=self.size)

    def optimizer(self, model):
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4, momentum=0.9)

    def step(self, model, optimizer, seed):
        """One step of eq. (1) with two labelled images and one unlabelled."""
        torch.manual_seed(seed)
        task = SWWAETask(model.train(), Lambdas(1.0, 0.1, 0.1))
        optimizer.zero_grad()
        parts = task(self.x, self.target)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert parts["loss"].isfinite() and {"nll", "rec"} <= set(parts)

    def outputs(self, model):
        with torch.no_grad():
            return run(model.eval().forward_swwae, self.x)

    def train(self):
        """Two steps, a copy of everything, and the third."""
        optimizer = self.optimizer(self.model)
        for seed in (0, 1):
            self.step(self.model, optimizer, seed)
        self.state = copy.deepcopy((self.model.state_dict(), optimizer.state_dict()))
        self.step(self.model, optimizer, 2)

    def save(self):
        RunDirectory(self.folder).save_model("last", self.model.eval())
        again = timm.create_model(f"local-dir:{self.folder / 'last'}", pretrained=True)
        same(self.outputs(again), self.outputs(self.model))

    def resume(self):
        again = copy.deepcopy(self.model)
        again.load_state_dict(self.state[0])
        optimizer = self.optimizer(again)
        optimizer.load_state_dict(self.state[1])
        self.step(again, optimizer, 2)
        for key, value in self.model.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key

    def decay(self):
        """timm's own number of rates."""
        rates = [
            {group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5)}
            for model in (self.model, self.model.backbone)
        ]
        assert rates[0] == rates[1]
        return str(len(rates[0]))

    def freeze(self):
        model = copy.deepcopy(self.model)
        freeze(model, stages=1)
        before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
        assert before
        self.step(model, self.optimizer(model), 3)
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)

    def pickle(self):
        same(self.outputs(pickle.loads(pickle.dumps(self.model))), self.outputs(self.model))

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


def same(a, b):
    """Whether two structures of tensors are equal to the last bit."""
    leaves = [torch.utils._pytree.tree_leaves(tree) for tree in (a, b)]
    assert all(x is y is None or torch.equal(x, y) for x, y in zip(*leaves, strict=True))


def try_out(name, folder, size, strict=True):
    """Cells of the further columns; a failure is raised if strict, else it is a cell."""
    start, tried, cells = time.monotonic(), None, []
    for column in COLUMNS:
        if not strict and time.monotonic() - start > SECONDS:
            cells.append("time")
            continue
        try:
            tried = tried or Tried(name, folder, size)
            cells.append(getattr(tried, column)() or "yes")
        except Exception as error:
            if strict:
                raise
            cells.append(f"fails: {type(error).__name__} {' '.join(str(error).split()):.60}".replace("|", "/"))
    return cells


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of some old models
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name):
    check(name)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TRIED)
def test_tried(name, tmp_path):
    try_out(name, tmp_path, 224 if name == "levit_128s" else 96)


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
    torch.set_num_threads(1)
    for name in chosen.split(",") if chosen else sorted({*families(), *rows()}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                cells = check(name)
                with tempfile.TemporaryDirectory() as folder:
                    cells += try_out(name, Path(folder), int(cells[1].split(",")[0]), strict=False)
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
    assert not failed
