"""The ladder of a backbone: where resolution steps down on the way from image to features, and how.

It is read from a `Probe`, that is from what operations do to shapes, whatever the modules are called.  An operation
steps down if it makes a map at least one and a half times smaller in height or width, and if one can walk from it to
the features without meeting a larger map: the gate of a squeeze-and-excite block, or the keys of an attention made from
a smaller map, are multiplied into a map of the old size, and so are no steps.

    level 0  image  -> step 0 ->  level 1  -> step 1 ->  ...  ->  level M  the top map
"""

from __future__ import annotations

from typing import NamedTuple

from swwae_zoo.models.wrapped.probe import Call, Op

__all__ = ["Anchor", "Event", "Ladder", "Step"]


class Anchor(NamedTuple):
    """Where a run holds a map: first tensor that ``call`` takes (end "in") or its result ("out"); no call: the features."""

    call: Call | None
    end: str
    channels: int
    channels_last: bool
    size: tuple[int, int]
    is_positive: bool


class Event(NamedTuple):
    """One operation that steps down, on the main path, a shortcut or a branch alike.

    kind: "conv", "avg", "max", or "move" for all that only rearranges, "entry" being the calls that take the map then.
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
    channels_last: bool  # of the source


class Step(NamedTuple):
    """One step down: the operation that stands for it, all others of the same step, and the map it reduces.

    below: the map, None for the image. depth: spatial convolutions one behind the other on the level *above* the step.
    """

    event: Event
    events: tuple[Event, ...]
    below: Anchor | None
    depth: int


class Ladder(NamedTuple):
    """steps: shallow to deep. top: the map that the decoder starts from. image_depth: convolutions at level 0.

    others: operations that step down beside the ladder. img_size: of the images it was found with.
    tokens: layers behind the top that give no map, as those of a transformer on a convolutional stem.
    """

    steps: tuple[Step, ...]
    top: Anchor
    image_depth: int
    others: tuple[Event, ...]
    img_size: tuple[int, int]
    tokens: int
