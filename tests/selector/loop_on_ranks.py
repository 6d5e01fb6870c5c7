"""What `torchrun` runs for test_selector_ranks.py: FOLDER, where each rank writes what it found."""

import os
import sys

import torch
from selector_parts import by_columns, digits, linear, made_up, selector, small
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from superbatch.criterion import Criterion, rho_loss
from superbatch.selector import AutoOff


STEPS, ROWS = 6, 32
ABOVE_MEAN = Criterion({"online": 1.0}, shape=lambda sums: (sums > sums.mean()).float())


def own(batch, rank):
    """The half of a super-batch that belongs to a rank."""
    half = ROWS // 2
    return {name: field[rank * half : (rank + 1) * half] for name, field in batch.items()}


def run(chooser, batches):
    """The ids that were kept, and the online model's weights after each step."""
    ids, weights = [], []
    for batch in batches:
        picked = chooser.pick(batch)
        chooser.learn(picked)
        ids.append(picked.ids.tolist())
        online = chooser._scorer.models["online"].state_dict()
        weights.append({name: value.clone() for name, value in online.items()})
    return ids, weights


def main(folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    batches = [own(batch, rank) for batch in digits(STEPS, rows=ROWS)]
    found = {}
    found["ids"], found["weights"] = run(selector(online=small(10 + rank)), batches)

    first = selector(online=small(10 + rank))
    run(first, batches[:3])
    if rank == 0:
        torch.save(first.state_dict(), f"{folder}/state.pt")
    distributed.barrier()
    resumed = selector(online=small(20 + rank))
    resumed.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
    found["resumed ids"], found["resumed weights"] = run(resumed, batches[3:])

    online = linear(10 + rank)
    optimizer = torch.optim.SGD(online.parameters(), lr=0.1)
    plain = selector(online=online, reference=linear(2), optimizer=optimizer)
    found["plain ids"], found["plain weights"] = run(plain, batches)

    losses = made_up([4.0 * rank, 4.0 * rank + 1, 4.0 * rank + 2, 4.0 * rank + 3], [0.0] * 4)
    for scope in ("local", "global"):
        shaped = by_columns(criterion=ABOVE_MEAN, selection=scope).pick(losses)
        found[scope] = shaped.scores

    # flat on rank 1 only: both must agree, or the next collective would wait for ever
    flat = made_up([1.0] * 4 if rank else [1.0, 2.0, 3.0, 4.0], [0.0] * 4)
    both = by_columns(auto_off=AutoOff(window=2, slow=False))
    for _ in range(4):
        both.learn(both.pick(flat))
    found["off"] = both.off

    learner = DistributedDataParallel(small(3))
    by_learner = selector(criterion=rho_loss, learner=learner)
    found["learner ids"] = by_learner.pick(batches[0]).ids.tolist() if rank == 0 else None
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.barrier()
    # All is written. gloo's own threads may abort a process that goes on to tidy up.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
