"""Selection: from scores to indices (paper, algorithm 1, line 5).

Drawn without replacement from ``softmax(scores / temperature)`` by Gumbel top-k, in log-space, so
that no score ever overflows an exponential. See ``docs/adr/0001`` for why without replacement.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from superbatch.errors import ConfigError, DataError, Diverged


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
    Raises ``ConfigError`` for a negative temperature, or one above 0 that is too near it, and for
    more indices than there are scores, ``DataError`` for scores in more than one dimension,
    ``Diverged`` for more than there are finite scores.
    """
    return _chosen(_perturbed(scores, size, temperature, generator), size)


def sample_weighted(
    scores: Float[Tensor, " B"],
    size: int,
    *,
    temperature: float = 1.0,
    generator: Generator | None = None,
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """What ``sample_indices`` draws, and the log of how likely each was to be among the drawn.

    Likely given the largest perturbed score of those left behind, kappa: an example is among the
    drawn where its own exceeds that, ``q = 1 - exp(-exp(score / temperature - kappa))``. Sums over
    the drawn of ``f / q`` are then, on average, sums over all with a finite score (Kool et al.
    2019, "Stochastic Beams and Where to Find Them"). fp32, 0 where all are drawn.

    Raises as ``sample_indices`` does, and ``ConfigError`` for temperature 0, which draws nothing
    by chance.
    """
    if temperature == 0:
        raise ConfigError(
            "importance weights say how likely an example was to be drawn, and temperature 0 takes "
            "the highest scores for certain; give a temperature above 0, or importance exponent 0"
        )
    perturbed = _perturbed(scores, size, temperature, generator)
    index = _chosen(perturbed, size)
    kappa = perturbed.index_fill(0, index, -torch.inf).max().double()
    above = scores.detach()[index].double() / temperature - kappa
    return index, torch.log(-torch.expm1(-torch.exp(above))).float()


def importance_weights(
    log_inclusion: Float[Tensor, " b"], count: int, *, exponent: float
) -> Float[Tensor, " b"]:
    """``(b / (count q)) ** exponent``: about 1 each, and 1 for all where the scores are flat.

    With ``exponent`` 1 the mean over the drawn of ``weight * f`` is on average the mean of ``f``
    over the ``count`` examples that could be drawn; with 0 every weight is 1 (the paper's way); in
    between part of the difference is left (Schaul et al. 2015, section 3.4).
    """
    share = math.log(len(log_inclusion) / count)
    return torch.exp(exponent * (share - log_inclusion))


LEAST_TEMPERATURE = 1e-30
"""Above 0: scores of up to 1e8 divided by it are finite in fp32."""


def check_temperature(temperature: float) -> None:
    """Raise ``ConfigError`` for a temperature that no score can be divided by, unless it is 0."""
    if not temperature >= 0:
        raise ConfigError(f"temperature must be 0 (highest scores) or more; it is {temperature}")
    if 0 < temperature < LEAST_TEMPERATURE:
        raise ConfigError(
            f"temperature {temperature} is too near 0 to divide by, where {LEAST_TEMPERATURE} is "
            "the least; take 0, which takes the highest scores"
        )


def _perturbed(
    scores: Float[Tensor, " B"], size: int, temperature: float, generator: Generator | None
) -> Float[Tensor, " B"]:
    """``scores / temperature`` with Gumbel noise, -inf where not finite; plain at temperature 0."""
    check_temperature(temperature)
    if scores.ndim != 1:
        raise DataError(
            f"scores are one number an example, and these are {tuple(scores.shape)}; give them in "
            "one dimension"
        )
    if not 0 < size <= len(scores):
        raise ConfigError(
            f"cannot choose {size} of {len(scores)} examples; "
            "the sub-batch must have at least one and at most all of the super-batch"
        )
    wanted = scores.detach().float()
    if temperature > 0:
        noise = gumbel(len(scores), generator).to(scores.device)
        wanted = torch.add(noise, wanted, alpha=1 / temperature)
    return wanted.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _chosen(perturbed: Float[Tensor, " B"], size: int) -> Int[Tensor, " b"]:
    """The ``size`` highest, ascending. ``Diverged`` where fewer are finite."""
    best = torch.topk(perturbed, size, sorted=False)
    if torch.isneginf(best.values).any():
        finite = int(torch.isfinite(perturbed).sum())
        raise Diverged(
            f"{size} examples are wanted and only {finite} of {len(perturbed)} have a finite "
            "score; a model that scores has diverged, or the data makes its loss infinite"
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
    # fp64: the rounding of fp32 sums may be all that tells the mean of equal scores from them.
    exact = scores.double()
    finite = exact[torch.isfinite(exact)]
    if not len(finite):
        return torch.zeros((), device=scores.device)
    low, high = finite.aminmax()
    gain = (exact[chosen].mean() - finite.mean()) / finite.std(correction=0)
    return torch.where(low < high, gain, 0.0).float()


def rank_correlation(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float:
    """Spearman's: 1 if both put the examples in the same order, -1 if in the opposite one.

    Ties get the mean of their ranks. 0 where one does not vary.
    """
    both = torch.stack([ranks(first), ranks(second)])
    return float(torch.corrcoef(both)[0, 1].nan_to_num(0.0))


def ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """From 0.5 for the smallest to n - 0.5; ties get the mean of theirs. fp64."""
    ascending = values.sort().values
    below = torch.searchsorted(ascending, values)
    not_above = torch.searchsorted(ascending, values, right=True)
    return (below + not_above).double() / 2
