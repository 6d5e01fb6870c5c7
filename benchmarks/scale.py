"""What a learner on many GPUs needs of its actors: by arithmetic, and by simulating every event.

    python benchmarks/scale.py                  # a ViT-L learner on 256 GPUs (docs/scale.md)
    python benchmarks/scale.py --actor S/16 --rho 5 --learner-gpus 64

Prices are the library's own closed forms. Rates of devices are arguments: what a GPU of a cluster
achieves must be measured there (``superbatch cost --measure``). The simulation knows nothing of the
arithmetic: actors score, weights travel, the learner waits or does not.
"""

import argparse
import bisect
import math
import random
import statistics
import sys
from dataclasses import dataclass, replace

from superbatch.models.variants import parse_vit_name, vit_forward_flops


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Sizes and rates; bytes and seconds."""

    learner: str = "L/16"
    actor: str = "Ti/16"
    image: int = 224
    learner_gpus: int = 256
    sub_batch: int = 32_768
    rho: float = 2.0
    models_scored: int = 2
    """2: online and reference; 1: the reference is a table of losses."""
    learner_rate: float = 4.0e14
    """FLOPs a second that one GPU achieves in updates of the learner."""
    actor_rate: float = 1.0e14
    """FLOPs a second that one GPU achieves in scoring passes of an actor."""
    image_bytes: float = 50e3
    decoded_per_core: float = 1_000.0
    """Images a second that one core reads and decodes."""
    actor_parameters: float = 5.7e6
    weight_bytes: float = 2.0
    link: float = 10e9
    """Bytes a second that one host receives."""
    weights_latency: float = 0.05
    """Seconds before published weights begin to arrive."""
    publish_every: int = 1

    @property
    def super_batch(self) -> int:
        """Examples scored for each update."""
        return round(self.sub_batch * self.rho)

    @property
    def step_seconds(self) -> float:
        """An update of the learner on all its GPUs."""
        flops = 3 * self.sub_batch * forward(self.learner, self.image)
        return flops / (self.learner_gpus * self.learner_rate)

    @property
    def super_batch_seconds(self) -> float:
        """Scoring one super-batch on one GPU."""
        flops = self.super_batch * self.models_scored * forward(self.actor, self.image)
        return flops / self.actor_rate

    @property
    def actors_needed(self) -> int:
        """GPUs that score a super-batch in the time of an update, all in step."""
        return math.ceil(self.super_batch_seconds / self.step_seconds)

    @property
    def publish_seconds(self) -> float:
        """From the end of an update until its weights can be scored with."""
        return self.weights_latency + self.actor_parameters * self.weight_bytes / self.link


def forward(name: str, image: int) -> int:
    """FLOPs of one example's forward pass, without a head."""
    found = parse_vit_name(name)
    if found is None:
        raise SystemExit(f"{name} is not one of our ViT names, such as L/16, Ti/16 or mu-300/16")
    size, patch = found
    return vit_forward_flops(size, patch, image_size=image, classes=0)


@dataclass(frozen=True)
class Outcome:
    """What a simulated run came to."""

    busy: float
    """Share of the time that the learner was not waiting."""
    stale: list[int]
    """For each update: how many updates older the scores' weights were than the learner's."""


def simulate(
    cluster: Cluster,
    actors: int,
    *,
    steps: int,
    max_staleness: int,
    parted: bool,
    jitter: float = 0.1,
    failures_per_hour: float = 0.0,
    restart_seconds: float = 60.0,
    seed: int = 0,
) -> Outcome:
    """Every super-batch from its scoring to its update.

    ``parted``: each actor scores its part of every super-batch; otherwise super-batches go round.
    Super-batch ``n`` is scored with weights of update ``n - 1 - max_staleness`` or newer. Times
    vary by ``jitter`` (coefficient of variation, log-normal). An actor that fails comes back after
    ``restart_seconds`` and scores what it had begun again.
    """
    chance = random.Random(seed)
    spread = math.sqrt(math.log(1 + jitter**2))
    work = cluster.super_batch_seconds / (actors if parted else 1)
    free = [0.0] * actors  # when each actor can begin something new
    ended: list[float] = []  # when each update ended
    arrived: list[float] = [0.0]  # when weights of update 0, k, 2k, ... could be scored with
    stale: list[int] = []

    def varied(seconds: float) -> float:
        return seconds * chance.lognormvariate(-(spread**2) / 2, spread)

    def scored(actor: int, number: int) -> tuple[float, int]:
        """When ``actor`` has scored its share of super-batch ``number``, and with which weights."""
        needed = max(0, number - 1 - max_staleness)
        oldest = math.ceil(needed / cluster.publish_every)
        begin = max(free[actor], arrived[oldest])
        weights = bisect.bisect_right(arrived, begin) - 1
        seconds = varied(work)
        if chance.random() < seconds * failures_per_hour / 3600:
            seconds += restart_seconds + varied(work) * chance.random()
        free[actor] = begin + seconds
        return free[actor], weights * cluster.publish_every

    for number in range(1, steps + 1):
        doing = range(actors) if parted else [(number - 1) % actors]
        parts = [scored(actor, number) for actor in doing]
        begin = max([end for end, _ in parts] + ended[-1:])
        ended.append(begin + varied(cluster.step_seconds))
        if number % cluster.publish_every == 0:
            arrived.append(max(arrived[-1], ended[-1] + cluster.publish_seconds))
        stale.append(number - 1 - min(weights for _, weights in parts))
    skipped = steps // 10  # until every queue is as it will stay
    span = ended[-1] - ended[skipped]
    return Outcome((steps - 1 - skipped) * cluster.step_seconds / span, stale[skipped:])


def least_staleness(cluster: Cluster, actors: int, *, parted: bool) -> int:
    """Updates between the weights and the use of their scores that never waiting takes.

    Scores of super-batch ``n`` must be there when update ``n - 1`` ends; scoring began ``latency``
    before, with weights that had travelled, and were up to ``publish_every`` updates old.
    """
    latency = cluster.super_batch_seconds / (actors if parted else 1)
    waits = (latency + cluster.publish_seconds) / cluster.step_seconds
    return math.ceil(waits) + cluster.publish_every - 1


def needs(cluster: Cluster) -> list[tuple[str, str]]:
    """What the cluster has to carry."""
    updates = 1 / cluster.step_seconds
    seen, learned = cluster.super_batch * updates, cluster.sub_batch * updates
    actors = cluster.actors_needed
    weights = cluster.actor_parameters * cluster.weight_bytes * updates / cluster.publish_every
    tera = 1e12
    return [
        ("an update of the learner", f"{cluster.step_seconds:.2f} s, {learned:,.0f} examples/s"),
        ("examples scored", f"{seen:,.0f} /s"),
        ("GPUs that score", f"{actors} ({actors / cluster.learner_gpus:.1%} of the learner's)"),
        ("scoring / updates, FLOPs", f"{flop_ratio(cluster):.1%}"),
        (
            "scoring, achieved",
            f"{seen * cluster.models_scored * price(cluster) / tera:,.0f} TFLOP/s",
        ),
        ("ids, draws, scores, losses (28 B each)", f"{28 * seen / 1e6:.1f} MB/s"),
        ("pixels to actors", f"{seen * cluster.image_bytes / 1e9:.1f} GB/s"),
        ("pixels to the learner, again", f"{learned * cluster.image_bytes / 1e9:.1f} GB/s"),
        ("cores that decode", f"{(seen + learned) / cluster.decoded_per_core:,.0f}"),
        ("weights to one actor", f"{weights / 1e6:.1f} MB/s"),
        ("weights to all", f"{actors * weights / 1e6:,.0f} MB/s"),
        ("from update to actor", f"{1e3 * cluster.publish_seconds:.0f} ms"),
    ]


def price(cluster: Cluster) -> int:
    """FLOPs of one scoring pass."""
    return forward(cluster.actor, cluster.image)


def flop_ratio(cluster: Cluster) -> float:
    """FLOPs of scoring over those of the learner's updates."""
    scoring = cluster.rho * cluster.models_scored * price(cluster)
    return scoring / (3 * forward(cluster.learner, cluster.image))


def main() -> int:
    cluster, steps = arguments()
    print(
        f"{cluster.learner} learner on {cluster.learner_gpus} GPUs, {cluster.actor} actors, ",
        end="",
    )
    print(f"B = {cluster.super_batch:,}, b = {cluster.sub_batch:,}\n")
    for what, amount in needs(cluster):
        print(f"  {what:<42}{amount:>32}")
    print("\nsimulated: the learner's busy share, and staleness in updates (mean, most)\n")
    print(line("actors", "super-batches", "bound", "predicted", "busy", "mean", "most"))
    holds = [row(cluster, steps, *case) for case in cases(cluster)]
    return 0 if all(holds) else 1


def cases(cluster: Cluster) -> list[tuple[int, bool, int, float]]:
    """Actors, parted or not, bound on staleness, failures an hour of each actor."""
    exact = cluster.actors_needed
    spare = math.ceil(1.15 * exact)
    found = [(exact // 2, True, 8, 0.0), (exact, True, 8, 0.0)]
    for parted in (True, False):
        least = least_staleness(cluster, spare, parted=parted)
        room = math.ceil(1.15 * least) + 1  # times vary, and the slowest part decides
        found += [(spare, parted, 0, 0.0), (spare, parted, least, 0.0), (spare, parted, room, 0.0)]
    return [*found, (spare, True, 8, 0.1), (spare, False, 4 * spare, 0.1)]


def row(
    cluster: Cluster, steps: int, actors: int, parted: bool, bound: int, failures: float
) -> bool:
    """Print one simulated case; whether the arithmetic predicted its rate within 0.15."""
    found = simulate(
        cluster,
        actors,
        steps=steps,
        max_staleness=bound,
        parted=parted,
        failures_per_hour=failures,
    )
    share = predicted(cluster, actors, bound, parted=parted)
    manner = ("parted" if parted else "whole") + (f", {failures}/h fail" if failures else "")
    ages = (f"{statistics.mean(found.stale):.2f}", str(max(found.stale)))
    print(line(str(actors), manner, str(bound), f"{share:.3f}", f"{found.busy:.3f}", *ages))
    return failures > 0 or abs(found.busy - share) < 0.15


def line(actors: str, manner: str, *numbers: str) -> str:
    """One line of the table."""
    return f"  {actors:>6}  {manner:<18}" + "".join(f"{number:>11}" for number in numbers)


def predicted(cluster: Cluster, actors: int, bound: int, *, parted: bool) -> float:
    """The learner's busy share: bounded by the actors' rate, and by the way from update to score.

    Within ``bound + 1`` updates a super-batch is scored and the weights for it have travelled.
    """
    latency = cluster.super_batch_seconds / (actors if parted else 1)
    by_rate = cluster.super_batch_seconds / actors
    round_trip = cluster.step_seconds + cluster.publish_seconds + latency
    by_staleness = round_trip / (bound + 1)
    return cluster.step_seconds / max(cluster.step_seconds, by_rate, by_staleness)


def arguments() -> tuple[Cluster, int]:
    """The cluster that the command line describes, and how many updates to simulate."""
    default = Cluster()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    for name, value in vars(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    steps = given.pop("steps")
    return replace(default, **given), steps


if __name__ == "__main__":
    sys.exit(main())
