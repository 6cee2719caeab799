"""What can't be wrapped: one clear line that says what was found and what to do."""

import pytest
import torch
from torch import nn

import swwae_zoo


class Own(nn.Module):
    """A stride, a max pool, logits, and a layer that is never run."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.body, self.fc, self.spare = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Linear(8, 4), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class TwoInputs(nn.Module):
    def forward(self, x, mask):
        return x * mask


def wrap_own(**args):
    return swwae_zoo.wrap(Own(), **{"in_chans": 1, "img_size": 28, **args})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: swwae_zoo.wrap("vit_tiny_patch16_224"), ["tokens", "convnet near its size"]),
        (lambda: swwae_zoo.wrap("mixer_s32_224"), ["tokens", "convnet near its size"]),
        (lambda: swwae_zoo.wrap("samvit_base_patch16", img_size=224), ["tokens", "convnet near its size"]),
        (lambda: swwae_zoo.wrap(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), img_size=16), ["(10,)", "no map"]),
        (lambda: swwae_zoo.wrap(TwoInputs()), ["needs x, mask", "fills in mask"]),
        (lambda: swwae_zoo.wrap(nn.Conv2d(3, 4, 3, padding=1), img_size=32), ["nothing shrinks", "32x32"]),
        (lambda: wrap_own(stages=["stem", "boddy"]), ["'boddy'", "did you mean body?", "stem, body, fc"]),
        (lambda: wrap_own(stages=[None]), ["no module None", "stem, body, fc"]),
        (lambda: wrap_own(stages="stem,fc"), ["'fc'", "(B, 4)", "expected a map"]),
        (lambda: wrap_own(stages=["spare"]), ["'spare' is not run"]),
        (lambda: wrap_own(in_chans=3), ["Own", "3x28x28", "in_chans"]),
        (lambda: swwae_zoo.wrap("vgg11", img_size=8), ["vgg11", "3x8x8", "img_size=32"]),
        (lambda: swwae_zoo.wrap("resnet999"), ["resnet999"]),
        (lambda: swwae_zoo.wrap("resnet18.nope"), ["resnet18.nope", "tag"]),
        (lambda: swwae_zoo.wrap("local-dir:/nowhere"), ["/nowhere", "not found"]),
        (lambda: swwae_zoo.wrap("resnet18", pools="tapp"), ["'tapp'", "tap, insert"]),
        (lambda: swwae_zoo.wrap("resnet18", decoder="big"), ["'big'", "mirror, light"]),
        (lambda: swwae_zoo.wrap("resnet18", decoder_depth=0), ["decoder_depth"]),
        (lambda: swwae_zoo.wrap("resnet18", in_chans=0), ["in_chans: got 0"]),
        (lambda: swwae_zoo.wrap("resnet18", num_classes=-1), ["num_classes: got -1"]),
        (lambda: swwae_zoo.wrap("resnet18", img_size="96"), ["img_size: got '96'"]),
        (lambda: swwae_zoo.wrap("test_resnet", shape=3), ["shape"]),
        (lambda: swwae_zoo.wrap(Own(), drop_rate=0.1), ["drop_rate", "by its name"]),
        (lambda: swwae_zoo.wrap("swwae_mnist"), ["swwae_mnist is a SWWAE"]),
        (lambda: swwae_zoo.wrap(wrap_own()), ["is a SWWAE"]),
        (lambda: swwae_zoo.wrap(3), ["expected a timm name or a module"]),
    ],
)
def test_bad_input(make, words, caplog):
    with torch.device("meta"), pytest.raises(ValueError) as caught:
        make()
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value
    assert not caplog.records  # torch logs what fake tensors can't do, with a traceback


def test_a_size_that_only_the_second_probe_refuses_leaves_no_log(caplog):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 16 * 16, 10))
    assert swwae_zoo.wrap(net, img_size=32).path.img_size == (32, 32)
    assert not caplog.records
