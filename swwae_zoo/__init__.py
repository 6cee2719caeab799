"""Stacked What-Where Auto-Encoders (arXiv:1506.02351) as timm models.

`import swwae_zoo` registers the models with timm, so `timm.create_model("swwae_mnist")` works.
timm takes seconds to import, which `swwae --help` cannot wait for: where timm is not loaded yet,
the models are registered at the moment it is.
"""
import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

__version__ = "0.1.0"

# Public name -> the module it comes from, imported at first use.
_EXPORTS = {"SWWAE": "swwae", "Encoding": "swwae", "Decoding": "swwae", "Output": "swwae"}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


def _register_models() -> None:
    importlib.import_module(f"{__name__}.swwae")


class _AfterTimm(MetaPathFinder):
    """Finds timm as Python would, and registers the models as soon as its body has run.

    Modules that `swwae_zoo.swwae` imports must not import timm themselves: they would be half
    loaded when timm's import comes back here for `swwae_zoo.swwae`.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run_body = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run_body(module)
                _register_models()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    _register_models()
else:
    sys.meta_path.insert(0, _AfterTimm())
