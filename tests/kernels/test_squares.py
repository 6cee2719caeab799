"""The fused mean square against torch's own arithmetic."""

import pytest
import torch
from instruction_sets import LIBRARIES

from swwae_zoo.kernels import native, squares
from swwae_zoo.loss import reconstruction_loss

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="installed without a C compiler")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(params=LIBRARIES or ["none"])
def instruction_set(request, monkeypatch):
    monkeypatch.setattr(native, "_library", lambda: LIBRARIES[request.param])


def pair(shape, of_a, of_b, layout=torch.contiguous_format):
    torch.manual_seed(0)
    return (torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_() for dtype in (of_a, of_b))


@pytest.mark.parametrize("of_a", DTYPES)
@pytest.mark.parametrize("of_b", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7, 11), (2, 64, 33, 31)])
def test_value_and_gradients(of_a, of_b, shape, instruction_set):
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    a, b = pair(shape, of_a, of_b, layout)
    assert squares.takes(a, b)
    loss, exact = reconstruction_loss(a, b), (a.double() - b.double()).square().mean()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for mine, right in zip(torch.autograd.grad(3 * loss, (a, b)), torch.autograd.grad(3 * exact, (a, b)), strict=True):
        assert mine.dtype == right.dtype and mine.stride() == a.stride()
        torch.testing.assert_close(mine, right, rtol=0.01 if mine.dtype == torch.bfloat16 else 1e-5, atol=1e-9)


def test_infinities_and_nans_are_kept(instruction_set):
    for value in (float("inf"), float("nan"), -float("inf")):
        a, b = torch.zeros(40, dtype=torch.bfloat16), torch.zeros(40, dtype=torch.bfloat16)
        a[7] = value
        assert not squares.mean_square(a, b).isfinite()
        assert not squares.slopes(a, b, torch.ones(()), (True, False))[0].isfinite().all()


def test_what_it_does_not_take():
    a, b = pair((2, 3, 4, 5), *DTYPES)
    others = (b[:1], b.half(), b.contiguous(memory_format=torch.channels_last), b.to("meta"))
    for other in others:
        assert not squares.takes(a, other)
        with pytest.raises(ValueError, match=r"^squares: got "):
            squares.mean_square(a, other)
    assert not squares.takes(a[:, :0], b[:, :0])
    assert reconstruction_loss(a, others[2]).item() == pytest.approx((a - b.float()).square().mean().item(), rel=1e-5)


def test_second_derivatives():
    a, b = pair((2, 3, 4, 5), torch.float32, torch.float32)
    (slope,) = torch.autograd.grad(reconstruction_loss(a, b), a, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), a)
    torch.testing.assert_close(second, torch.full_like(a, 2 / a.numel()))
