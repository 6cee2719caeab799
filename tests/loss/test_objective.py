"""Eq. (1) and (2) against sums written out by hand."""

import math
import re

import pytest
import torch

from swwae_zoo.loss import (
    Lambdas,
    Term,
    consistency_loss,
    l1_penalty,
    middle_losses,
    nll_loss,
    reconstruction_loss,
    register_term,
    threshold,
    total_loss,
)

NAN = torch.tensor(math.nan)


def test_nll_is_the_mean_of_minus_log_softmax():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    expected = [
        -(row[t] - math.log(sum(math.exp(v) for v in row))) for row, t in zip(logits.tolist(), (1, 0), strict=False)
    ]
    torch.testing.assert_close(nll_loss(logits, torch.tensor([1, 0])).item(), sum(expected) / 2, atol=1e-6, rtol=1e-6)


def test_nll_of_no_labelled_image_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = nll_loss(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.shape == (0, 3)


def test_reconstruction_is_the_mean_of_squares():
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    reconstruction = torch.tensor([[[[1.0, 1.0], [0.0, 3.0]]], [[[1.0, 4.0], [1.0, 1.0]]]])
    assert reconstruction_loss(reconstruction, image).item() == (1 + 4 + 9) / 8


def test_middles_are_means_of_squares_shallow_to_deep():
    shallow = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[1.0, 4.0]]]])
    deep = torch.full((2, 3, 1, 1), 2.0), torch.full((2, 3, 1, 1), -1.0)
    assert [loss.item() for loss in middle_losses([shallow, deep])] == [2.5, 9.0]
    assert middle_losses([]) == []


def test_half_precision_is_summed_in_float32():
    image = torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
    reconstruction = torch.full_like(image, 0.1)
    for loss in (
        reconstruction_loss(reconstruction, image),
        *middle_losses([(image, reconstruction)]),
        l1_penalty([reconstruction]),
    ):
        assert loss.dtype == torch.float32
    torch.testing.assert_close(reconstruction_loss(reconstruction, image), reconstruction[0, 0, 0, 0].float() ** 2)
    assert nll_loss(torch.zeros(1, 2, dtype=torch.float16), torch.tensor([0])).dtype == torch.float32


@pytest.mark.parametrize("detach", [False, True])
def test_detached_targets_pull_the_decoder_alone(detach):
    what, decoded = torch.tensor([[[[3.0]]]], requires_grad=True), torch.tensor([[[[1.0]]]], requires_grad=True)
    middle_losses([(what, decoded)], detach=detach)[0].backward()
    assert decoded.grad.item() == -4.0  # d (1 - 3)^2
    assert what.grad is None if detach else what.grad.item() == 4.0


def test_l1_is_summed_over_stages():
    assert l1_penalty([torch.tensor([[-1.0, 3.0]]), torch.tensor([[5.0]])]).item() == 2.0 + 5.0


def test_eq_1():
    lambdas = Lambdas(nll=2.0, rec=3.0, middle=(5.0, 7.0), l1=11.0)
    nll, rec, middle, l1 = (
        torch.tensor(0.1),
        torch.tensor(0.2),
        [torch.tensor(0.3), torch.tensor(0.4)],
        torch.tensor(0.5),
    )
    expected = 2 * 0.1 + 3 * 0.2 + 5 * 0.3 + 7 * 0.4 + 11 * 0.5
    assert total_loss(lambdas, {"nll": nll, "rec": rec, "middle": middle, "l1": l1}).item() == pytest.approx(expected)
    one = Lambdas(nll=1.0, rec=0.5, middle=2.0)
    assert total_loss(one, {"nll": nll, "rec": rec, "middle": middle}).item() == pytest.approx(
        0.1 + 0.5 * 0.2 + 2 * 0.7
    )


@pytest.mark.parametrize("off", ["nll", "rec", "middle", "l1"])
def test_a_term_of_weight_0_is_left_out_with_its_nan(off):
    weights = {"nll": 1.0, "rec": 1.0, "middle": 1.0, "l1": 1.0, off: 0.0}
    terms = {"nll": torch.tensor(1.0), "rec": torch.tensor(1.0), "middle": [torch.tensor(1.0)], "l1": torch.tensor(1.0)}
    assert total_loss(Lambdas(**weights), {**terms, off: [NAN] if off == "middle" else NAN}).item() == 3.0
    assert total_loss(Lambdas(**{**weights, off: 1.0}), {**terms, off: [NAN] if off == "middle" else NAN}).isnan()


def test_one_middle_of_weight_0_is_left_out():
    lambdas = Lambdas(nll=0.0, rec=0.0, middle=(0.0, 2.0))
    assert total_loss(lambdas, {"nll": NAN, "rec": NAN, "middle": [NAN, torch.tensor(3.0)]}).item() == 6.0


def test_terms_that_were_not_made():
    assert total_loss(Lambdas(rec=0.0, middle=(0.0, 0.0)), {"nll": torch.tensor(2.0)}).item() == 2.0
    nothing = total_loss(Lambdas(0.0, 0.0, 0.0), {"nll": torch.tensor(2.0)})
    assert nothing.item() == 0.0 and not nothing.requires_grad


@pytest.mark.parametrize(
    "middle, rec, runs",
    [
        (0.0, 0.0, False),
        (0.0, 1.0, True),
        (1.0, 0.0, True),
        ((0.0, 0.0), 0.0, False),
        ([0.0, 2.0], 0.0, True),
        ((), 0.0, False),
    ],
)
def test_when_the_decoder_runs(middle, rec, runs):
    assert Lambdas(rec=rec, middle=middle).runs_decoder is runs


def test_weights_per_middle():
    assert Lambdas(middle=2.0).per_middle(3) == (2.0, 2.0, 2.0)
    assert Lambdas(middle=[1.0, 2.0]).per_middle(2) == (1.0, 2.0)
    with pytest.raises(
        ValueError,
        match=re.escape(
            "lambda_middle has 2 values, but the model has 3 middles (one per stage but the topmost): "
            "give one value, or 3"
        ),
    ):
        Lambdas(middle=(1.0, 2.0)).per_middle(3)


@pytest.mark.parametrize(
    "name, value", [("nll", -1.0), ("rec", math.nan), ("middle", (1.0, -2.0)), ("middle", math.inf), ("l1", -0.1)]
)
def test_weights_must_be_numbers_from_0_up(name, value):
    with pytest.raises(ValueError, match=re.escape(f"lambda_{name} is {value}: expected finite numbers >= 0")):
        Lambdas(**{name: value})


def test_factors_multiply_weights():
    values = {"nll": torch.tensor(1.0), "rec": torch.tensor(2.0)}
    assert total_loss(Lambdas(1.0, 3.0, 0.0), values, {"rec": torch.tensor(0.5)}).item() == 1 + 3 * 0.5 * 2


def test_consistency_by_hand():
    """Images 0 and 2 pass the threshold, image 1 does not and counts 0 in the mean over all three."""
    teacher = torch.tensor([[0.97, 0.02, 0.01], [0.6, 0.3, 0.1], [0.02, 0.03, 0.95]]).log()
    strong = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]).log().requires_grad_()
    loss = consistency_loss(strong, *threshold(teacher.requires_grad_(), 0.949))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 3)
    loss.backward()
    assert teacher.grad is None and not strong.grad[1].any() and strong.grad[0].any()
    assert consistency_loss(strong[:0], *threshold(teacher[:0], 0.9)).item() == 0


def test_a_weight_for_no_term():
    with pytest.raises(ValueError, match="lambda_recc: got a weight for no known term, expected one of nll, rec, "):
        Lambdas(recc=1.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "rec"}, "term: got the name 'rec', expected an identifier other than nll, rec"),
        ({"name": "a b"}, "term: got the name 'a b', expected an identifier"),
        ({"images": "some"}, "term mine: images: got 'some', expected of 'labeled', 'unlabeled', 'all'"),
        ({"needs": frozenset({"luck"})}, "term mine: needs: got 'luck', expected of 'encoding'"),
        ({"schedule": "wild"}, "term mine: schedule: got 'wild', expected of 'constant', 'ramp', 'fade'"),
    ],
)
def test_terms_that_can_not_be_registered(change, message):
    term = Term("mine", "mine", "all", lambda step: step.logits.sum())
    with pytest.raises(ValueError, match=re.escape(message)):
        register_term(term._replace(**change))
