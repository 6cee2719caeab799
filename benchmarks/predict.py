"""Images a second of `swwae predict` beside a plain timm loop with a DataLoader, in turns, on the same files.

    python benchmarks/predict.py [--backbone resnet18] [--images 2000] [--side 96] [--turns 5] [--json FILE]

All read the same files from the page cache, classify them with the same net in batches of the same size, and keep the
three likeliest classes of each. timm's side is its own transform in a data set of files with a DataLoader of --workers
processes, whose start is left out of its time; "timm-last" is the same in channels-last memory format, which ours
takes by itself. Ours decodes in threads of the one process.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch.utils.data import DataLoader, Dataset

import swwae_zoo
from swwae_zoo.analysis.predict import ImageFiles, predict_files
from swwae_zoo.models._data_config import describe_training_data
from swwae_zoo.utils.provenance import provenance

TOP = 3


class Files(Dataset):
    def __init__(self, files, transform, mode):
        self.files, self.transform, self.mode = files, transform, mode

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert(self.mode))


def write_pictures(folder: Path, count: int, side: int, suffix: str) -> None:
    """Smooth random pictures, about as large in bytes as photographs of that size."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 6, side // 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05}{suffix}")


def ours(trained, folder: Path, batch_size: int) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in predict_files(trained, ImageFiles([folder]), top=TOP, batch_size=batch_size))
    return count / (time.perf_counter() - start)


@torch.inference_mode()
def timms(model, loader: DataLoader, layout: torch.memory_format) -> float:
    """From the first batch's request on; the workers run already, for they persist."""
    model = model.to(memory_format=layout)
    start, count = time.perf_counter(), 0
    for batch in loader:
        best = model(batch.contiguous(memory_format=layout)).softmax(1).topk(TOP)
        count += len(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return count / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="swwae_wrap")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--images", default=2000, type=int)
    parser.add_argument("--side", default=96, type=int, help="of the files, and of the net's input")
    parser.add_argument("--suffix", default=".jpg", choices=(".jpg", ".png"))
    parser.add_argument("--folder", type=Path, help="images to read instead of generated ones")
    parser.add_argument("--batch-size", default=64, type=int)
    parser.add_argument("--workers", default=2, type=int)
    parser.add_argument("--turns", default=5, type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    given = {"backbone": args.backbone} if args.model == "swwae_wrap" else {}
    model = timm.create_model(args.model, num_classes=10, img_size=args.side, **given).eval()
    describe_training_data(model)
    with tempfile.TemporaryDirectory() as made:
        save_for_hf(model, str(Path(made) / "net"), safe_serialization=True)
        trained = swwae_zoo.load(Path(made) / "net", device="cpu")
        folder = args.folder or Path(made) / "images"
        if args.folder is None:
            folder.mkdir()
            write_pictures(folder, args.images, args.side, args.suffix)
        files = list(ImageFiles([folder]))
        transform = create_transform(**resolve_model_data_config(model), is_training=False)
        data = Files(files, transform, "L" if model.in_chans == 1 else "RGB")
        loader = DataLoader(
            data, args.batch_size, num_workers=args.workers, persistent_workers=True, multiprocessing_context="fork"
        )
        plain = getattr(model, "backbone", model)  # the same logits, without the watch on its maps
        kinds = {
            "ours": lambda: ours(trained, folder, args.batch_size),
            "timm": lambda: timms(plain, loader, torch.contiguous_format),
            "timm-last": lambda: timms(plain, loader, torch.channels_last),
        }
        rates = {name: [] for name in kinds}
        for turn in range(args.turns + 1):
            measured = {name: measure() for name, measure in kinds.items()}
            if turn:  # the first fills the page cache and starts the workers
                for name, rate in measured.items():
                    rates[name].append(rate)
                print("   ".join(f"{name} {rate:8.1f} images/s" for name, rate in measured.items()), flush=True)
    ratios = {
        name: statistics.median(own / other for own, other in zip(rates["ours"], rates[name], strict=True))
        for name in ("timm", "timm-last")
    }
    print(f"{len(files):,} images: ours to " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    if args.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        result = {**provenance(), "settings": settings, "images_per_second": rates, "ratios": ratios}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
