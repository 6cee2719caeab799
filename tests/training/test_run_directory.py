"""The run directory: whole files or none, a full disk, and what --force may remove."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from matplotlib.figure import Figure

from swwae_zoo.config import RunConfig
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.utils.files import atomic_write
from swwae_zoo.utils.json_files import read_json

CONFIG = RunConfig(steps=1)


def begun(path: Path, **control: bool) -> RunDirectory:
    directory = RunDirectory(path, **control)
    directory.begin(CONFIG)
    directory.release()  # most tests here go on to other writers
    return directory


def test_atomic_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part.parent == tmp_path
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), RuntimeError("another")])
def test_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_process_that_dies_while_it_writes_leaves_the_old_file(tmp_path: Path, child: Callable[..., Any]) -> None:
    run = tmp_path / "run"
    directory = begun(run)
    directory.save_checkpoint({"step": 1})
    process = child(
        """
from pathlib import Path
from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.utils.json_files import read_json
real_save = torch.save
def half(state, path):
    real_save(state, path)
    os.truncate(path, os.path.getsize(path) // 2)
    os._exit(9)
torch.save = half
RunDirectory(RUN, resume=True).save_checkpoint({"step": 2, "big": torch.zeros(1000)})
""",
        RUN=str(run),
    )
    process.join(300)
    assert process.exitcode == 9
    assert len(list(run.glob(".checkpoint.pt.*.part"))) == 1
    resumed = begun(run, resume=True)
    assert resumed.load_checkpoint() == {"step": 1}
    assert not list(run.glob(".*")), "the half of the dead process stays forever"


WRITERS = {
    "text": lambda path: path.write_text("x" * 100_000),
    "torch.save": lambda path: torch.save({"x": torch.zeros(100_000)}, path),
    "savefig": lambda path: Figure().savefig(path, format="png"),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_write(path) as part:
        os.symlink("/dev/full", part)
        WRITERS[writer](part)
    assert caught.value.filename == str(path) and path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_while_a_model_is_saved(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(65536)
    directory = begun(disk / "run")
    timm_model = timm.create_model("swwae_mnist", notation="(4)3c-2p-10fc")  # 42 kB: once, not twice
    directory.save_model("last", timm_model)
    before = (disk / "run" / "last" / "model.safetensors").read_bytes()
    with pytest.raises(OSError, match="No space left on device") as caught:
        directory.save_model("last", timm_model)
    assert caught.value.filename.endswith("last/model.safetensors")
    assert (disk / "run" / "last" / "model.safetensors").read_bytes() == before
    assert sorted(os.listdir(disk / "run" / "last")) == ["config.json", "model.safetensors"]


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    directory.save_model("last", timm.create_model("swwae_mnist", notation="(4)3c-2p-10fc"))
    modes = [(tmp_path / name).stat().st_mode for name in ("config.toml", "last/config.json", "last/model.safetensors")]
    assert len(set(modes)) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_metrics_on_a_full_disk(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="No space left on device") as caught:
        RunDirectory(tmp_path).log(step=1)
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    directory.log(step=1, loss=0.5)
    directory.log(step=2, loss=0.25)
    whole = (tmp_path / "metrics.jsonl").read_text()
    for cut in range(1, len('{"step": 2, "loss": 0.25}\n')):
        (tmp_path / "metrics.jsonl").write_text(whole[:-cut])
        assert directory.metrics()[0] == {"step": 1, "loss": 0.5}
        assert directory.metrics()[1:] in ([], [{"step": 2, "loss": 0.25}])
    directory.cut_metrics(1)
    directory.log(step=2, loss=3.0)
    assert directory.metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 3.0}]


def test_nothing_is_written_before_begin(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(ValueError, match="already holds a run: --resume goes on with it, --force starts over"):
        RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="choose one"):
        RunDirectory(tmp_path, resume=True, force=True)
    with pytest.raises(ValueError, match="is a file"):
        RunDirectory(tmp_path / "config.toml")
    (tmp_path / "above" / "seed3-twin").mkdir(parents=True)
    (tmp_path / "config.toml").rename(tmp_path / "above" / "seed3-twin" / "config.toml")
    RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="already holds a run"):
        RunDirectory(tmp_path / "above")


def test_force_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    root = begun(tmp_path)
    root.write_json("results.json", [])
    for name in ("seed0", "seed0-twin", "seed12"):
        directory = begun(tmp_path / name)
        directory.write_json("result.json", {"test_error": 1.0})
        directory.save_checkpoint({"step": 1})
        (tmp_path / name / "last").mkdir()
        (tmp_path / name / "last" / "config.json").write_text("{}")
    mine = [tmp_path / "notes.txt", tmp_path / "seed12" / "notes.txt", tmp_path / "seeds" / "config.toml"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    begun(tmp_path, force=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"config.toml", "run.json", "notes.txt", "seed12/notes.txt", "seeds/config.toml"}
    assert not (tmp_path / "seed0").exists()


def test_run_json_keeps_how_it_began(tmp_path: Path) -> None:
    begun(tmp_path)
    first = read_json(tmp_path / "run.json", dict, "")
    assert (
        set(first) == {"command", "commit", "versions", "machine"} and first["versions"]["torch"] == torch.__version__
    )
    begun(tmp_path, resume=True)
    second = read_json(tmp_path / "run.json", dict, "")
    assert len(second.pop("resumed")) == 1 and second == first


def test_a_checkpoint_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    directory = begun(tmp_path)
    assert directory.load_checkpoint() is None
    directory.save_checkpoint({"step": 1, "x": torch.zeros(100)})
    path = tmp_path / "checkpoint.pt"
    for broken in (path.read_bytes()[:300], b"", b"no checkpoint"):
        path.write_bytes(broken)
        with pytest.raises(
            ValueError, match="checkpoint.pt is not as it was written.*start over with --force"
        ) as caught:
            directory.load_checkpoint()
        assert "\n" not in str(caught.value)


def test_one_writer(tmp_path: Path, child: Callable[..., Any]) -> None:
    """A second process is refused with the first one's name, and let in when that one is gone, however it ended."""
    run = tmp_path / "run"
    begun(run)
    held = RunDirectory(run, resume=True)
    held.begin(RunConfig(steps=1))
    with pytest.raises(ValueError, match=rf"run is being written by process {os.getpid()} on "):
        RunDirectory(run, force=True).begin(RunConfig(steps=1))
    held.release()
    process = child(
        """
from swwae_zoo.config import RunConfig
from swwae_zoo.training.run_directory import RunDirectory
RunDirectory(RUN, resume=True).begin(RunConfig(steps=1))
os._exit(9)
""",
        RUN=str(run),
    )
    process.join(300)
    assert process.exitcode == 9
    again = RunDirectory(run, resume=True)
    again.begin(RunConfig(steps=1))
    again.release()
    assert not (run / ".writer").exists()


def test_a_run_that_came_meanwhile(tmp_path: Path) -> None:
    late = RunDirectory(tmp_path / "run")
    begun(tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        late.begin(RunConfig(steps=1))


def test_flipped_bits_and_cut_off_checkpoints(tmp_path: Path) -> None:
    directory = begun(tmp_path / "run")
    directory.save_checkpoint({"step": 3, "weights": torch.arange(50.0), "random": torch.get_rng_state()})
    path = tmp_path / "run" / "checkpoint.pt"
    whole, draw = path.read_bytes(), random.Random(0)
    assert directory.load_checkpoint()["step"] == 3
    torch.load(path, weights_only=True)  # still a file that torch reads
    for _ in range(300):
        bit = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="is not as it was written"):
            directory.load_checkpoint()
    for _ in range(100):
        path.write_bytes(whole[: draw.randrange(len(whole))])
        with pytest.raises(ValueError, match="is not as it was written"):
            directory.load_checkpoint()


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    directory = begun(tmp_path / "run")
    directory.save_checkpoint([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got a list without a step, expected a checkpoint"):
        directory.load_checkpoint()
