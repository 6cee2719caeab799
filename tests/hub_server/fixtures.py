"""What the Hub's tests share: a server and a client on each upload path, and small runs to push.

What loads torch is imported in functions: the process that only hands out the tests loads this too, before any other.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hub_server import HubServer
from hub_server.client import Client

if TYPE_CHECKING:
    import torch

TOKEN = "hf_goodtoken"
TINY = {"notation": "(4)3c-2p-(4)3c-2p-10fc"}
_seeds = itertools.count()


class OnePath:
    """A server, and a client process that uploads to it and downloads from it by LFS or by Xet.

    upload, download: the requests that carry the weights.
    """

    def __init__(self, folder: Path, use_xet: bool) -> None:
        self.folder, self.use_xet = folder, use_xet
        self.upload, self.download = (
            ("POST /cas/v1/xorbs/", "GET /xorbs/") if use_xet else ("PUT /storage/", "GET /storage/")
        )
        self.hub = HubServer(use_xet)
        self.hub.users.update({TOKEN: "ann", "hf_strangers": "bob"})
        self.env = {
            "HF_ENDPOINT": self.hub.url,
            "SWWAE_HUB_ORG": "zoo",
            "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
            "HF_XET_CLIENT_LEGACY_DIRECT_XORB_UPLOAD": "true",
            **({} if use_xet else {"HF_HUB_DISABLE_XET": "1"}),
        }
        self.client = Client(folder / "home", **self.env)

    def push(self, run: Path, name: str) -> None:
        said = self.client.swwae("push", run, "--repo", name)
        assert said.code == 0, said


@pytest.fixture(scope="session", params=["lfs", "xet"])
def one_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnePath]:
    if request.param == "xet":
        pytest.importorskip("hf_xet")
    path = OnePath(tmp_path_factory.mktemp(request.param), request.param == "xet")
    with path.hub:
        yield path
        path.client.close()
    said = path.client.stderr.read_text()
    assert TOKEN not in said and "s3cr3t" not in said


@pytest.fixture
def path(one_path: OnePath) -> Iterator[OnePath]:
    """`one_path` with no faults left over and the request log empty."""
    one_path.hub.requests.clear()
    yield one_path
    one_path.hub.faults.clear()


def make_run(
    folder: Path,
    model: str = "swwae_mnist",
    result: dict[str, Any] | None = None,
    args: dict[str, Any] | None = None,
    **config: Any,
) -> torch.nn.Module:
    """A finished run with fresh random weights, no two alike: the model itself is returned."""
    import timm
    import torch

    from swwae_zoo.config import RunConfig
    from swwae_zoo.models._data_config import describe_training_data
    from swwae_zoo.training.run_directory import RunDirectory

    args = TINY if args is None else args
    made = RunConfig(model=model, **{"steps": 1, "data": "digits", "num_labels": 50, "model_args": args, **config})
    torch.manual_seed(1000 + next(_seeds))
    net = timm.create_model(model, **args).eval()
    describe_training_data(net, contrast=made.contrast)  # as a trainer does
    directory = RunDirectory(folder)
    directory.begin(made)
    directory.save_model("last", net)
    shutil.copytree(folder / "last", folder / "best", copy_function=os.link)
    directory.write_json(
        "result.json",
        {
            "model": model,
            "steps": 1,
            "seconds": 2.0,
            "val_error": None,
            "best_val_error": None,
            "best_step": 1,
            "test_error": 12.5,
            "test_rec": 0.0123,
            **(result or {}),
        },
    )
    return net
