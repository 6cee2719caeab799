"""Index streams: every image once an epoch, exact resume, independent of the global generator."""

import pytest
import torch

from swwae_zoo.data import ImageSet, IndexStream, seeded


def take(stream: IndexStream, batches: int) -> torch.Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *(stream.next() for _ in range(batches))])


@pytest.mark.parametrize("n, batch_size", [(10, 5), (10, 4), (7, 3), (1, 1), (3, 8), (5, 23)])
def test_every_epoch_is_a_permutation(n, batch_size):
    stream = IndexStream(n, batch_size, seed=3)
    drawn = take(stream, 4 * n)
    assert drawn.shape == (4 * n * batch_size,) and drawn.dtype == torch.int64
    for epoch in drawn.view(-1, n):
        assert epoch.sort().values.tolist() == list(range(n))
    assert stream.epoch == 4 * batch_size


def test_epochs_and_seeds_differ():
    first, second = take(IndexStream(100, 100, seed=0), 2).view(2, 100)
    other = IndexStream(100, 100, seed=1).next()
    assert not torch.equal(first, second)
    assert not torch.equal(first, other) and not torch.equal(second, other)


def test_seeds_above_32_bits_differ():
    """torch's CPU generator alone would take these two seeds for one."""
    assert not torch.equal(IndexStream(100, 100, seed=1).next(), IndexStream(100, 100, seed=1 + 2**32).next())


@pytest.mark.parametrize("done", [0, 1, 3, 4, 11])
def test_resume_in_the_middle_of_an_epoch(done):
    unbroken = IndexStream(10, 4, seed=5)
    take(unbroken, done)
    resumed = IndexStream(10, 4, seed=5)
    take(resumed, 6)  # wherever it was before, in a later epoch too
    resumed.load_state_dict(unbroken.state_dict())
    assert unbroken.state_dict() == {"drawn": 4 * done}
    assert torch.equal(take(resumed, 9), take(unbroken, 9))


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    first, state = IndexStream(50, 20, seed=1).next(), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(first, IndexStream(50, 20, seed=1).next())
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_seeded_tells_purposes_apart():
    draws = [torch.rand(1, generator=seeded(*key)).item() for key in [(0,), (0, "a"), (0, "b"), (1, "a"), (0, "a", 1)]]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("n, batch_size", [(0, 1), (1, 0)])
def test_nothing_to_draw(n, batch_size):
    with pytest.raises(ValueError, match="expected at least 1"):
        IndexStream(n, batch_size, seed=0)


def test_images_and_labels_are_read_by_index():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2).contiguous()
    five = ImageSet("five", images, torch.arange(5) * 10, ("a",))
    read, labels = five.batch(torch.tensor([4, 0, 4]))
    assert len(five) == five.count == 5 and five.shape == (3, 2, 2)
    assert read.dtype == torch.uint8 and read.shape == (3, 3, 2, 2) and read[:, 0, 0, 0].tolist() == [4, 0, 4]
    assert labels.tolist() == [40, 0, 40]
    assert five.unlabelled().batch(torch.tensor([1]))[1] is None
