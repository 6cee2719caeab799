"""The Stacked What-Where Auto-Encoder (arXiv:1506.02351) in one file of plain PyTorch, to be read from top to bottom.

    python examples/swwae_in_one_file.py [STEPS]

Trains a small convnet on 50 labelled digits of scikit-learn's: alone, and with a decoder that reconstructs 1,247 digits
without labels as well. Prints both test errors for three sets of labels, after half a minute on one core. On these tiny
images they are equal within their spread; in recipes/mnist_nodrop.toml reconstruction takes off 4 points of 13.

Shapes: B images, C channels, H x W pixels, and h x w values after pooling, with H = 2 h and W = 2 w.
"""

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def pool(x):
    """Max pooling in 2x2 windows, (B, C, H, W) -> what, the maximum, and where, its place 0 to 3, both (B, C, h, w)."""
    windows = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4)  # (B, C, h, w, 2, 2)
    return windows.flatten(4).max(4)


def unpool(what, where):
    """The inverse of pool: each what back in its place, zeros elsewhere, (B, C, h, w) -> (B, C, H, W)."""
    windows = (what[..., None] * F.one_hot(where, 4)).unflatten(4, (2, 2))  # (B, C, h, w, 2, 2)
    return windows.transpose(3, 4).flatten(4).flatten(2, 3)


class SWWAE(nn.Module):
    """An encoder of stages (convolution, pool, ReLU), a classifier on top, and a decoder that mirrors the encoder."""

    def __init__(self, chans=(1, 32, 64), kernel_size=3, img_size=8, num_classes=10):
        super().__init__()
        pairs = list(zip(chans, chans[1:], strict=False))
        features = chans[-1] * (img_size // 2 ** len(pairs)) ** 2
        self.encoder = nn.ModuleList(nn.Conv2d(i, o, kernel_size, padding="same") for i, o in pairs)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, num_classes))
        self.decoder = nn.ModuleList(nn.Conv2d(o, i, kernel_size, padding="same") for i, o in pairs)

    def encode(self, x):
        """Images -> what and where of each stage. The what goes up, the where goes sideways to the decoder."""
        whats, wheres = [], []
        for conv in self.encoder:
            x, where = pool(conv(x))
            x = F.relu(x)  # equal to pooling after the ReLU, on a map of a quarter the size
            whats.append(x)
            wheres.append(where)
        return whats, wheres

    def decode(self, x, wheres):
        """The topmost what and every where -> reconstruction, and the decoder's copy of each what below the topmost."""
        copies = []
        for m in reversed(range(len(wheres))):
            x = self.decoder[m](unpool(x, wheres[m]))
            if m > 0:  # the last convolution makes the image and has no ReLU
                x = F.relu(x)
                copies.insert(0, x)
        return x, copies


def swwae_loss(model, images, target, lambda_rec, lambda_middle):
    """Eq. (1): NLL of the labelled images, the first len(target), and the reconstruction losses of all images."""
    whats, wheres = model.encode(images)
    reconstruction, copies = model.decode(whats[-1], wheres)
    nll = F.cross_entropy(model.classifier(whats[-1][: len(target)]), target)
    rec = F.mse_loss(reconstruction, images)
    middle = sum(F.mse_loss(copy, what) for copy, what in zip(copies, whats, strict=False))
    return nll + lambda_rec * rec + lambda_middle * middle


def train_and_test(images, target, steps, lambda_rec, lambda_middle, seed):
    """Trains on 5 labelled images of each digit and 1,297 to reconstruct; returns the error (%) on the other 500."""
    torch.manual_seed(seed)
    test, unlabeled = torch.randperm(len(images)).split([500, len(images) - 500])
    labeled = torch.cat([unlabeled[target[unlabeled] == digit][:5] for digit in range(10)])
    model = SWWAE()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = labeled[torch.randint(len(labeled), (32,))]
        more = unlabeled[torch.randint(len(unlabeled), (64,))] if lambda_rec > 0 else batch[:0]
        loss = swwae_loss(model, images[torch.cat([batch, more])], target[batch], lambda_rec, lambda_middle)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.eval().classifier(model.encode(images[test])[0][-1])
    return 100 * (logits.argmax(1) != target[test]).float().mean().item()


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    digits = load_digits()
    images, target = torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target)  # (1797, 1, 8, 8)
    for name, lambda_rec, lambda_middle in (("labels alone", 0.0, 0.0), ("SWWAE", 1.0, 0.1)):
        errors = [train_and_test(images, target, steps, lambda_rec, lambda_middle, seed) for seed in range(3)]
        print(f"{name:12}", *(f"{error:5.1f}" for error in errors), f"  mean {sum(errors) / 3:.1f} % of test images")
