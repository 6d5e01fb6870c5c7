"""Selection: from scores to indices (paper, algorithm 1, line 5).

Drawn without replacement from ``softmax(scores / temperature)`` by Gumbel top-k, in log-space, so
that no score ever overflows an exponential. See ``docs/adr/0001`` for why without replacement.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from superbatch.errors import ConfigError, DataError


def gumbel(count: int, generator: Generator | None) -> Float[Tensor, " n"]:
    """``count`` standard Gumbel draws, fp32, on the generator's device.

    From 53-bit uniforms: 24-bit ones have so few values near 0 that the largest draws, the ones
    that decide, would tie. fp32 keeps those small values apart, and its logarithms are fast.
    """
    device = "cpu" if generator is None else generator.device
    noise = torch.rand(count, dtype=torch.float64, generator=generator, device=device).float()
    # Rounding may reach 1, whose logarithm below would be infinite: stay one step under it.
    noise.clamp_(torch.finfo(torch.float32).tiny, 1 - 2**-24)
    return noise.neg_().log1p_().neg_().log_().neg_()


def sample_indices(
    scores: Float[Tensor, " B"],
    size: int,
    *,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> Int[Tensor, " b"]:
    """``size`` distinct indices, ascending, drawn from ``softmax(scores / temperature)``.

    Temperature 0 takes the highest scores. Scores that are NaN or infinite are never chosen.
    Raises ``ConfigError`` for a negative temperature or for more indices than there are scores,
    ``DataError`` for more than there are finite scores.
    """
    if not temperature >= 0:
        raise ConfigError(f"temperature must be 0 (highest scores) or more; it is {temperature}")
    if not 0 < size <= len(scores):
        raise ConfigError(
            f"cannot choose {size} of {len(scores)} examples; "
            "the sub-batch must have at least one and at most all of the super-batch"
        )
    wanted = scores.detach().float()
    if temperature > 0:
        noise = gumbel(len(scores), generator).to(scores.device)
        wanted = torch.add(noise, wanted, alpha=1 / temperature)
    wanted = wanted.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    best = torch.topk(wanted, size, sorted=False)
    if torch.isneginf(best.values).any():
        finite = int(torch.isfinite(scores).sum())
        raise DataError(
            f"{size} examples are wanted and only {finite} of {len(scores)} have a finite score; "
            "a model that scores has diverged, or the data makes its loss infinite"
        )
    return best.indices.sort().values


def effective_sample_size(
    scores: Float[Tensor, " B"], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """``1 / sum(p^2)`` of ``p = softmax(scores / temperature)``: B when flat, 1 when one wins.

    Non-finite scores count for nothing; temperature 0 is the limit, the number of best scores.
    """
    finite = scores[torch.isfinite(scores)].double()
    if temperature == 0:
        return (finite == finite.max()).sum().float()
    log_p = torch.log_softmax(finite / temperature, dim=0)
    return torch.exp(-torch.logsumexp(2 * log_p, dim=0)).float()


def kept_gain(scores: Float[Tensor, " B"], chosen: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """How much better the chosen are than all: difference of mean scores, in standard deviations.

    0 for uniform; at rho = 2 and Gaussian scores at most 0.8 (top-k). 0 where scores do not vary.
    """
    finite = scores[torch.isfinite(scores)]
    spread = finite.std(correction=0)
    gain = (scores[chosen].mean() - finite.mean()) / spread
    return torch.where(spread > 0, gain, torch.zeros_like(gain))


def rank_correlation(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float:
    """Spearman's: 1 if both put the examples in the same order, -1 if in the opposite one.

    Ties get the mean of their ranks. 0 where one does not vary.
    """
    both = torch.stack([_ranks(first), _ranks(second)])
    return float(torch.corrcoef(both)[0, 1].nan_to_num(0.0))


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    ascending = values.sort().values
    below = torch.searchsorted(ascending, values)
    not_above = torch.searchsorted(ascending, values, right=True)
    return (below + not_above).double() / 2
