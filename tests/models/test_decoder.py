"""The mirrored decoder: what it puts where, and what it is made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swwae_zoo.layers.conv_norm import ConvFact
from swwae_zoo.layers.pooling import soft_pool2d
from swwae_zoo.models._base import Encoding
from swwae_zoo.models._decoder import DecoderStage, MirroredDecoder
from swwae_zoo.models._encoder import EncoderStage
from swwae_zoo.models._stages import Stage, stages_from_notation


def passing(conv):
    """A convolution that hands its one channel through."""
    nn.init.dirac_(conv.conv.weight)
    nn.init.zeros_(conv.conv.bias)


def one_stage(**args):
    stage = DecoderStage(
        Stage((ConvFact(1, 1, 3),), 2),
        **{"pool": "hard", "unpool": "switch", "batch_norm": False, "is_output": True, **args},
    )
    passing(stage.convs[0])
    return stage


WHAT = torch.tensor([[[[5.0, 6.0]]]])


def test_a_switch_puts_each_what_at_its_where():
    where = torch.tensor([[[[1, 2]]]], dtype=torch.uint8)
    assert one_stage()(WHAT, where, (2, 4)).tolist() == [[[[0, 5, 0, 0], [0, 0, 6, 0]]]]
    assert one_stage()(WHAT, where, (3, 5)).tolist() == [[[[0, 5, 0, 0, 0], [0, 0, 6, 0, 0], [0, 0, 0, 0, 0]]]]


def test_upsample_does_not_look_at_the_where():
    stage = one_stage(unpool="upsample")
    assert stage(WHAT, None, (2, 4)).tolist() == [[[[5, 5, 6, 6], [5, 5, 6, 6]]]]


def test_a_soft_where_between_four_pixels_gives_each_a_quarter():
    where = torch.zeros(1, 1, 2, 1, 2)
    where[0, 0, :, 0, 1] = torch.tensor([1.0, -1.0])  # right, top
    assert one_stage(pool="soft")(WHAT, where, (2, 4)).tolist() == [[[[1.25, 1.25, 0, 6], [1.25, 1.25, 0, 0]]]]


def test_only_the_output_may_be_negative():
    where = torch.zeros(1, 1, 1, 2, dtype=torch.uint8)
    assert one_stage()(-WHAT, where, (2, 4)).min() == -6
    assert one_stage(is_output=False)(-WHAT, where, (2, 4)).abs().max() == 0


@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_is_the_encoder_backwards(batch_norm):
    stages, _ = stages_from_notation("(4)5c-(6)3c-2p-(8)3c-3p-(9)1c", 3)
    decoder = MirroredDecoder(stages, batch_norm=batch_norm)
    shapes = [[tuple(conv.conv.weight.shape) for conv in stage.convs] for stage in decoder.stages]
    assert shapes == [[(4, 6, 3, 3), (3, 4, 5, 5)], [(6, 8, 3, 3)], [(8, 9, 1, 1)]]
    norms = [isinstance(conv.norm, nn.BatchNorm2d) for stage in decoder.stages for conv in stage.convs]
    assert norms == ([True, False, True, True] if batch_norm else [False] * 4)  # never on the reconstruction
    assert [conv.conv.bias is None for stage in decoder.stages for conv in stage.convs] == norms


def by_hand(decoder, encoding, kernels):
    """The decoder once more, with torch's own max_unpool2d in place of switches."""
    x, middles = encoding.features, []
    for m in (2, 1, 0):
        if m < 2:
            middles.insert(0, (encoding.whats[m], x))
        k = kernels[m]
        if k:
            h, w = x.shape[2:]
            rows, columns = torch.arange(h)[:, None] * k, torch.arange(w) * k
            where = encoding.switches[m].long()
            index = (rows + where // k) * encoding.sizes[m][1] + columns + where % k
            x = F.max_unpool2d(x, index, k, output_size=encoding.sizes[m])
        for i, conv in enumerate(decoder.stages[m].convs):
            x = F.conv2d(x, conv.conv.weight, conv.conv.bias, padding=conv.conv.padding)
            if not (m == 0 and i == len(decoder.stages[m].convs) - 1):
                x = x.relu()
    return x, tuple(middles)


def test_the_whole_against_plain_torch():
    torch.manual_seed(0)
    stages, _ = stages_from_notation("(4)5c-(6)3c-2p-(8)3c-3p-(9)1c", 3)
    encoder = [EncoderStage(stage, "hard", 100.0, False) for stage in stages]
    x = images = torch.randn(2, 3, 15, 19)
    whats, switches, sizes = [], [], []
    for stage in encoder:
        sizes.append(tuple(x.shape[2:]))
        x, where = stage.forward_switch(x)
        whats.append(x)
        switches.append(where)
    encoding = Encoding(tuple(whats), tuple(switches), tuple(sizes), x)
    decoder = MirroredDecoder(stages)
    decoding = decoder(encoding)
    assert decoding.reconstruction.shape == images.shape
    torch.testing.assert_close(tuple(decoding), by_hand(decoder, encoding, [2, 3, None]))


def test_gradients_reach_a_soft_where():
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    what, where = soft_pool2d(x, 2, 3.0)
    stage = one_stage(pool="soft").double()
    (grad,) = torch.autograd.grad(stage(what.detach(), where, (4, 4))[..., 0].sum(), x)
    assert grad.abs().max() > 0


def test_unknown_pools():
    stages, _ = stages_from_notation("(4)3c-2p", 1)
    with pytest.raises(ValueError, match="pool is 'avg': expected one of hard, soft"):
        MirroredDecoder(stages, pool="avg")
    with pytest.raises(ValueError, match="unpool is 'nearest': expected one of switch, upsample"):
        MirroredDecoder(stages, unpool="nearest")
