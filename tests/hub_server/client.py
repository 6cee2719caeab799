"""A process with the real client in it, which does what it is told, a line of JSON at a time.

huggingface_hub reads its environment when it is imported: so there is a process for each environment, kept for many
tests.  torch takes seconds to import and reads nothing: so those processes are forked from one that has done that, and
nothing else.  `time.sleep` in them is short, so that giving up takes no minutes.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one line on stderr with which a command ends that could not do its work."""
        assert self.code == 2 and self.out == "" and self.err.count("\n") == 1, self
        assert self.err.startswith("error: "), self
        return self.err.strip()


class Nursery:
    """The process that the others are forked from."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hub-clients-")
        self.address = f"{self._folder.name}/socket"
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == b"ready\n"
        atexit.register(self.close)

    def close(self) -> None:
        with self._process:  # closes its pipes, at which it ends
            pass
        self._folder.cleanup()


_nursery: list[Nursery] = []


class Client:
    """The process, seen from the test.

    Args:
        home: its HF_HOME; what the process itself prints goes to home/stderr.
        env: further environment.
    """

    def __init__(self, home: Path, **env: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.stderr = home, home / "stderr"
        self.stderr.touch()  # there from the start, whether or not the process has come to open it
        if not _nursery:
            _nursery.append(Nursery())
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(_nursery[0].address)
        self._answers = self._socket.makefile("r")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SWWAE_", "HUGGING"))}
        self.send(
            env={**clean, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **env},
            stderr=str(self.stderr),
        )

    def tell(self, **command: Any) -> Any:
        """Sends a command and waits for the answer."""
        self.send(**command)
        return self.answer()

    def send(self, **command: Any) -> None:
        self._socket.sendall(json.dumps(command).encode() + b"\n")

    def answer(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise AssertionError(f"the client died: {self.stderr.read_text()}")
        return json.loads(line)

    def swwae(self, *args: object, token: str | None = "hf_goodtoken") -> Said:
        return Said(**self.tell(do="swwae", args=[str(arg) for arg in args], token=token))

    def load(self, name: str, token: str | None = "hf_goodtoken", **kwargs: Any) -> dict[str, Any]:
        """`timm.create_model(name, pretrained=True, **kwargs)`: what it is, or "error" and its type."""
        return self.tell(do="load", name=name, kwargs={"pretrained": True, **kwargs}, token=token)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()  # at which it ends


# --- in the process -----------------------------------------------------------------------------------


def digest(model: Any) -> str:
    import hashlib

    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha256.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sha256.hexdigest()


def describe(model: Any) -> dict[str, Any]:
    """Digests of the weights and of what the model makes of a fixed image."""
    import hashlib

    import torch

    chans, height, width = model.pretrained_cfg["input_size"]
    x = torch.rand(2, getattr(model, "in_chans", chans), height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = model.eval()(x)
    outputs = out if isinstance(out, list) else [out]
    return {
        "weights": digest(model),
        "shapes": [list(output.shape) for output in outputs],
        "type": type(model).__name__,
        "logits": hashlib.sha256(b"".join(output.numpy().tobytes() for output in outputs)).hexdigest(),
        "cfg": {key: model.pretrained_cfg.get(key) for key in ("num_classes", "notes", "file")},
    }


def obey(command: dict[str, Any]) -> Any:
    os.environ.pop("HF_TOKEN", None)
    if command.get("token"):
        os.environ["HF_TOKEN"] = command["token"]
    if command["do"] != "run":
        import huggingface_hub.utils.logging  # its handler keeps the stderr it finds: not a runner's, which is closed

        import swwae_zoo  # noqa: F401

        huggingface_hub.utils.logging.get_verbosity()
    if command["do"] == "swwae":
        from typer.testing import CliRunner

        from swwae_zoo.cli.main import app

        result = CliRunner().invoke(app, command["args"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return {"code": result.exit_code, "out": result.stdout, "err": result.stderr}
    if command["do"] == "load":
        import timm

        try:
            return describe(timm.create_model(command["name"], **command["kwargs"]))
        except Exception as error:
            return {"error": str(error), "type": type(error).__name__}
    return runpy_function(command)


def runpy_function(command: dict[str, Any]) -> Any:
    """Runs `code`, in which `answer` is what to give back."""
    names: dict[str, Any] = {}
    exec(command["code"], names)
    return names["answer"]


def serve(connection: socket.socket) -> None:
    """Obeys until the connection is closed."""
    import time
    import warnings

    with connection, connection.makefile("rw") as lines:
        first = json.loads(lines.readline())
        os.environ.clear()
        os.environ.update(first["env"])
        log = os.open(first["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        warnings.filterwarnings("error", module="swwae_zoo")  # the client's own uploads warn of httpx
        sleep = time.sleep
        time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # type: ignore[assignment]
        for line in lines:
            print(json.dumps(obey(json.loads(line))), file=lines, flush=True)


def main(address: str) -> None:
    import matplotlib.figure  # noqa: F401
    import numpy  # noqa: F401
    import torchvision  # noqa: F401  and torch; none of them imports huggingface_hub

    assert not [name for name in sys.modules if name.startswith(("huggingface_hub", "timm", "swwae_zoo"))]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    serve(connection)
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                finally:
                    os._exit(0)
            connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
