"""The folder a run leaves behind: configuration, provenance, metrics, models and the checkpoint to resume from.

    config.toml       the complete recipe, so that `swwae train --recipe DIR/config.toml` runs it again
    run.json          command, commit, versions, machine; under "resumed" those of each resumption
    metrics.jsonl     one JSON object a line: losses as they come, errors at each evaluation
    last/, best/      model.safetensors + config.json: timm.create_model("local-dir:DIR/last", pretrained=True)
    checkpoint.pt     everything `--resume` needs
    track.json        how far a tracking service has been told (`--track`)
    result.json       errors of the last model; present once the run is finished
    report.html       a page with all of it, refreshed at each evaluation

Several rounds, or a round and its twin, lie below as seed0/, seed0-twin/, ..., with all results in results.json.

Every file is written atomically: a kill at any moment leaves the old file or the new one. Checkpoint, weights,
config.toml, the tables of the JSON files and the lines of metrics.jsonl carry their checksum. One process at a time
writes here.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from timm.models._hub import save_config_for_hf
from torch import nn

from swwae_zoo.config import RunConfig, sealed_toml
from swwae_zoo.training.track import Tracker, open_tracker
from swwae_zoo.utils.checksums import is_sealed_zip, save_sealed, seal_zip
from swwae_zoo.utils.files import atomic_write, user_path
from swwae_zoo.utils.json_files import read_json, sealed_line, unsealed, write_json
from swwae_zoo.utils.provenance import provenance

try:
    import fcntl
except ImportError:  # Windows: two writers are not noticed there
    fcntl = None

__all__ = ["Elsewhere", "RunDirectory"]

FILES = (
    "metrics.jsonl",
    "checkpoint.pt",
    "result.json",
    "results.json",
    "curves.png",
    "reconstructions.png",
    "views.png",
    "report.html",
    "run.json",
    "track.json",
    *(f"{folder}/{name}" for folder in ("last", "best") for name in ("model.safetensors", "config.json")),
    ".writer",
    "config.toml",
)  # the last to go: while it stands, the folder still counts as a run's


class RunDirectory:
    """One run's folder, or the folder above the rounds of one.  Nothing is written before `begin`.

    Args:
        path: the folder.
        resume: go on with the run that is in it.
        force: drop the run that is in it.

    Raises:
        ValueError: it holds a run already and neither was asked for, or both were, or it is a file.
    """

    def __init__(self, path: str | Path, resume: bool = False, force: bool = False):
        self.path, self.resume, self.force = user_path(path), resume, force
        self._held: int | None = None
        self._tracker: Tracker | None = None
        if resume and force:
            raise ValueError("got --resume and --force: the one goes on with a run, the other drops it; choose one")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file: give another --out")
        self._check_free()

    def _check_free(self) -> None:
        holds_run = (self.path / "config.toml").exists() or any(self._rounds())
        if holds_run and not (self.resume or self.force):
            raise ValueError(
                f"{self.path} already holds a run: --resume goes on with it, --force starts over, or give another --out"
            )

    def begin(self, config: RunConfig, job: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """Make the folder, drop what an earlier run or a killed one left, and write config.toml and run.json.

        Args:
            job: the launch it belongs to, by which `begun_by` knows it again.
            facts: what else run.json is to hold.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        self._check_free()  # again: another process may have come and gone meanwhile
        if not self.resume:
            self._clear()
        (self.path / ".writer").write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        for partial in (*self.path.glob(".*.part"), *self.path.glob("*/.*.part")):
            partial.unlink(missing_ok=True)
        with atomic_write(self.path / "config.toml") as part:
            part.write_text(sealed_toml(config), encoding="utf-8")
        begun, now = self.read_json("run.json"), provenance() | ({"job": job} if job else {}) | dict(facts or {})
        self.write_json("run.json", {**begun, "resumed": [*begun.get("resumed", []), now]} if begun else now)

    def _lock(self) -> None:
        """Makes this process the only one that writes here, until `release` or its end, however it ends.

        Raises:
            ValueError: another process is writing.
        """
        if fcntl is None:
            return
        self._held = os.open(self.path, os.O_RDONLY)
        writer = self.path / ".writer"
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            self._held = None
            who = writer.read_text(encoding="utf-8")[:100] if writer.is_file() else "another process"
            raise ValueError(f"{self.path} is being written by {who}: wait for it, or give another --out") from None

    def track(self, config: RunConfig) -> None:
        """What is logged and drawn from now on goes to the recipe's tracking service too, after what it lacks.

        Raises:
            ValueError: the service cannot be used.
        """
        if config.track != "none" and not (self.path / "result.json").exists():
            self._tracker = open_tracker(config.track, self.path, asdict(config))

    def end_tracking(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None

    def release(self) -> None:
        """Lets others write here."""
        self.end_tracking()
        if self._held is not None:
            (self.path / ".writer").unlink(missing_ok=True)
            os.close(self._held)
            self._held = None

    @staticmethod
    def begun_by(path: str | Path, job: str) -> bool:
        """Whether the run in ``path`` was begun, or last taken up again, by this launch."""
        try:
            run = read_json(Path(path) / "run.json", dict, "start over with --force")
        except ValueError:
            return False
        return run is not None and [run, *run.get("resumed", [])][-1].get("job") == job

    def _rounds(self) -> Iterator[Path]:
        """The folders of the rounds below: seed0, seed0-twin, ..."""
        return (
            path.parent
            for path in self.path.glob("seed*/config.toml")
            if re.fullmatch(r"seed\d+(-twin)?", path.parent.name)
        )

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that someone may have put there."""
        for folder in (*self._rounds(), self.path):
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            for events in (folder / "tensorboard").glob("events.out.tfevents.*"):
                events.unlink()
            for emptied in (
                folder / "last",
                folder / "best",
                folder / "tensorboard",
                *([folder] if folder != self.path else []),
            ):
                if emptied.is_dir() and not any(emptied.iterdir()):
                    emptied.rmdir()

    def write_json(self, name: str, content: Any) -> None:
        write_json(self.path / name, content)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The table in one of the run's files, or None where it is not there yet.

        Raises:
            ValueError: it holds something else, or is not as it was written; one line with the file's name.
        """
        return read_json(self.path / name, dict, "restore the file, or start over with --force")

    # --- metrics ----------------------------------------------------------------------------------

    def log(self, **record: float | int | str) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            OSError: it can't be written; the message names the file.
        """
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(sealed_line(record))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if self._tracker is not None:
            self._tracker.log([record])

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that a kill cut short, or that is not as it was written, is left out."""
        path = self.path / "metrics.jsonl"
        records = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            record = unsealed(record) if isinstance(record, dict) else None
            if record is not None and isinstance(record.get("step"), int):
                records.append(record)
        return records

    def cut_metrics(self, step: int) -> None:
        """Forget lines behind ``step``: a resumed run writes them again."""
        kept = [line for line in self.metrics() if line.get("step", 0) <= step]
        with atomic_write(self.path / "metrics.jsonl") as part:
            part.write_text("".join(map(sealed_line, kept)), encoding="utf-8")
        if self._tracker is not None:
            self._tracker.log(kept)

    # --- models and checkpoints -------------------------------------------------------------------

    def save_model(self, name: str, model: nn.Module) -> None:
        """Write ``model`` to last/ or best/ as timm's local-dir: reads it."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        if not (folder / "config.json").exists():  # it says what to build, which does not change within a run
            with atomic_write(folder / "config.json") as part:
                save_config_for_hf(model, str(part))
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        with atomic_write(folder / "model.safetensors") as part:
            save_sealed(tensors, part, (folder / "config.json").read_bytes())

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        with atomic_write(self.path / "checkpoint.pt") as part:
            torch.save(state, part)
            seal_zip(part)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first.

        Raises:
            ValueError: it can't be read, or is not as it was written.
        """
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        damaged = f"{path} is not as it was written (its checksum differs): it is damaged or of another program; "
        if not (path.is_file() and is_sealed_zip(path)):
            raise ValueError(damaged + "start over with --force, or from last/ with --init")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(damaged + "start over with --force") from error
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            raise ValueError(
                f"{path}: got a {type(state).__name__} without a step, expected a checkpoint of swwae train"
            )
        return state

    def draw(self, name: str, draw: Callable[[Path], None]) -> None:
        """Write a picture: ``draw`` saves a PNG to the path it is given."""
        with atomic_write(self.path / name) as part:
            draw(part)
        if self._tracker is not None:
            self._tracker.picture(name, self.path / name)


class Elsewhere(RunDirectory):
    """Run directory of a non-zero rank: every write is a no-op."""

    def __init__(self, path: str | Path):
        self.path, self.resume = user_path(path), False
        self._held, self._tracker = None, None

    def begin(self, config: RunConfig, job: str = "", facts: Mapping[str, Any] | None = None) -> None:
        pass

    def track(self, config: RunConfig) -> None:
        pass

    def write_json(self, name: str, content: Any) -> None:
        pass

    def log(self, **record: float | int | str) -> None:
        pass

    def cut_metrics(self, step: int) -> None:
        pass

    def save_model(self, name: str, model: nn.Module) -> None:
        pass

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        pass

    def draw(self, name: str, draw: Callable[[Path], None]) -> None:
        pass
