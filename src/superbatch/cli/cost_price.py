"""Models named on the command line, priced in FLOPs or in seconds on this device."""

import re
import time
from collections.abc import Callable
from statistics import median

from superbatch.cli.cost_clip import PREFIX, clip_flops
from superbatch.cost import Price
from superbatch.errors import ConfigError
from superbatch.models.variants import (
    parse_vit_name,
    transformer_forward_flops,
    vit_forward_flops,
)


_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_COLOURS = 3
_MEASURE_SECONDS = 1.0
_LARGEST_BATCH = 512


def parse_flops(text: str) -> float | None:
    """The FLOPs that "61.6G" or "1.2e9" stand for; None for anything else."""
    match = re.fullmatch(r"(\d+\.?\d*(?:[eE][+-]?\d+)?)([kMGT]?)", text)
    return None if match is None else float(match[1]) * _PREFIXES[match[2]]


def model_flops(name: str, *, image_size: int, classes: int) -> int | float:
    """FLOPs of a forward pass per image. torch is imported only for a name of timm.

    Raises ``ConfigError`` for FLOPs of zero and for a model that cannot be built.
    """
    flops = parse_flops(name)
    if flops is not None:
        if flops == 0:
            raise ConfigError(
                f"a model that takes {name} FLOPs does nothing; give what it really takes"
            )
        return flops
    if name.startswith(PREFIX):
        return clip_flops(name.removeprefix(PREFIX))
    vit = parse_vit_name(name)
    if vit is not None:
        size, patch = vit
        return vit_forward_flops(
            size, patch, image_size=image_size, channels=_COLOURS, classes=classes
        )
    import torch

    from superbatch.flops import forward_flops
    from superbatch.models.build import build_model

    with torch.device("meta"):
        model = build_model(name, image_size=image_size, channels=_COLOURS, classes=classes, seed=0)
        return forward_flops(model, torch.zeros(1, _COLOURS, image_size, image_size))


def text_flops(tower: str | None) -> int | float:
    """FLOPs of a text tower: "WIDTH:DEPTH:TOKENS" with an MLP of four widths, or a number."""
    if tower is None:
        return 0.0
    flops = parse_flops(tower)
    shape = re.fullmatch(r"([1-9]\d*):([1-9]\d*):([1-9]\d*)", tower)
    if flops is None and shape is None:
        raise ConfigError(
            f"a text tower is WIDTH:DEPTH:TOKENS (512:12:77 is CLIP-B's) or FLOPs (5.96G), "
            f"not {tower!r}"
        )
    if shape is None:
        return flops or 0.0
    width, depth, tokens = map(int, shape.groups())
    return transformer_forward_flops(tokens, width=width, depth=depth, mlp=4 * width)


def model_seconds(
    name: str,
    *,
    image_size: int,
    classes: int,
    learned: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Price:
    """Seconds per image of a forward pass and of an update on this device, by ``clock``; takes a
    few seconds.

    On as many images as keep the device busy, but scored at most as many at once as a model scores
    there; updates on ``learned`` images, if that is given.
    """
    if parse_flops(name) is not None or name.startswith(PREFIX):
        raise ConfigError(f"--measure needs models that can be built here, not {name}")
    import torch

    from superbatch.devices import pick_device
    from superbatch.models.build import build_model
    from superbatch.passes import rows_at_once

    there = torch.accelerator.current_accelerator(check_available=True)
    device = there or pick_device("cpu")
    model = build_model(name, image_size=image_size, channels=_COLOURS, classes=classes, seed=0)
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def forward(count: int) -> None:
        with torch.inference_mode():
            model.eval()(torch.zeros(count, _COLOURS, image_size, image_size, device=device))

    def update(count: int) -> None:
        images = torch.zeros(count, _COLOURS, image_size, image_size, device=device)
        model.train()(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def seconds(work: Callable[[int], None], count: int) -> float:
        start = clock()
        work(count)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return clock() - start

    scored = min(_LARGEST_BATCH, rows_at_once(0, model) or _LARGEST_BATCH)
    busy = _images_that_keep_busy
    return Price(
        _seconds_per_image(forward, seconds, busy(forward, seconds, scored)),
        _seconds_per_image(update, seconds, learned or busy(update, seconds, _LARGEST_BATCH)),
    )


def _images_that_keep_busy(
    work: Callable[[int], None], seconds: Callable[[Callable[[int], None], int], float], most: int
) -> int:
    """How many at once take a tenth of a second, or ``most``."""
    seconds(work, 2)  # the first call allocates; two images, because batch norm needs more than one
    count = 2
    while count < most and seconds(work, count) < _MEASURE_SECONDS / 10:
        count *= 2
    return count


def _seconds_per_image(
    work: Callable[[int], None], seconds: Callable[[Callable[[int], None], int], float], count: int
) -> float:
    """The median over a second of calls, ``count`` images each."""
    seconds(work, count)
    took = [seconds(work, count) for _ in range(3)]
    while sum(took) < _MEASURE_SECONDS:
        took.append(seconds(work, count))
    return median(took) / count
