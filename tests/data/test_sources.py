"""The named sets, read from small files in the exact formats they are published in; no network but loopback.

Only the checksums that torchvision holds the published files to are changed.
"""

import functools
import gzip
import http.server
import socket
import tarfile
import threading

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from published_formats import labels_of, md5, pixels, write_cifar, write_mnist, write_stl10, write_svhn

from swwae_zoo.data import load_images
from swwae_zoo.data import types as data_images
from swwae_zoo.data.readers import download

ANIMALS = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx")


@pytest.fixture(autouse=True)
def nowhere_to_download(monkeypatch, tmp_path):
    """A closed loopback port in place of every server, and no data folder of this machine's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWWAE_DATA", raising=False)
    for dataset in (tv.MNIST, tv.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", [url])
    for dataset in (tv.CIFAR10, tv.CIFAR100, tv.STL10):
        monkeypatch.setattr(dataset, "url", url + dataset.filename)
    monkeypatch.setattr(tv.SVHN, "split_list", {k: [url + f, f, m] for k, (_, f, m) in tv.SVHN.split_list.items()})


def same(image_set, images, labels):
    assert image_set.images.dtype == torch.uint8 and image_set.images.is_contiguous()
    assert np.array_equal(image_set.images.numpy(), images)
    if labels is None:
        assert image_set.labels is None
    else:
        assert image_set.labels.dtype == torch.int64 and image_set.labels.tolist() == labels.tolist()


def test_digits():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert train.images.shape == (1297, 1, 32, 32) and test.images.shape == (500, 1, 32, 32)
    assert test.labels.bincount().tolist() == [50] * 10 and train.labels.bincount().min() > 120
    assert train.images.min() == 0 and train.images.max() == 255 and train.class_names == tuple("0123456789")
    assert not {image.numpy().tobytes() for image in test.images} & {image.numpy().tobytes() for image in train.images}
    same(load_images("digits", "unlabeled"), train.images.numpy(), None)


def test_digits_are_the_small_ones_enlarged():
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).float() * 255 / 16
    parts = [load_images("digits", split).images[:, 0].float() for split in ("train", "test")]
    shrunk = torch.nn.functional.avg_pool2d(torch.cat(parts)[:, None], 4)[:, 0]
    nearest = torch.cdist(shrunk.flatten(1), small.flatten(1)).min(1)
    assert nearest.indices.unique().numel() >= 1790  # each from its own, but for near-twins
    assert nearest.values.max() / 8 < 40  # grey levels, root mean square, of 255


@pytest.mark.parametrize("spec, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_family(tmp_path, monkeypatch, spec, folder):
    train, test = (pixels(20, 28, 28), labels_of(20)), (pixels(10, 28, 28), labels_of(10)[::-1].copy())
    write_mnist(tmp_path / folder / "raw", train, test)
    same(load_images(spec, "train", data_dir=tmp_path), train[0][:, None], train[1])
    same(load_images(spec, "test", data_dir=str(tmp_path)), test[0][:, None], test[1])
    monkeypatch.setenv("SWWAE_DATA", str(tmp_path))
    same(load_images(spec, "unlabeled", data_dir=""), train[0][:, None], None)
    assert len(load_images(spec, "train").class_names) == 10


def test_svhn(tmp_path, monkeypatch):
    sizes = {"train": 11, "test": 10, "extra": 13}
    parts = {part: (pixels(n, 32, 32, 3), labels_of(n) + 1) for part, n in sizes.items()}
    write_svhn(tmp_path, monkeypatch, **parts)
    images = {part: array.transpose(0, 3, 1, 2) for part, (array, _) in parts.items()}
    labels = {part: each % 10 for part, (_, each) in parts.items()}  # ten is written for zero
    same(load_images("svhn", "train", data_dir=tmp_path), images["train"], labels["train"])
    same(load_images("svhn:extra", "test", data_dir=tmp_path), images["test"], labels["test"])
    both = np.concatenate([images["train"], images["extra"]])
    both_labels = np.concatenate([labels["train"], labels["extra"]])
    same(load_images("svhn:extra", "train", data_dir=tmp_path), both, both_labels)
    same(load_images("svhn:extra", "unlabeled", data_dir=tmp_path), both, None)


def test_stl10(tmp_path, monkeypatch):
    train, test = (pixels(12, 3, 96, 96), labels_of(12)), (pixels(10, 3, 96, 96), labels_of(10))
    unlabeled, folds = pixels(7, 3, 96, 96), [[(k + i) % 12 for i in range(4)] for k in range(10)]
    write_stl10(tmp_path, monkeypatch, train, test, unlabeled, folds)
    same(load_images("stl10", "train", data_dir=tmp_path), *train)
    same(load_images("stl10", "unlabeled", data_dir=tmp_path), unlabeled, None)
    for fold in (0, 9):
        spec = f"stl10:fold={fold}"
        same(load_images(spec, "train", data_dir=tmp_path), train[0][folds[fold]], train[1][folds[fold]])
        same(load_images(spec, "test", data_dir=tmp_path), *test)
        same(load_images(spec, "unlabeled", data_dir=tmp_path), unlabeled, None)


@pytest.mark.parametrize("spec", ["cifar10", "cifar100"])
def test_cifar(tmp_path, monkeypatch, spec):
    dataset, key = (tv.CIFAR10, "labels") if spec == "cifar10" else (tv.CIFAR100, "fine_labels")
    batches = {name: (pixels(6, 3, 32, 32), labels_of(6)) for name, _ in dataset.train_list + dataset.test_list}
    write_cifar(tmp_path, monkeypatch, dataset, batches, key, [*ANIMALS])
    parts = [batches[name] for name, _ in dataset.train_list]
    train = load_images(spec, "train", data_dir=tmp_path)
    same(train, np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
    same(load_images(spec, "test", data_dir=tmp_path), *batches[dataset.test_list[0][0]])
    assert train.class_names == ANIMALS


def test_grey_is_pillows_grey(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(data_images, "_CHUNK", 7)
    batches = {name: (pixels(4, 3, 32, 32), labels_of(4)) for name, _ in tv.CIFAR10.train_list + tv.CIFAR10.test_list}
    write_cifar(tmp_path, monkeypatch, tv.CIFAR10, batches, "labels", list("0123456789"))
    colour = load_images("cifar10", "train", data_dir=tmp_path)
    grey = load_images("cifar10", "train", data_dir=tmp_path, in_chans=1).images
    assert grey.shape == (20, 1, 32, 32)
    for i in range(20):
        assert np.array_equal(grey[i, 0], Image.fromarray(colour.images[i].permute(1, 2, 0).numpy()).convert("L"))
    with pytest.raises(ValueError, match="cifar10 has 3 channels and the model takes 5"):
        load_images("cifar10", "train", data_dir=tmp_path, in_chans=5)


def test_grey_repeated_as_rgb():
    rgb = load_images("digits", "test", in_chans=3).images
    assert rgb.shape == (500, 3, 32, 32) and rgb.eq(rgb[:, :1]).all()


@pytest.mark.parametrize("spec", ["mnist", "fashion_mnist", "svhn", "svhn:extra", "stl10", "cifar10", "cifar100"])
def test_no_data_and_no_network(tmp_path, spec, capfd):
    where = tmp_path / "deep" / "down"
    with pytest.raises(ValueError) as caught:
        load_images(spec, "train", data_dir=where)
    message = str(caught.value)
    assert "\n" not in message and f"is not in {where} (missing " in message and "refused" in message
    assert "--data-dir or SWWAE_DATA" in message and message.startswith(spec.split(":")[0])
    assert not (tmp_path / "deep").exists() and capfd.readouterr() == ("", "")


def test_nothing_is_left_beside_other_files(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "train_32x32.mat").write_bytes(b"")  # there, and not what it should be
    with pytest.raises(ValueError, match=r"svhn \(train\) in .* damaged .* delete or replace train_32x32.mat"):
        load_images("svhn", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"is not in .* \(missing cifar-10-batches-py/data_batch_1, .*--data-dir"):
        load_images("cifar10", "train", data_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt", "train_32x32.mat"]
    assert socket.getdefaulttimeout() is None


def test_the_default_folder_is_in_the_home_cache(tmp_path):
    with pytest.raises(ValueError, match=f"is not in {tmp_path / 'home' / '.cache' / 'swwae_zoo'} "):
        load_images("mnist", "train")


def test_truncated_mnist_file(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw", (pixels(20, 28, 28), labels_of(20)), (pixels(10, 28, 28), labels_of(10)))
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for damaged in (whole[:5000], whole[:7], b"", bytes(5000)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="files of mnist in .* cannot be read or are damaged .*: delete or repl"):
            load_images("mnist", "train", data_dir=tmp_path)


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path/served`."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(served))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_download_once_then_from_the_folder(tmp_path, monkeypatch, server, capfd):
    served, url = server
    train, test = (pixels(20, 28, 28), labels_of(20)), (pixels(10, 28, 28), labels_of(10))
    write_mnist(tmp_path / "plain", train, test)
    for path in (tmp_path / "plain").iterdir():
        (served / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(tv.MNIST, "mirrors", [url])
    monkeypatch.setattr(tv.MNIST, "resources", [(file, md5(served / file)) for file, _ in tv.MNIST.resources])
    where = tmp_path / "deep" / "down"
    same(load_images("mnist", "train", data_dir=where), train[0][:, None], train[1])
    assert [path.name for path in where.iterdir()] == ["MNIST"] and capfd.readouterr() == ("", "")
    monkeypatch.setattr(tv.MNIST, "mirrors", [])
    same(load_images("mnist", "test", data_dir=where), test[0][:, None], test[1])


def test_download_that_arrives_damaged(tmp_path, monkeypatch, server):
    served, url = server
    (served / tv.CIFAR10.filename).write_bytes(b"half of it")
    monkeypatch.setattr(tv.CIFAR10, "url", url + tv.CIFAR10.filename)
    with pytest.raises(ValueError, match="could not be downloaded .*corrupted"):
        load_images("cifar10", "train", data_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_archive_put_into_the_folder_is_unpacked(tmp_path, monkeypatch):
    dataset, where = tv.CIFAR10, tmp_path / "data"
    batches = {name: (pixels(3, 3, 32, 32), labels_of(3)) for name, _ in dataset.train_list + dataset.test_list}
    write_cifar(tmp_path, monkeypatch, dataset, batches, "labels", [*ANIMALS])
    where.mkdir()
    with tarfile.open(where / dataset.filename, "w:gz") as tar:
        tar.add(tmp_path / dataset.base_folder, arcname=dataset.base_folder)
    monkeypatch.setattr(dataset, "tgz_md5", md5(where / dataset.filename))
    same(load_images("cifar10", "test", data_dir=where), *batches["test_batch"])
    assert sorted(path.name for path in where.iterdir()) == [dataset.base_folder, dataset.filename]
    assert not (where / dataset.filename).is_symlink()


def test_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(tv.MNIST, "mirrors", [f"http://127.0.0.1:{listening.getsockname()[1]}/"])
        with pytest.raises(ValueError, match="could not be downloaded .*timed out"):
            load_images("mnist", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("minst", "unknown data set 'minst'; did you mean 'mnist'.*digits, mnist, .*folder:PATH, npz:PATH"),
        ("SVHN", "did you mean 'svhn'"),
        ("nothing_alike", r"unknown data set 'nothing_alike' \(known: digits, "),
        ("digits:extra", "digits takes nothing after a colon"),
        ("cifar10:extra", "cifar10 takes nothing after a colon"),
        ("svhn:more", "expected svhn or svhn:extra"),
        ("stl10:fold=10", "with K of 0 to 9"),
        ("stl10:3", "with K of 0 to 9"),
        ("", "unknown data set ''"),
    ],
)
def test_unknown_specs(tmp_path, spec, message):
    with pytest.raises(ValueError, match=message):
        load_images(spec, "train", data_dir=tmp_path)


def test_a_path_without_folder(tmp_path):
    with pytest.raises(ValueError, match=f"for that folder write 'folder:{tmp_path}'"):
        load_images(str(tmp_path), "train")
    with pytest.raises(ValueError, match="got split 'valid', expected one of train, val, test, unlabeled"):
        load_images("digits", "valid")
