"""The downsampling path of a backbone: where resolution decreases between image and features, and how.

It is derived from a `Probe`, that is from what operations do to shapes, whatever the modules are called.  An operation
is a downsampling step if its output is at least one and a half times smaller in height or width, and if a path leads
from it to the features on which no feature map is larger.  So the gate of a squeeze-and-excite block, and the keys of
an attention on a smaller map, are no steps: they are multiplied into a map of the old size.

    level 0  image  -> step 0 ->  level 1  -> step 1 ->  ...  ->  level M  the top map
"""

from __future__ import annotations

from typing import NamedTuple

from swwae_zoo.models.wrapped.probe import Call, Op

__all__ = ["Anchor", "Event", "DownsamplingPath", "DownsamplingStep"]


class Anchor(NamedTuple):
    """Where to capture a feature map: the first input of ``call`` (end "in") or its output ("out").

    Without a call it is the features themselves.
    """

    call: Call | None
    end: str
    channels: int
    channels_last: bool
    size: tuple[int, int]
    is_positive: bool


class Event(NamedTuple):
    """One operation that downsamples, on the main path, a shortcut or a branch.

    kind: "conv", "avg", "max", or "move" for everything that only rearranges values.
    entry: the calls that take the map: the operation itself, or the first ones of a rearrangement.
    channels_last: of the source.
    """

    op: Op
    kind: str
    source: int
    entry: tuple[Op, ...]
    stride: tuple[int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    in_chs: int
    out_chs: int
    channels_last: bool


class DownsamplingStep(NamedTuple):
    """One downsampling step.

    event: the operation that represents it.
    events: all operations of the step, those of shortcuts included.
    below: the map that it reduces; None for the image.
    depth: spatial convolutions in a row on the level *after* the step.
    """

    event: Event
    events: tuple[Event, ...]
    below: Anchor | None
    depth: int


class DownsamplingPath(NamedTuple):
    """All downsampling steps of a backbone.

    steps: shallow to deep.
    top: the feature map that the decoder starts from.
    image_depth: convolutions at the image's own size.
    others: operations that downsample off the path.
    img_size: (H, W) of the images it was found with.
    tokens: layers after the top map that output no map, as those of a transformer on a convolutional stem.
    """

    steps: tuple[DownsamplingStep, ...]
    top: Anchor
    image_depth: int
    others: tuple[Event, ...]
    img_size: tuple[int, int]
    tokens: int
