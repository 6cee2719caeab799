"""A process with the real client in it, which does what it is told, a line of JSON at a time.

huggingface_hub reads its environment when it is imported, and torch takes seconds to import: so a process is started
for each environment and kept for many tests.  Its `time.sleep` is short, so that giving up takes no minutes.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
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


class Client:
    """The process, seen from the test.

    Args:
        home: its HF_HOME; what the process itself prints (on descriptor 2) goes to home/stderr.
        env: further environment.
    """

    def __init__(self, home: Path, **env: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.stderr = home, home / "stderr"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SWWAE_", "HUGGING"))}
        with open(self.stderr, "w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**clean, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **env})

    def tell(self, **command: Any) -> Any:
        """Sends a command and waits for the answer."""
        self.send(**command)
        return self.answer()

    def send(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(20)
            raise AssertionError(f"the client died: {self.stderr.read_text()}")
        return json.loads(line)

    def swwae(self, *args: object, token: str | None = "hf_goodtoken") -> Said:
        return Said(**self.tell(do="swwae", args=[str(arg) for arg in args], token=token))

    def load(self, name: str, token: str | None = "hf_goodtoken", **kwargs: Any) -> dict[str, Any]:
        """`timm.create_model(name, pretrained=True, **kwargs)`: what it is, or "error" and its type."""
        return self.tell(do="load", name=name, kwargs={"pretrained": True, **kwargs}, token=token)

    def close(self) -> None:
        with self._process:  # closes its pipes, at which it ends
            pass


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
    return {"weights": digest(model), "shapes": [list(output.shape) for output in outputs], "type": type(model).__name__,
            "logits": hashlib.sha256(b"".join(output.numpy().tobytes() for output in outputs)).hexdigest(),
            "cfg": {key: model.pretrained_cfg.get(key) for key in ("num_classes", "notes", "file")}}


def obey(command: dict[str, Any]) -> Any:
    os.environ.pop("HF_TOKEN", None)
    if command.get("token"):
        os.environ["HF_TOKEN"] = command["token"]
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


def main() -> None:
    import time
    import warnings

    warnings.filterwarnings("error", module="swwae_zoo")  # the client's own uploads warn of httpx
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # type: ignore[assignment]
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        import swwae_zoo  # noqa: F401

        for line in sys.stdin:
            print(json.dumps(obey(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
