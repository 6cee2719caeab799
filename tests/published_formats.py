"""Small files in the exact formats that MNIST, SVHN, STL-10 and CIFAR are published in."""

import hashlib
import pickle

import numpy as np
import scipy.io
import torchvision.datasets as tv

NUMBERS = np.random.default_rng(0)


def pixels(*shape):
    return NUMBERS.integers(0, 256, shape, dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def write_mnist(folder, train, test):
    folder.mkdir(parents=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))


def write_svhn(root, monkeypatch, **parts):
    sums = dict(tv.SVHN.split_list)
    for part, (images, labels) in parts.items():
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
        sums[part] = [sums[part][0], path.name, md5(path)]
    monkeypatch.setattr(tv.SVHN, "split_list", sums)


def write_stl10(root, monkeypatch, train, test, unlabeled, folds):
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, images in (("train", train[0]), ("test", test[0]), ("unlabeled", unlabeled)):
        (folder / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())  # column-major
    for name, labels in (("train", train[1]), ("test", test[1])):
        (folder / f"{name}_y.bin").write_bytes((labels + 1).tobytes())
    (folder / "fold_indices.txt").write_text("".join(" ".join(f"{i}" for i in fold) + " \n" for fold in folds))
    for attribute in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(tv.STL10, attribute)]
        monkeypatch.setattr(tv.STL10, attribute, files)


def write_cifar(root, monkeypatch, dataset, batches, key, names):
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        (folder / name).write_bytes(pickle.dumps({"data": images.reshape(len(images), -1), key: labels.tolist()}))
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps({dataset.meta["key"]: names}))
    for attribute in ("train_list", "test_list"):
        files = [[name, md5(folder / name)] for name, _ in getattr(dataset, attribute)]
        monkeypatch.setattr(dataset, attribute, files)
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(folder / dataset.meta["filename"])})


def labels_of(n, classes=10):
    return np.arange(n, dtype=np.uint8) % classes
