"""Records of a run in TensorBoard, Trackio or Weights & Biases, beside its own metrics.jsonl.

A line of metrics.jsonl is sent once: track.json in the run directory remembers, key by key, up to which step. So a
resumed run goes on in the same record, without doubled steps, and one that is tracked from its middle on is complete.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from swwae_zoo.utils.json_files import read_json, write_json
from swwae_zoo.utils.text import printable

__all__ = ["Tracker", "check_service", "open_tracker"]

PICTURES = {"views.png": "views", "reconstructions.png": "reconstructions"}  # the curves are the record itself
PROJECT = "swwae_zoo"


class Service(Protocol):
    """One service: numbers and pictures of a step; what has been given is kept when `flush` returns."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def picture(self, name: str, file: Path, step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run directory's tensorboard/: `tensorboard --logdir runs`."""

    module = "tensorboard"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def picture(self, name: str, file: Path, step: int) -> None:
        with Image.open(file) as image:
            self._writer.add_image(name, np.array(image.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A local database (TRACKIO_DIR): `trackio show --project swwae_zoo`."""

    module = "trackio"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        import trackio

        self._trackio = trackio
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the results'
            self._run = trackio.init(project=PROJECT, name=name, config=dict(config), resume="allow", embed=False)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, file: Path, step: int) -> None:
        self._run.log({name: self._trackio.Image(file)}, step=step)

    def flush(self) -> None:
        pass  # a thread of its own writes within a moment

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()  # and not the run alone, which would be finished again at exit


class Wandb:
    """Weights & Biases; with WANDB_MODE=offline in the run directory's wandb/, for `wandb sync` later."""

    module = "wandb"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        import wandb

        self._wandb = wandb
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        settings = wandb.Settings(console="off", disable_git=True, save_code=False)
        self._run = wandb.init(
            project=project, id=name, name=name, dir=str(folder), config=dict(config), resume="allow", settings=settings
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, file: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(file))}, step=step)

    def flush(self) -> None:
        pass  # a process of its own writes

    def close(self) -> None:
        self._run.finish()


SERVICES: dict[str, Any] = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb}


def check_service(name: str) -> None:
    """Refuses a service whose library is missing, before anything is read or written.

    Raises:
        ValueError: one line with what to install.
    """
    if name == "none":
        return
    try:
        importlib.import_module(SERVICES[name].module)
    except ImportError:
        raise ValueError(f"--track {name}: needs {name}: pip install 'swwae_zoo[{name}]'") from None


class Tracker:
    """What has been sent of one run, and the service that it goes to."""

    def __init__(self, service: Service, file: Path, state: dict[str, Any]):
        self._service, self._file, self._state = service, file, state
        self._step = max([0, *state["sent"].values()])

    def log(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Sends what has not been sent of these lines of metrics.jsonl."""
        sent, new = self._state["sent"], False
        for record in records:
            step = record["step"]
            values = {
                key: float(value)
                for key, value in record.items()
                if key != "step" and isinstance(value, (int, float)) and step > sent.get(key, -1)
            }
            if values:
                self._service.log(values, step)
                sent.update(dict.fromkeys(values, step))
                self._step, new = max(self._step, step), True
        if new:
            self._remember()

    def picture(self, name: str, file: Path) -> None:
        """Sends a picture of the run directory, if it is one of PICTURES and of a later step than the last."""
        key = PICTURES.get(name)
        if key is not None and self._step > self._state["sent"].get(key, -1):
            self._service.picture(key, file, self._step)
            self._state["sent"][key] = self._step
            self._remember()

    def close(self) -> None:
        self._service.close()

    def _remember(self) -> None:
        self._service.flush()
        write_json(self._file, self._state)


def open_tracker(name: str, folder: Path, config: Mapping[str, Any]) -> Tracker:
    """The record of the run in `folder`: the one it has, or a new one.

    Args:
        name: one of SERVICES.
        config: the recipe, for the service's table of runs.

    Raises:
        ValueError: the service cannot be used; one line.
    """
    check_service(name)
    file = folder / "track.json"
    state = read_json(file, dict, "remove the file, and the record begins anew")
    if state is None or state.get("service") != name or not _is_state(state):
        state = {"service": name, "id": f"{_named(folder)}-{secrets.token_hex(4)}", "sent": {}}
    try:
        service = SERVICES[name](folder, state["id"], config)
    except Exception as error:
        why = printable(" ".join(str(error).split()) or type(error).__name__, 300)
        raise ValueError(f"--track {name}: it cannot be used: {why}; leave --track out to train without") from None
    return Tracker(service, file, state)


def _is_state(state: dict[str, Any]) -> bool:
    sent = state.get("sent")
    ok = isinstance(sent, dict) and all(isinstance(step, int) for step in sent.values())
    return ok and isinstance(state.get("id"), str)


def _named(folder: Path) -> str:
    """The folder's name in letters that every service takes."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in folder.name)[:60] or "run"
