"""The run configuration: its fields, what it refuses, recipes read and written, flags laid over them."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from flips import refused

from swwae_zoo.config import (  # fmt: skip
    GROUPS,
    SCHEMA,
    RunConfig,
    default_recipe,
    flags,
    lambdas,
    merge,
    parse_model_arg,
    read_recipe,
    read_run_recipe,
    recipe_names,
    recipe_title,
    sealed_toml,
    to_toml,
    without_lambdas,
)
from swwae_zoo.config import recipes as config_module

KEYS = {key.name: key for key in fields(RunConfig)}
NASTY = 'quote " backslash \\ newline \n tab \t bell \x07 delete \x7f é 手 😀 # = [x]'


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe file and returns its path."""

    def write(text: str | bytes, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Two recipes in place of the packaged ones."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "swwae_mnist.toml").write_text("# MNIST, 100 labels\n# more\nepochs = 3\n")
    (folder / "swwae_stl10.toml").write_text('model = "swwae_stl10"\nsteps = 7\n')
    monkeypatch.setattr(config_module.importlib.resources, "files", lambda package: folder)


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_field_is_described():
    for key in KEYS.values():
        assert key.metadata["group"] in GROUPS
        help = key.metadata["help"]
        assert help.endswith(".") and "\n" not in help and len(help) < 80
    assert {key.metadata["group"] for key in KEYS.values()} == set(GROUPS)


def test_flags_are_the_keys_words():
    assert flags(KEYS["lambda_rec"]) == ("--lambda-rec",)
    assert flags(KEYS["num_labels"]) == ("--labels", "--num-labels")
    assert flags(KEYS["model_args"]) == ("--model-arg",)
    names = [flag for key in KEYS.values() for flag in flags(key)]
    assert len(names) == len(set(names))


def test_defaults_lack_only_a_length():
    assert refusal(RunConfig) == "steps, epochs: got 0 and 0, expected exactly one of them above 0"
    config = RunConfig(epochs=1)
    assert (config.model, config.data, config.unlabeled, config.amp) == ("swwae_mnist", "digits", "same", "off")
    assert config.opt_betas == [] and config.model_args == {}


def test_whole_numbers_become_floats_and_containers_are_copied():
    betas, args = (0, 0.99), {"beta": 100}
    config = RunConfig(steps=1, lr=1, lambda_middle=[1, 2], opt_betas=betas, model_args=args)
    args["beta"] = 5
    assert config.lr == 1.0 and type(config.lr) is float
    assert config.lambda_middle == [1.0, 2.0] and type(config.lambda_middle[0]) is float
    assert config.opt_betas == [0.0, 0.99] and type(config.opt_betas) is list
    assert config.model_args == {"beta": 100} and type(config.model_args["beta"]) is int
    assert type(RunConfig(steps=1, lambda_middle=2).lambda_middle) is float


REFUSED = [
    ({"lr": "fast"}, "lr: got 'fast' (str), expected a number above 0"),
    ({"lr": True}, "lr: got True (bool), expected a number above 0"),
    ({"lr": 0.0}, "lr: got 0.0, expected a number above 0"),
    ({"lr": float("nan")}, "lr: got nan (float), expected a number above 0"),
    ({"lr": float("inf")}, "lr: got inf (float), expected a number above 0"),
    ({"lr": 10**400}, None),
    ({"batch_size": 1e3}, "batch_size: got 1000.0 (float), expected a whole number at least 1 and at most 1048576"),
    ({"batch_size": 0}, "batch_size: got 0, expected a whole number at least 1 and at most 1048576"),
    ({"labeled_batch": True}, "labeled_batch: got True (bool), expected a whole number at least 1 and at most 1048576"),
    ({"num_labels": -1}, "num_labels: got -1, expected a whole number at least 0"),
    ({"mirror": 1}, "mirror: got 1 (int), expected true or false"),
    ({"amp": False}, "amp: got False (bool), expected one of auto, off, bf16, fp16"),
    ({"amp": "bf-16"}, "amp: got 'bf-16', expected one of auto, off, bf16, fp16"),
    ({"contrast": "global"}, "contrast: got 'global', expected one of none, image"),
    ({"bad_images": ""}, "bad_images: got '', expected one of refuse, skip"),
    ({"sched": "step"}, "sched: got 'step', expected one of cosine, tanh, poly, constant"),
    ({"model": " "}, "model: got ' ', expected a name"),
    ({"data": 5}, "data: got 5 (int), expected a name"),
    ({"out": None}, "out: got None (NoneType), expected text"),
    ({"out": "caf\udce9"}, "out: got 'caf\\udce9', expected text in UTF-8: rename it, or give a link to it"),
    ({"momentum": 1}, "momentum: got 1.0, expected a number at least 0 and below 1"),
    ({"ema": 1.0}, "ema: got 1.0, expected a number at least 0 and below 1"),
    ({"seed": 2**32}, "seed: got 4294967296, expected a whole number at least 0 and at most 4294967295"),
    ({"lambda_rec": -1}, "lambda_rec: got -1.0, expected a number at least 0"),
    ({"lambda_middle": "1"}, "lambda_middle: got '1' (str), expected a number or a list of numbers at least 0"),
    ({"lambda_middle": [1, -1]}, "lambda_middle: got [1.0, -1.0], expected a number or a list of numbers at least 0"),
    (
        {"lambda_middle": [1, "1"]},
        "lambda_middle: got [1, '1'] (list), expected a number or a list of numbers at least 0",
    ),
    ({"lambda_middle": []}, "lambda_middle: got [], expected a number, or one number per middle"),
    ({"opt_betas": 0.9}, "opt_betas: got 0.9 (float), expected a list of numbers at least 0 and below 1"),
    ({"opt_betas": [0.9]}, "opt_betas: got [0.9], expected two or three, or none"),
    ({"opt_betas": [0.9, 1]}, "opt_betas: got [0.9, 1.0], expected a list of numbers at least 0 and below 1"),
    ({"device": "gpu"}, "device: got 'gpu', expected auto, cpu, cuda, cuda:N or mps"),
    ({"device": "cuda:x"}, "device: got 'cuda:x', expected auto, cpu, cuda, cuda:N or mps"),
    ({"epochs": 2}, "steps, epochs: got 1 and 2, expected exactly one of them above 0"),
    ({"lr": 0.1, "min_lr": 0.2}, "min_lr: got 0.2, expected at most lr, 0.1"),
    (
        {"lambda_nll": 0, "lambda_rec": 0, "lambda_middle": [0, 0], "lambda_l1": 1},
        "lambda_nll, lambda_rec, lambda_middle: got 0 for all, expected at least one above 0",
    ),
    ({"model_args": 3}, "model_args: got 3 (int), expected a table of names and values"),
    ({"model_args": {"a b": 1}}, "model_args: got 'a b', expected the name of an argument, such as drop_rate"),
    ({"model_args": {"lr": 1}}, "model_args: got 'lr', a key of the recipe itself: put it above [model_args]"),
    (
        {"model_args": {"beta": [64, 64]}},
        "model_args.beta: got [64, 64] (list), expected true, false, a number or text",
    ),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[next(iter(keys)) for keys, _ in REFUSED])
def test_a_bad_value_is_refused_in_one_line(keys, message):
    got = refusal(RunConfig, **{"steps": 1, **keys})
    assert message is None or got == message


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:12", "mps"])
def test_devices(device):
    assert RunConfig(steps=1, device=device).device == device


# recipes


def test_a_recipe_is_read_by_path(recipe):
    path = recipe(
        '\ufeff# Title\nmodel = "swwae_svhn"\nlr = 1\nlambda_middle = [1, 0.5]\nepochs = 4\n'
        '[model_args]\npool = "soft"\nbeta = 100\ndrop_rate = 0.5\n'
    )
    expected = RunConfig(
        model="swwae_svhn", lr=1.0, lambda_middle=[1.0, 0.5], epochs=4,
        model_args={"pool": "soft", "beta": 100, "drop_rate": 0.5},
    )  # fmt: skip
    assert read_recipe(path) == expected
    assert read_recipe(str(path)) == expected
    assert recipe_title(path) == "Title"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 1\nlambda_rek = 1\n", "unknown key 'lambda_rek'; did you mean lambda_rec?"),
        ("steps = 1\nzzz = 1\n", "unknown key 'zzz'; `swwae train --help` lists them all"),
        ("[xyzzy]\nlr = 1\n", "unknown key 'xyzzy'; `swwae train --help` lists them all"),
        ("steps = 1\nlr = 'fast'\n", "lr: got 'fast' (str), expected a number above 0"),
        (
            "steps = 1\n[model_args]\nlr = 2\n",
            "model_args: got 'lr', a key of the recipe itself: put it above [model_args]",
        ),
        ("lr = 0.1\n", "steps, epochs: got 0 and 0, expected exactly one of them above 0"),
        ("steps = 1\nsteps = \n", "not valid TOML: Invalid value (at line 2, column 9)"),
        (b"# caf\xe9\nsteps = 1\n", "not UTF-8 text, at byte 5"),
    ],
)
def test_a_bad_recipe_is_named_with_what_is_wrong(recipe, text, message):
    path = recipe(text)
    assert refusal(read_recipe, path) == f"recipe {path}: {message}"


def test_a_missing_recipe_names_the_nearest(packaged):
    assert recipe_names() == ["swwae_mnist", "swwae_stl10"]
    known = "`swwae recipes` lists them; or give a path to a .toml file"
    near = f"recipe swwae_mnst: no such recipe; did you mean swwae_mnist? {known}"
    assert refusal(read_recipe, "swwae_mnst") == near
    assert refusal(read_recipe, "zzz") == f"recipe zzz: no such recipe; {known}"
    assert refusal(recipe_title, "zzz") == f"recipe zzz: no such recipe; {known}"


def test_a_missing_file_says_so(packaged, tmp_path):
    assert refusal(read_recipe, "nowhere/x.toml") == "recipe nowhere/x.toml: no such file"
    assert refusal(read_recipe, Path("zzz")) == "recipe zzz: no such file"
    assert refusal(read_recipe, "./zzz") == "recipe ./zzz: no such file"
    message = "recipe swwae_mnist.toml: no such file; did you mean swwae_mnist?"
    assert refusal(read_recipe, "swwae_mnist.toml") == message
    assert refusal(read_recipe, tmp_path) == f"recipe {tmp_path}: a folder, expected a file"


def test_packaged_recipes_by_name(packaged):
    assert read_recipe("swwae_mnist") == RunConfig(epochs=3)
    assert recipe_title("swwae_mnist") == "MNIST, 100 labels"
    assert recipe_title("swwae_stl10") == ""


def test_a_models_default_recipe(packaged):
    assert default_recipe("swwae_mnist") == "swwae_mnist"
    assert default_recipe("swwae_mnist.some_tag") == "swwae_mnist"
    assert default_recipe("swwae_stl10_vgg") == "swwae_stl10"
    assert default_recipe("resnet18") is None
    assert default_recipe("hf-hub:someone/swwae_mnist") is None


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_states_what_differs(name):
    """The schema number pins the defaults that a recipe leaves unsaid."""
    config = read_recipe(name)
    assert recipe_title(name)
    written = config_module.tomllib.loads(config_module._recipe_text(name))
    assert written.pop("schema") == SCHEMA
    plain = RunConfig(steps=1)
    assert [
        key for key in written if key not in ("steps", "epochs") and getattr(config, key) == getattr(plain, key)
    ] == []


def test_another_schema(recipe):
    message = f"schema: got 2, expected {SCHEMA}, the one that this version of swwae_zoo knows"
    assert refusal(read_recipe, recipe("schema = 2\nsteps = 1\n")).endswith(message)


# writing


@pytest.mark.parametrize(
    "keys",
    [
        {"steps": 1},
        {"epochs": 3, "lambda_middle": [1, 0.2, 1e-20], "opt_betas": [0.5, 0.999], "mirror": True, "lr": 1e-5},
        {"steps": 2**40, "lr": 1e16, "data": f"folder:{NASTY}", "out": NASTY, "model": "hf-hub:a/b\nc"},
        {"steps": 1, "model_args": {"beta": 100, "soft": True, "drop_rate": 0.5, "notation": NASTY, "größe": ""}},
    ],
)
def test_a_written_recipe_reads_back_equal(recipe, keys):
    config = RunConfig(**keys)
    text = to_toml(config)
    again = read_recipe(recipe(text))
    assert again == config
    assert [type(value) for value in again.model_args.values()] == [type(v) for v in config.model_args.values()]
    assert set(config_module.tomllib.loads(text)) == {*KEYS, "schema"}  # complete: nothing is left to a default
    assert to_toml(again) == text


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_written_as_what_differs_reads_back_equal(recipe, name):
    config = read_recipe(name)
    text = to_toml(config, complete=False)
    assert read_recipe(recipe(text)) == config
    plain, written = RunConfig(steps=1), config_module.tomllib.loads(text)
    differs = {key for key in KEYS if getattr(config, key) != getattr(plain, key)} - {"steps", "epochs"}
    assert set(written) - {"steps", "epochs"} == differs | {"model", "data", "schema"}
    assert ("steps" in written) != ("epochs" in written)


def test_every_character_survives_writing(recipe):
    every = "".join(chr(code) for code in range(0x300)) + "\u2028\ufeff"
    assert read_recipe(recipe(to_toml(RunConfig(steps=1, out=every)))).out == every


# flags over a recipe


def test_only_what_is_given_replaces():
    base = RunConfig(steps=5, lr=0.1, mirror=True, clip_grad=1.0)
    assert merge(base, {"lr": None, "data": None}) == base
    merged = merge(base, {"lr": 0.2, "mirror": False, "clip_grad": 0.0, "data": None})
    assert merged == RunConfig(steps=5, lr=0.2, mirror=False, clip_grad=0.0)
    assert base.lr == 0.1


def test_a_length_replaces_the_other_kind_of_length():
    assert merge(RunConfig(epochs=3), {"steps": 5}) == RunConfig(steps=5)
    assert merge(RunConfig(steps=5), {"epochs": 3, "steps": None}) == RunConfig(epochs=3)
    assert merge(RunConfig(steps=5), {"steps": 6}) == RunConfig(steps=6)
    assert merge(RunConfig(epochs=3), {"steps": 0}) == RunConfig(epochs=3)
    assert "got 5 and 3" in refusal(merge, RunConfig(steps=1), {"steps": 5, "epochs": 3})


def test_model_args_merge_name_by_name():
    base = RunConfig(steps=1, model_args={"pool": "soft", "beta": 100})
    merged = merge(base, {"model_args": {"beta": 10, "drop_rate": 0.5}})
    assert merged.model_args == {"pool": "soft", "beta": 10, "drop_rate": 0.5}
    assert base.model_args == {"pool": "soft", "beta": 100}


def test_without_a_recipe_the_defaults_are_merged():
    assert merge(None, {"steps": 5, "lr": 0.2, "data": None}) == RunConfig(steps=5, lr=0.2)


def test_merge_refuses_what_it_does_not_know():
    assert refusal(merge, RunConfig(steps=1), {"lamda_rec": 1}) == "unknown key 'lamda_rec'; did you mean lambda_rec?"
    assert refusal(merge, RunConfig(steps=1), {"lr": -1}) == "lr: got -1.0, expected a number above 0"
    assert "a table" in refusal(merge, RunConfig(steps=1), {"model_args": "a=b"})


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("beta=100", "beta", 100), ("beta=-100", "beta", -100), ("drop_rate=0.5", "drop_rate", 0.5),
        ("x=1e-3", "x", 1e-3), ("x=.5", "x", 0.5), ("x=5.", "x", 5.0), ("flag=true", "flag", True),
        ("flag=False", "flag", False), ("pool=soft", "pool", "soft"), ("x=", "x", ""), ("x=a=b", "x", "a=b"),
        ("x=1_000", "x", "1_000"), ("x=nan", "x", "nan"), (" x = 1 ", "x", 1), ("x=٣", "x", "٣"),
        ("notation=(64)5c-2p-10fc", "notation", "(64)5c-2p-10fc"),
    ],
)  # fmt: skip
def test_model_args_are_typed(text, name, value):
    got = parse_model_arg(text)
    assert got == (name, value) and type(got[1]) is type(value)


@pytest.mark.parametrize("text", ["beta", "=5", "a b=5", "", "--beta=5"])
def test_a_model_arg_without_a_name_is_refused(text):
    message = refusal(parse_model_arg, text)
    assert message == f"model_args: got {text!r}, expected KEY=VALUE, such as drop_rate=0.5"


def test_neither_torch_nor_timm_is_imported():
    """Under an empty stand-in for the package, so that only this module's own imports are seen."""
    code = """
import json, sys, types
sys.modules["swwae_zoo"] = package = types.ModuleType("swwae_zoo")
package.__path__ = [sys.argv[1]]
import swwae_zoo.config as config
config.to_toml(config.RunConfig(steps=1))
config.recipe_names()
print(json.dumps(sorted(sys.modules)))
"""
    run = [sys.executable, "-c", code, str(Path(config_module.__file__).parents[1])]
    loaded = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert "swwae_zoo.config" in loaded
    assert not {"torch", "timm", "numpy", "torchvision"} & set(loaded)


# data and lengths that are not the recipe's


def test_keys_of_other_data_give_way():
    base = read_recipe("swwae_mnist")
    assert (base.num_val, base.rounds, base.twin) == (5000, 3, True)
    merged = merge(base, {"data": "digits", "steps": 20})
    assert (merged.num_val, merged.num_labels, merged.rounds, merged.twin) == (-1, 0, 1, False)
    assert (merged.warmup_steps, merged.eval_every) == (-1, 0) and merged.lr == base.lr
    said = merge(base, {"data": "digits", "num_val": 50, "rounds": 2, "warmup_steps": 3})
    assert (said.num_val, said.rounds, said.warmup_steps) == (50, 2, 3)


def test_keys_of_another_length_give_way():
    base = read_recipe("swwae_mnist")
    shorter = merge(base, {"steps": base.steps // 2})
    assert shorter == replace(base, steps=base.steps // 2, warmup_steps=-1, eval_every=0, save_every=0, log_every=0)
    assert merge(base, {"steps": base.steps, "data": base.data}) == base
    assert merge(base, {"steps": 10}, adapt=False) == replace(base, steps=10)


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            {"strong": "none"},
            "lambda_consistency: needs strong views of the unlabelled images: give --strong grey or photo",
        ),
        (
            {"unlabeled": "none"},
            "lambda_consistency: needs unlabelled images, got unlabeled = 'none': name some, or set",
        ),
        ({"ema": 0.0}, "lambda_consistency: needs a teacher, the moving average of the weights: give --ema 0.99"),
        (
            {"batch_size": 4 * 10**12},
            "batch_size: got 4000000000000, expected a whole number at least 1 and at most 1048576",
        ),
        (
            {"labeled_batch": 2**20 + 1},
            "labeled_batch: got 1048577, expected a whole number at least 1 and at most 1048576",
        ),
        ({"rounds": 10**12}, "rounds: got 1000000000000, expected a whole number at least 1 and at most 10000"),
        ({"confidence": 0.0}, "confidence: got 0.0, expected a number above 0 and at most 1"),
        ({"confidence": 1.5}, "confidence: got 1.5, expected a number above 0 and at most 1"),
        (
            {"confidence": 0.8, "pseudo_labels": "softmatch"},
            "confidence: got 0.8, but pseudo_labels = 'softmatch' weights all images: leave it out, or give "
            "--pseudo-labels threshold",
        ),
        ({"noise": 0.3, "lambda_rec": 0, "lambda_middle": [0, 0]}, "noise: got 0.3, but nothing is reconstructed"),
        ({"noise": 0.3, "ema": 0.0, "lambda_consistency": 0}, "noise: needs a teacher, which sees the clean image"),
        ({"lambda_other": {"mine": -1}}, "lambda_other: got mine = -1, expected a number at least 0"),
        ({"lambda_other": {"rec": 5}}, "lambda_other: got 'rec', which has a key of its own: set lambda_rec"),
        ({"model_args": {"img_size": 100_000}}, "model_args.img_size: got 100000, expected an image of at most 67,108"),
        ({"strong_args": {"a b": 1}}, "strong_args: got 'a b', expected the name of an argument"),
        (
            {"augment_args": {"shift": [1]}},
            "augment_args.shift: got [1] (list), expected true, false, a number or text",
        ),
    ],
)
def test_views_and_teachers(keys, message):
    given = {"steps": 1, "lambda_consistency": 1.0, "strong": "grey", "ema": 0.99}
    RunConfig(**given)
    assert refusal(RunConfig, **{**given, **keys}).startswith(message)


def test_the_twin_is_the_plain_convnet():
    config = RunConfig(steps=1, lambda_l1=1, lambda_middle=[1, 2], lambda_other={"mine": 1.0}, strong="grey", ema=0.9,
                       lambda_consistency=1, lambda_cross=1, noise=0.3)  # fmt: skip
    twin = without_lambdas(config)
    weights = lambdas(twin)
    assert twin.noise == 0
    assert weights.pop("nll") == 1 and set(weights) == {"rec", "middle", "l1", "consistency", "cross"}
    assert not any(weights.values())


def test_flips_and_truncations_of_config_toml(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(sealed_toml(RunConfig(model_args={"drop_rate": 0.5}, num_labels=100, steps=5)), encoding="utf-8")
    assert refused(path, lambda: read_run_recipe(path)) > 390
    edited = path.read_text().replace("num_labels = 100", "num_labels = 10")
    path.write_text(edited)
    with pytest.raises(ValueError, match="config.toml is not as it was written .*: restore it; .* as --recipe"):
        read_run_recipe(path)
    head, _, rest = edited.split("\n", 2)
    path.write_text(f"{head}\n{rest}")  # of an earlier version
    assert read_run_recipe(path).num_labels == 10
