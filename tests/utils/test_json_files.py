"""JSON files of a run, and the recipe beside a checkpoint: what was changed or cut off is not believed."""

import json
import random
from pathlib import Path

import pytest
from flips import damaged

from swwae_zoo.training.run_directory import RunDirectory
from swwae_zoo.utils.json_files import read_json, sealed_line, unsealed, write_json

RESULT = {
    "model": "swwae_mnist",
    "val_error": 1.25,
    "test_error": None,
    "name": "ä",
    "deep": {"a": [1, 2.5]},
    "n": 10**6,
}


@pytest.mark.parametrize("content", [RESULT, [RESULT, {"seed": 1, "twin": True}]], ids=["table", "list"])
def test_flips_and_truncations_are_refused(tmp_path: Path, content: object) -> None:
    path, kind = tmp_path / "result.json", type(content)
    write_json(path, content)  # type: ignore[arg-type]
    assert read_json(path, kind, "") == content
    believed = 0
    for raw in damaged(path.read_bytes(), flips=300, cuts=100):
        path.write_bytes(raw)
        try:
            believed += read_json(path, kind, "restore it") != content  # white space and \u escapes hold nothing
        except ValueError as error:
            assert "result.json" in str(error) and "\n" not in str(error)
    assert believed == 0


def test_a_figure_changed_by_hand_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", RESULT)
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace("1.25", "0.25"))
    with pytest.raises(ValueError, match=r"result.json is not as it was written .*: start over"):
        read_json(tmp_path / "result.json", dict, "start over")
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    with pytest.raises(ValueError, match="is not as it was written"):
        read_json(tmp_path / "result.json", dict, "start over")


def test_damaged_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": step / 7} for step in range(40)]
    whole = "".join(map(sealed_line, lines)).encode()
    assert [unsealed(json.loads(line)) for line in whole.splitlines()] == lines
    rng = random.Random(1)
    for _ in range(300):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        (tmp_path / "metrics.jsonl").write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        kept = RunDirectory(tmp_path, resume=True).metrics()
        assert len(kept) >= 38 and all(line in lines for line in kept)
