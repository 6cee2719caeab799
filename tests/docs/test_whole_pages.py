"""Every command and snippet of the pages runs, in a folder that holds what they name; long ones with fewer steps.

A new command needs nothing here, as long as it is `swwae`, `torchrun` or `python -c`; another program needs a line in
NOT_RUN with its reason, and a name that a page takes as given a file in `workspace`, or a value in GIVEN.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torchvision.datasets as tv
from doc_pages import PAGES, ROOT, Block, blocks
from hub_server import HubServer, Repo
from hub_server.client import Client
from hub_server.fixtures import make_run
from PIL import Image
from published_formats import labels_of, pixels, write_cifar, write_mnist
from timm.models._hub import save_config_for_hf

# What is added to a command, by how it begins, so that it takes seconds.
SHORTER = {
    "swwae train": "--steps 2 --num-val 40 --rounds 1 --no-twin --device cpu --force",
    "swwae tune": "--steps 2 --trials 2 --num-val 8 --device cpu",
    "swwae reproduce": "--quick --rounds 1 --device cpu",
    "torchrun": "--steps 2 --num-val 40 --no-twin --device cpu",
}
# Commands that are not run, by how they begin.
NOT_RUN = {
    "git clone": "the address is the reader's",
    "make demo": "it installs everything; what it then runs is run below",
    "source": "the environment is there already",
    "pip install": "it fetches packages",
    "export HF_ENDPOINT": "the client has the address of the tests' server",
    "torchrun --nnodes": "it takes two machines; benchmarks/two_hosts.sh runs it on two network namespaces",
    "--search": "values of a flag, which tests/experiments/test_tune.py searches by",
}
# Names that a page's snippets take as given.
GIVEN = {
    "docs/deploy.md": "import numpy; images = numpy.zeros((2, 3, 64, 64), numpy.uint8)",
    "docs/own-images.md": "import torch; more = torch.randint(256, (40, 3, 64, 64), dtype=torch.uint8)\n"
    "images, labels = more, torch.arange(40) % 4",
    "docs/wrapping.md": "import torch, swwae_zoo; images = torch.rand(2, 3, 224, 224)\n"
    "my_convnet = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 3, 2, 1),"
    " torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4))",
}
STEPS = r"\bsteps=\d+", "steps=2"  # of a snippet, likewise
ENVIRONMENT = {"HF_HUB_DISABLE_XET": "1", "SWWAE_HUB_ORG": "my-group", "OMP_NUM_THREADS": "1"}


def draw(folder: Path, count: int, suffix: str = "png", side: int = 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(folder)))
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
        image.save(folder / f"{number}.{suffix}")


def put(hub: HubServer, model: str, repo: str, folder: Path) -> Path:
    """A model of timm's with random weights, on the server; gives the file of its weights."""
    net, weights = timm.create_model(model), folder / "model.safetensors"
    folder.mkdir()
    save_config_for_hf(net, str(folder / "config.json"))
    safetensors.torch.save_file(net.state_dict(), weights)
    hub.repos[repo] = Repo(repo)
    hub.repos[repo].put(**{path.name: path.read_bytes() for path in folder.iterdir()})
    return weights


class Reader:
    """A reader of the pages: a process in a folder of its own, with the tests' Hub."""

    def __init__(self, home: Path, hub: HubServer, cifar: str) -> None:
        self.home = home
        self.env = {**ENVIRONMENT, "HF_ENDPOINT": hub.url, "SWWAE_DATA": str(home / "data")}
        self.client = Client(home / "hf", **self.env)
        self.python(f"import os; os.chdir({str(home)!r})\n{cifar}")

    def python(self, code: str) -> None:
        caught = f"import traceback\ntry:\n    exec({code!r}, {{}})\n    answer = ''\n"
        caught += "except Exception:\n    answer = traceback.format_exc()\n"  # else the client would be gone
        error = self.client.tell(do="run", code=caught, token="hf_goodtoken")
        assert not error, error

    def shell(self, line: str) -> None:
        reason = next((reason for begin, reason in NOT_RUN.items() if line.startswith(begin)), "")
        if reason:
            return
        words = shlex.split(line, comments=True)
        words += next((shlex.split(more) for begin, more in SHORTER.items() if line.startswith(begin)), [])
        words = [word for each in words for word in self.matches(each)]
        if words[0] == "swwae":
            said = self.client.swwae(*words[1:])
            assert said.code == 0, (line, said)
        elif words[:2] == ["python", "-c"]:
            self.python(words[2])
        else:
            assert words[0] == "torchrun", f"{line}: how to run it stands nowhere; see NOT_RUN"
            env = {**os.environ, **self.env}
            launcher = [sys.executable, "-m", "torch.distributed.run"]  # what torchrun is
            done = subprocess.run([*launcher, *words[1:]], cwd=self.home, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    def matches(self, word: str) -> list[str]:
        """The files of a pattern, as a shell has it."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.glob(word)) if "*" in word else [word]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    home, hub = tmp_path_factory.mktemp("reader"), HubServer()
    hub.users["hf_goodtoken"] = "ann"
    for number, name in enumerate(("cat", "dog", "fox", "owl")):
        for folder in ("pets", "birds", "photos", "imagenette96/train", "imagenette96/val"):
            count = 40 if "train" in folder else 30  # of which README.md takes 25 of each class
            draw(home / folder / f"{name}", count, side=48 + 16 * (number % 2) if folder == "pets" else 96)
    for digit in range(10):
        draw(home / "digits" / str(digit), 6, side=28)
    draw(home / "more", 40)
    draw(home / "new", 3, "jpg")
    for name in ("7.png", "a.png", "b.png", "new.jpg", "more/cat.jpg"):
        Image.new("RGB", (28, 28), "gray").save(home / name)
    write_mnist(home / "data/MNIST/raw", *((pixels(count, 28, 28), labels_of(count)) for count in (6000, 200)))
    with hub, pytest.MonkeyPatch.context() as patch:
        parts = {
            name: (pixels(400, 3, 32, 32), labels_of(400))
            for name, _ in (*tv.CIFAR10.train_list, *tv.CIFAR10.test_list)
        }
        write_cifar(home / "data", patch, tv.CIFAR10, parts, "labels", [f"class {i}" for i in range(10)])
        lists = {name: getattr(tv.CIFAR10, name) for name in ("train_list", "test_list", "meta")}
        cifar = "import torchvision.datasets as tv\n" + "\n".join(f"tv.CIFAR10.{k} = {v!r}" for k, v in lists.items())
        lite = put(hub, "tf_efficientnet_lite0", "timm/tf_efficientnet_lite0.in1k", home / "lite0")
        put(hub, "resnet50", "timm/resnet50.a1_in1k", home / "resnet50")
        os.link(lite, home / "FILE.safetensors")
        make_run(home / "runs/mnist-100")
        make_run(home / "runs/svhn-1000", "swwae_svhn")
        reading = Reader(home, hub, cifar)
        reading.shell(
            "swwae train --backbone resnet18 --img-size 64 --data folder:pets --unlabeled folder:more --out runs/pets"
        )
        reading.shell("swwae train --data digits --labels 50 --steps 200 --out runs/first")
        reading.shell("swwae push runs/mnist-100 --repo ORG/NAME")
        reading.shell("swwae pull ORG/NAME --out mnist")
        reading.shell("swwae export runs/pets")
        yield reading
        reading.client.close()


def run(block: Block, reader: Reader) -> None:
    if block.language == "python":
        reader.python(f"{GIVEN.get(block.page, '')}\n{re.sub(*STEPS, block.text)}")
    elif block.language == "":
        for line in block.commands:
            reader.shell(line)
    else:
        assert block.language in ("text", "bibtex"), f"{block}: a language that nothing runs"


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", ALL, ids=lambda block: f"{block.page}:{block.line}")
def test_it_runs(block: Block, reader: Reader) -> None:
    run(block, reader)


def test_make_demo_trains_the_demo() -> None:
    done = subprocess.run(["make", "--no-print-directory", "-n", "demo"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ".venv/bin/swwae train --recipe demo --force", done
