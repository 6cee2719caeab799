"""The cost of wrapping: a SWWAE step of resnet18 at 96x96 (tap mode, light decoder) against the plain backbone's step.

    OMP_NUM_THREADS=1 python benchmarks/wrap.py [--json FILE]

Three steps on the same images alternate: "plain", the backbone's; "tapped", the backbone with its switches computed
but nothing decoded; and "swwae". Each computes all gradients and updates the weights with AdamW. Reported are the
minimum of each and the median of the ratios within a turn, since other work on the machine slows whole turns.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch import nn

import swwae_zoo
from swwae_zoo.loss import Lambdas, middle_losses, nll_loss, reconstruction_loss, total_loss
from swwae_zoo.utils.provenance import provenance


def losses(model: nn.Module, kind: str, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if kind == "plain":
        return nll_loss(model.backbone(images), target)
    encoding = model.forward_encoder(images)
    nll = nll_loss(model.forward_head(encoding.features), target)
    if kind == "tapped":
        return nll
    decoding = model.forward_decoder(encoding)
    middles = middle_losses(decoding.middles)
    return total_loss(
        Lambdas(), {"nll": nll, "rec": reconstruction_loss(decoding.reconstruction, images), "middle": middles}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--decoder", default="light")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = (
        swwae_zoo.wrap(args.backbone, img_size=args.img_size, decoder=args.decoder)
        .train()
        .to(memory_format=torch.channels_last)
    )
    images = torch.rand(args.batch_size, 3, args.img_size, args.img_size).contiguous(memory_format=torch.channels_last)
    target = torch.randint(model.num_classes, (args.batch_size,))
    optimizers = {"plain": create_optimizer_v2(model.backbone, opt="adamw", lr=1e-4)}
    optimizers["tapped"] = optimizers["plain"]
    optimizers["swwae"] = create_optimizer_v2(model, opt="adamw", lr=1e-4)
    turns = []
    for _ in range(args.turns + 1):
        turn = {}
        for kind, optimizer in optimizers.items():
            model.zero_grad(set_to_none=True)
            start, cpu = time.perf_counter(), time.process_time()
            losses(model, kind, images, target).backward()
            optimizer.step()
            turn[kind] = (time.perf_counter() - start, time.process_time() - cpu)
        turns.append(turn)
    turns = turns[1:]
    results = {}
    for i, name in enumerate(("wall", "processor")):
        least = {kind: min(turn[kind][i] for turn in turns) for kind in optimizers}
        ratio = statistics.median(turn["swwae"][i] / turn["plain"][i] for turn in turns)
        tap = statistics.median((turn["tapped"][i] - turn["plain"][i]) / turn["swwae"][i] for turn in turns)
        results[name] = {
            "milliseconds": {kind: [round(1000 * turn[kind][i], 1) for turn in turns] for kind in optimizers},
            "least": {
                "swwae / plain": least["swwae"] / least["plain"],
                "tap's share": (least["tapped"] - least["plain"]) / least["swwae"],
            },
            "median of turns": {"swwae / plain": ratio, "tap's share": tap},
        }
        share = (least["tapped"] - least["plain"]) / least["swwae"]
        print(
            f"{name:9s}  " + "  ".join(f"{kind} {1000 * seconds:.0f} ms" for kind, seconds in least.items()),
            f" swwae / plain {least['swwae'] / least['plain']:.2f} (median of turns {ratio:.2f})",
            f" tap's share {100 * share:.1f} % (median of turns {100 * tap:.1f} %)",
        )
    if args.json:
        args.json.write_text(json.dumps({**provenance(), "images": args.batch_size, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
