"""The page of a run: what stands on it, at any time of the run, and what a browser makes of it."""

import csv
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server.fixtures import TINY, make_run
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from swwae_zoo.cli.main import app
from swwae_zoo.config import RunConfig
from swwae_zoo.data import ImageSet
from swwae_zoo.publish.judgement import Judgement, judge
from swwae_zoo.publish.report import Pages, write_report
from swwae_zoo.training.rounds import train_rounds
from swwae_zoo.utils.json_files import sealed_line
from swwae_zoo.utils.precision import Autocast

SCRIPT = "<script>document.title='pwned'</script>"
HOSTILE = f"{SCRIPT}\"'&\n<img src=http://127.0.0.1:9/x onerror=document.title='pwned'>"
FILE = "<img src=x onerror=\"document.title='pwned'\">{number}.png"


def config(out: Path, **given: Any) -> RunConfig:
    tiny = {"data": "digits", "num_labels": 50, "num_val": 60, "unlabeled": "none", "steps": 4, "eval_every": 2}
    return RunConfig(**{"model_args": TINY, **tiny, "batch_size": 16, "labeled_batch": 16, "out": str(out), **given})


def train(out: Path, **given: Any) -> str:
    train_rounds(config(out, **given), observe=Pages())
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds and their twins."""
    out = tmp_path_factory.mktemp("runs") / "two"
    train(out, rounds=2, twin=True, eval_every=4)
    return out


def test_a_training_leaves_pages(trained: Path) -> None:
    top, one = ((trained / name / "report.html").read_text() for name in ("", "seed1"))
    for name in ("seed0", "seed0-twin", "seed1", "seed1-twin"):
        assert f'href="{name}/report.html"' in top and (trained / name / "report.html").is_file()
    assert "4 of 4 nets are finished" in top and re.search(r"paired gain; better in \d of 2", top)
    assert "Validation error over steps" in top and "Losses by part" in top
    for part in ("Error by class", "Calibration", "Surest errors", "Least sure images", "Reconstructions", "Finished."):
        assert part in one, part
    assert one.count("<img") >= 3 + 16 + 16 * 3 and "500 test images are wrong" in one
    assert "num_labels = 50" in one and "lr =" not in one, "the recipe as deviations"
    assert "--recipe" in one and 'href="../report.html"' in one


def test_means_and_gains_are_those_of_the_results(tmp_path: Path) -> None:
    for seed, (own, twin) in enumerate(((10.0, 14.0), (12.0, 13.0))):
        make_run(tmp_path / f"seed{seed}", result={"test_error": own}, seed=seed, twin=False)
        make_run(
            tmp_path / f"seed{seed}-twin", result={"test_error": twin}, seed=seed, lambda_rec=0.0, lambda_middle=0.0
        )
    shutil.copy(tmp_path / "seed0" / "config.toml", tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for text in ("11.00 ± 1.41 %", "13.50 ± 0.71 %", "+2.50 ± 2.12 %", "+4.00 %", "+1.00 %", "better in 2 of 2"):
        assert text in page, text


def test_a_page_says_at_any_time_how_far_it_is(tmp_path: Path) -> None:
    """Refreshed at each evaluation; only config.toml is needed."""
    seen = []

    class Watched(Pages):
        def __call__(self, trainer: Any, done: bool) -> None:
            super().__call__(trainer, done)
            seen.append((trainer.step, done, (tmp_path / "a" / "report.html").read_text(encoding="utf-8")))

    train_rounds(config(tmp_path / "a"), observe=Watched())
    assert [each[:2] for each in seen] == [(2, False), (4, True)]
    assert "Not finished: step 2 of 4" in seen[0][2] and "60 validation images are wrong" in seen[0][2]
    assert "Finished." in seen[1][2] and "500 test images" in seen[1][2]
    for name in ("result.json", "metrics.jsonl", "run.json"):
        (tmp_path / "a" / name).unlink()
    shutil.rmtree(tmp_path / "a" / "last")
    page = write_report(tmp_path / "a").read_text(encoding="utf-8")
    assert "Not finished: step 0 of 4" in page and "has not come to its first checkpoint" in page


def test_a_page_that_fails_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(trainer: Any, done: bool) -> None:
        raise RuntimeError("no room\x1b[2J")

    results = train_rounds(config(tmp_path / "a"), observe=fails)
    said = capsys.readouterr().err
    assert results[0]["steps"] == 4 and said.count("page of the run was not written") == 1 and "\x1b" not in said


def test_pages_change_no_training(tmp_path: Path, one_thread: None) -> None:
    from safetensors.torch import load_file

    for name, observe in (("with", Pages()), ("without", None)):
        train_rounds(config(tmp_path / name, unlabeled="same"), observe=observe)
    first, second = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_head_that_never_learnt_has_no_error(tmp_path: Path) -> None:
    page = train(tmp_path / "a", lambda_nll=0.0)
    assert "learnt without labels" in page and "Reconstructions" in page
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:  # of an older version
        file.write(sealed_line({"step": 4, "val_error": 91.2345}))
    for text in (page, write_report(tmp_path / "a").read_text(encoding="utf-8")):
        for word in ("Where it errs", "test error", "validation error", "Validation error", "91.23"):
            assert word not in text, word


def test_damaged_files_are_named_on_the_page(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "a" / "result.json").write_text('{"test_error": "<b>"}')
    (tmp_path / "a" / "run.json").write_text("[]")
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write(sealed_line({"step": 1, "nll": math.inf, "rec": "<b>", "val_error": 50}) + "{" * 1000 + "\n")
    page = write_report(tmp_path / "a").read_text(encoding="utf-8")
    assert "result.json is not as it was written" in page and "run.json" in page and "<b>&" not in page


def test_command(trained: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(trained / "seed0" / "last")])
    assert done.exit_code == 0 and done.stdout.strip() == str(trained / "seed0" / "report.html")
    for place in (tmp_path, tmp_path / "no\nwhere", "/dev/null"):
        done = CliRunner().invoke(app, ["report", str(place)])
        assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "holds no run" in done.stderr, done.stderr


def test_judgement() -> None:
    """Counted by hand: three images, the second and third of them wrong."""
    probabilities = torch.tensor([[0.75, 0.25], [0.95, 0.05], [0.45, 0.55]])
    judgement = Judgement(torch.arange(3), torch.tensor([0, 1, 0]), probabilities)
    assert judgement.error == pytest.approx(200 / 3) and judgement.confusion().tolist() == [[1, 1], [1, 0]]
    assert judgement.surest_errors(5) == [1, 2] and judgement.least_sure(2) == [2, 0]
    assert [each.count for each in judgement.bins()] == [1, 1, 1]
    assert judgement.calibration_error() == pytest.approx((0.55 + 0.25 + 0.95) / 3)


def test_judged_images_are_spread_over_the_set() -> None:
    images = ImageSet("x", torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10) % 2)
    judgement = judge(
        nn.Flatten(), images, lambda x: x.repeat(1, 2, 1, 1).float(), Autocast("off", images.images.device), 4
    )
    assert judgement.index.tolist() == [0, 2, 5, 7] and judgement.labels.tolist() == [0, 0, 1, 1]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in whose names of classes, files and folder there are scripts, quotes and new lines."""
    home = tmp_path_factory.mktemp("hostile")
    data = home / "<b onclick='x'>\"&"
    (data / "train").mkdir(parents=True)
    with (data / "train" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "split"])
        random = torch.Generator().manual_seed(0)
        for number in range(40):
            name = FILE.format(number=number)
            pixels = torch.randint(256, (32, 32), dtype=torch.uint8, generator=random)
            Image.fromarray(pixels.numpy()).save(data / "train" / name)
            label = HOSTILE if number % 2 else "averyveryveryveryveryveryveryveryveryveryverylongname" * 2
            table.writerow([name, label, "test" if number >= 24 else "train"])
    train(home / SCRIPT.replace("/", "_"), data=f"folder:{data}", num_labels=0, num_val=4)
    return home / SCRIPT.replace("/", "_") / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_in_a_browser(scheme: Any, width: int, hostile: Path, trained: Path, chromium: Any) -> None:
    for page_file in (hostile, trained / "report.html", trained / "seed0" / "report.html"):
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        asked, said = [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.goto(page_file.as_uri())
        assert "pwned" not in page.evaluate("document.title").replace("document.title='pwned'", "")
        assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()] and not said
        images = page.evaluate("Array.from(document.images, each => [each.complete, each.naturalWidth])")
        assert len(images) >= 2 and all(complete and size > 0 for complete, size in images)
        assert page.evaluate("document.scripts.length + document.querySelectorAll('[onerror], [onclick]').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
        page.close()


def test_names_are_shown_as_they_are(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    assert "&lt;script&gt;document.title=&#39;pwned&#39;&lt;/script&gt;&#34;&#39;&amp;\\n&lt;img" in page
    assert re.search(r"&lt;img src=x onerror=&#34;document.title=&#39;pwned&#39;&#34;&gt;\d+.png", page), (
        "no file names"
    )
    assert "<script" not in page and "<img src=x" not in page and "<img src=http" not in page
