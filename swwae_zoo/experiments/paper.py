"""The paper's tables: the recipe of each row and the paper's own figure. No torch, so that --help answers at once.

Figures are in %. Tables 2 and 3 give accuracies, the others errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["TABLES", "TARGETS", "PaperTable", "TableRow", "default_folder"]

LABELS = (100, 600, 1000, 3000)


class TableRow(NamedTuple):
    """One row of a table.

    key: name of the row, as `--rows` takes it.
    paper, spread: the paper's mean and standard deviation (None where it gives none).
    convnet: the paper's figure for the same net without reconstruction.
    twin: whether the same net without reconstruction is trained as well.
    pretrain: recipe of the unsupervised run that it starts from.
    folds: data sets, each with a lambda of its own.
    search_val: validation images that lambda is chosen on if the row holds out none.
    """

    key: str
    label: str
    recipe: str
    paper: float | None
    spread: float | None = None
    convnet: float | None = None
    twin: bool = False
    pretrain: str = ""
    folds: tuple[str, ...] = ()
    search_val: int = 0


class PaperTable(NamedTuple):
    """measure: the result that is reported. accuracy: report 100 minus it."""

    title: str
    measure: str
    accuracy: bool
    rows: tuple[TableRow, ...]
    note: str = ""


def _table4() -> PaperTable:
    figures = {
        "swwae": ("SWWAE", ((10.66, 0.55), (4.35, 0.30), (3.17, 0.17), (2.13, 0.10))),
        "dropconv": ("dropout on convolution", ((14.23, 0.94), (4.70, 0.38), (3.37, 0.11), (2.08, 0.10))),
        "l1": ("L1", ((10.91, 0.29), (4.61, 0.28), (3.55, 0.31), (2.67, 0.25))),
        "sfx": ("unsup-sfx", ((17.81, 0.06), (8.41, 0.08), (6.40, 0.06), (4.76, 0.03))),
        "pretr": ("unsup-pretr", ((None, None), (9.80, 0.06), (6.135, 0.03), (4.41, 3.11))),
        "nol2m": ("noL2M", ((12.41, 1.95), (4.63, 0.24), (3.15, 0.22), (2.08, 0.18))),
    }
    rows = tuple(
        TableRow(
            f"{key}-{labels}",
            f"{label}, N = {labels}",
            f"table4_{key}_{labels}",
            paper,
            spread,
            twin=key in ("swwae", "nol2m"),
            pretrain="table4_unsup" if key in ("sfx", "pretr") else "",
        )
        for i, labels in enumerate(LABELS)
        for key, (label, all_figures) in figures.items()
        for paper, spread in [all_figures[i]]
    )
    return PaperTable("Table 4: MNIST, rival regularisers, validation error", "val_error", False, rows)


def _table5() -> PaperTable:
    figures = {
        "nodrop": ("SWWAE without dropout", ((9.17, 0.11), (4.16, 0.11), (3.39, 0.01), (2.50, 0.01))),
        "drop": ("SWWAE with dropout", ((8.71, 0.34), (3.31, 0.40), (2.83, 0.10), (2.10, 0.22))),
    }
    rows = tuple(
        TableRow(
            f"{key}-{labels}",
            f"{label}, N = {labels}",
            f"table5_{key}_{labels}",
            *all_figures[i],
            twin=True,
            search_val=5000,
        )
        for i, labels in enumerate(LABELS)
        for key, (label, all_figures) in figures.items()
    )
    return PaperTable("Table 5: MNIST, test error", "test_error", False, rows)


TABLES = {
    "table1": PaperTable(
        "Table 1: SVHN, 1,000 labels, test error",
        "test_error",
        False,
        (
            TableRow("nodrop", "SWWAE without dropout (λ 0.8)", "table1_nodrop", 27.83, twin=True),
            TableRow("drop", "SWWAE with dropout (λ 0.4)", "table1_drop", 23.56, twin=True),
        ),
    ),
    "table2": PaperTable(
        "Table 2: STL-10, test accuracy over the ten folds",
        "test_error",
        True,
        (
            TableRow(
                "swwae",
                "SWWAE",
                "table2",
                74.33,
                convnet=57.45,
                twin=True,
                folds=tuple(f"stl10:fold={fold}" for fold in range(10)),
            ),
        ),
        "λ of each fold is chosen on images held out of it; the model chosen predicts the test set. ± is over folds.",
    ),
    "table3": PaperTable(
        "Table 3: CIFAR, test accuracy",
        "test_error",
        True,
        (
            TableRow("cifar10", "SWWAE, CIFAR-10", "table3_cifar10", 92.23, convnet=91.33, twin=True, search_val=5000),
            TableRow(
                "cifar100", "SWWAE, CIFAR-100", "table3_cifar100", 69.12, convnet=67.50, twin=True, search_val=5000
            ),
        ),
    ),
    "table4": _table4(),
    "table5": _table5(),
    "mnist_full": PaperTable(
        "MNIST, all labels, test error",
        "test_error",
        False,
        (TableRow("swwae", "SWWAE", "mnist_full", 0.71, convnet=0.76, twin=True, search_val=5000),),
    ),
    "svhn_full": PaperTable(
        "SVHN, all labels, test error",
        "test_error",
        False,
        (TableRow("swwae", "SWWAE", "svhn_full", 4.94, convnet=5.89, twin=True, search_val=5000),),
    ),
}
TARGETS = ("fig2", "fig3", "fig4", "fig5", *TABLES)


def default_folder(target: str, quick: bool) -> Path:
    """Folder of a target's runs if --out is not given; Figure 4 shows the nets of Figure 3."""
    return Path("runs") / ("reproduce-quick" if quick else "reproduce") / {"fig4": "fig3"}.get(target, target)
