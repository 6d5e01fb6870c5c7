"""What of a run has state: written whole after a step, and gone on with on any number of ranks."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from superbatch.bank import Bank
from superbatch.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from superbatch.clock import Clock
from superbatch.distributed import from_main, gather_objects, united, world
from superbatch.errors import CheckpointError
from superbatch.feed import inputs_of
from superbatch.flops import Ledger
from superbatch.learner import Learner
from superbatch.problems import Evaluation
from superbatch.record import Recorder
from superbatch.references import AnyReference
from superbatch.run import RunFolder
from superbatch.sources import Stream
from superbatch.sources.stream import Batches
from superbatch.types import Batch, Role


@dataclass(frozen=True, kw_only=True)
class State:
    """All of a run that has state, as one."""

    folder: RunFolder
    device: torch.device
    trained: Mapping[Role, Learner]
    reference: AnyReference | None
    bank: Bank
    stream: Batches
    uniform: Mapping[Role, Stream]
    ledger: Ledger
    recorder: Recorder
    clock: Clock

    def save(self, number: int, result: Evaluation | None, *, keep: int) -> None:
        """Write a checkpoint of step ``number``, of which ``keep`` stay; for all."""
        state, folder = self.state_dict(number, result), self.folder.checkpoints
        from_main(lambda: str(save_checkpoint(folder, number, state, keep=keep)))

    def state_dict(self, number: int, result: Evaluation | None) -> dict[str, Any]:
        """Everything with state after step ``number``; for all, and whole on rank 0.

        It is the same on any number of ranks, but for their random states, one each.
        """
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": number,
            "inputs": self._inputs,
            "learners": {role: learner.state_dict() for role, learner in self.trained.items()},
            "reference": self.reference.state_dict() if self.reference else {},
            "bank": self.bank.state_dict(),
            "stream": state_of_all(self.stream),
            "uniform": {role: state_of_all(stream) for role, stream in self.uniform.items()},
            "ledger": self.ledger.state_dict(),
            "recorder": self.recorder.state_dict(),
            "clock": self.clock.state_dict(),
            "random": gather_objects(random),
            "result": None if result is None else asdict(result),
        }

    @cached_property
    def _inputs(self) -> dict[str, str | None]:
        """What the run reads besides its folder, so that it does not go on with anything else."""
        reference = self.reference.identity if self.reference else None
        return {**inputs_of(self.stream), "reference": reference}

    def restore(
        self, examples_of: Callable[[Int[Tensor, " n"]], Batch]
    ) -> tuple[int, Evaluation | None]:
        """Load the newest checkpoint, forget what came after it; its step and last evaluation.

        ``examples_of`` reads what the bank holds of the examples of draws.
        """
        found = from_main(lambda: checkpoints(self.folder.checkpoints))
        if not found:
            self.folder.rewind(0)
            return 0, None
        state = load_checkpoint(found[-1])
        if "inputs" not in state:
            raise CheckpointError(
                f"{found[-1]} was written by an earlier version, whose memory banks and splits "
                "were others; go on with that version, or start a new run"
            )
        refuse_other_inputs(state["inputs"], self._inputs, self.folder.path)
        for role, learner in self.trained.items():
            learner.load_state_dict(state["learners"][role])
        if self.reference is not None:
            self.reference.load_state_dict(state.get("reference", {}))
        self.stream.load_state_dict(state["stream"])
        for role, stream in self.uniform.items():
            stream.load_state_dict(state["uniform"][role])
        self.bank.load_state_dict(state["bank"], examples_of)
        self.ledger.load_state_dict(state["ledger"])
        self.recorder.load_state_dict(state["recorder"])
        self.clock.load_state_dict(state["clock"])
        for random in state["random"][world()[0] :][:1]:  # more ranks than before begin anew
            torch.set_rng_state(random["cpu"])
            if "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.device)
        self.folder.rewind(state["step"])
        result = state["result"]
        return state["step"], None if result is None else Evaluation(**result)


def refuse_other_inputs(
    then: Mapping[str, str | None], now: Mapping[str, str | None], run: Path
) -> None:
    """Raise ``CheckpointError`` where what is read has changed since the checkpoint."""
    for name in then:
        if then[name] != now[name]:
            raise CheckpointError(
                f"the {name} of {run} changed since its last checkpoint (then {then[name]}, now "
                f"{now[name]}); put it back, or start a new run"
            )


def state_of_all(stream: Batches) -> dict[str, Any]:
    """The state of ``stream``, with what any rank found broken; for all."""
    return stream.state_dict() | {"skipped": united(stream.skipped)}
