import math

import pytest
import torch

from swwae_zoo.loss import TeacherStatistics, softmatch, threshold

PROBABILITIES = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.4, 0.25, 0.35], [0.6, 0.1, 0.3]])


def statistics(classes, doubt, variance, shares=(1 / 3, 1 / 3, 1 / 3)):
    made = TeacherStatistics(torch.tensor(shares))
    made.classes, made.doubt, made.variance = torch.tensor(classes), torch.tensor(doubt), torch.tensor(variance)
    return made


def test_threshold_is_reached_at_equality():
    target, weight = threshold(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), 0.5)
    assert target.tolist() == [0, 0] and weight.tolist() == [1, 1]
    assert threshold(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), 0.6)[1].tolist() == [0, 1]


def test_softmatch_by_hand():
    """Class 0 is said three times as often as the others: all but image 0 become another class."""
    made = statistics((0.6, 0.2, 0.2), 0.4, 0.04)
    scaled = [[0.9, 0.3, 0.0], [0.5, 0.9, 0.6], [0.4, 0.75, 1.05], [0.6, 0.3, 0.9]]
    expected = torch.tensor([[value / sum(row) for value in row] for row in scaled])
    torch.testing.assert_close(made.aligned(PROBABILITIES.log()), expected)
    target, weight = softmatch(PROBABILITIES.log(), made)
    assert target.tolist() == [0, 1, 2, 2]
    doubts = [1 - 0.9 / 1.2, 1 - 0.9 / 2, 1 - 1.05 / 2.2, 1 - 0.9 / 1.8]
    by_hand = [math.exp(-(max(0, doubt - 0.4) ** 2) / (2 * 0.1**2)) for doubt in doubts]
    assert weight.tolist() == pytest.approx(by_hand, rel=1e-4) and by_hand[0] == 1 > by_hand[3] > by_hand[1]


def test_shares_that_the_teacher_has_already_change_no_class():
    shares = (0.6, 0.2, 0.2)
    target, _ = softmatch(PROBABILITIES.log(), statistics(shares, 0.4, 0.04, shares))
    assert target.tolist() == PROBABILITIES.argmax(1).tolist()


def test_moving_means():
    """The mean of all steps at first, then with a decay of 0.99."""
    made, steps = TeacherStatistics(torch.full((3,), 1 / 3)), 150
    rows = torch.rand(steps, 4, 3, generator=torch.Generator().manual_seed(0)).softmax(2)
    classes, doubt, spread = torch.full((3,), 1 / 3), torch.zeros(()), torch.zeros(())
    for step in range(steps):
        aligned = rows[step] / classes / (rows[step] / classes).sum(1, keepdim=True)
        made.update(made.measure(rows[step].log()))
        rate = max(1 / (step + 1), 0.01)
        classes += rate * (rows[step].mean(0) - classes)
        doubt += rate * ((1 - aligned.amax(1)).mean() - doubt)
        spread += rate * (aligned.amax(1).var(unbiased=False) - spread)
        if step == 9:
            torch.testing.assert_close(made.classes, rows[:10].mean((0, 1)))
    torch.testing.assert_close(made.classes, classes)
    torch.testing.assert_close(made.doubt, doubt)
    torch.testing.assert_close(made.variance, spread, rtol=1e-3, atol=1e-7)


def test_a_batch_without_images_changes_no_mean():
    made = TeacherStatistics(torch.full((3,), 1 / 3))
    before = made.state_dict()
    made.update(made.measure(torch.zeros(0, 3)))
    assert made.steps == 1 and all(torch.equal(before[k], v) for k, v in made.state_dict().items() if k != "steps")


@pytest.mark.parametrize("sure", [0.0, 1e4])
def test_a_teacher_that_never_or_always_doubts(sure):
    made = TeacherStatistics(torch.full((3,), 1 / 3))
    logits = sure * torch.eye(3)
    for _ in range(20):
        made.update(made.measure(logits))
    target, weight = softmatch(logits, made)
    assert weight.tolist() == [1, 1, 1]
    assert target.tolist() == logits.argmax(1).tolist()
