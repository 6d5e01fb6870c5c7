"""Configuration: what a run is, as values. Parsed at the edge; ``build`` turns it into objects."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from superbatch.errors import ConfigError


class Section(BaseModel):
    """Frozen, strict, and documented by its fields' docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(Section):
    """What is trained on, and what it is evaluated on."""

    path: str = "digits"
    """"digits", a .parquet file, a folder of images by class, an .npz, or a hub name."""
    label: str = "label"
    """The column to learn."""
    image: str = "image"
    """The column with images."""
    truth: str | None = None
    """A column with the true labels, only to report how many of the chosen are clean."""
    label_noise: float = Field(0.0, ge=0, lt=1)
    """Share of labels replaced by another class, for experiments; the truth is then known."""
    eval_path: str | None = None
    """Where to evaluate; none: on a part of --data.path that is never trained on."""
    eval_label: str = "label"
    """The label column of --data.eval-path."""
    evaluation_fraction: float = Field(0.2, ge=0, lt=1)
    """That part's share, where there is no --data.eval-path."""
    holdout_fraction: float = Field(0.0, ge=0, lt=1)
    """Share kept from the learner for a held-out reference."""
    part: Literal["pool", "holdout"] = "pool"
    """Which part is trained on; the reference of a held-out recipe trains on the holdout."""
    seed: int = 0
    """Decides the parts and the label noise; the same for every seed of a comparison."""
    image_size: int | None = Field(None, ge=1)
    """Side in pixels that images are resized to; none: the data's own."""
    flip: bool = False
    """Mirror half of the images."""
    crop_padding: int = Field(0, ge=0)
    """Crop at a random place after padding by so many pixels."""
    rand_augment: bool = False
    """RandAugment(2, 9) before flip and crop."""
    memory_gb: float = Field(2.0, ge=0)
    """Sets that fit are decoded once and kept in memory."""
    workers: int = Field(0, ge=0)
    """Processes that read ahead; 0 is fastest for sets in memory."""


class Select(Section):
    """Which examples are learned from."""

    criterion: Literal["uniform", "hard", "hard_learner", "easy", "learnability", "rho_loss"] = (
        "uniform"
    )
    """Which losses make the score."""
    super_batch_size: int = Field(128, ge=1)
    """B, examples scored in a step."""
    sub_batch_size: int = Field(64, ge=1)
    """b, examples learned from in a step."""
    temperature: float = Field(1.0, ge=0)
    """Of the softmax that is drawn from; 0 takes the highest scores."""
    bank_super_batches: int = Field(1, ge=1)
    """Capacity of the memory bank; 1 is Algorithm 1, more is replay."""
    max_times_sampled: int = Field(1, ge=1)
    """How often an example may be drawn from the bank."""


class Models(Section):
    """Sizes are L, B, S, Ti and our mu-100 ... mu-2400, with a patch: "S/16"; or any timm name."""

    learner: str = "mu-300/4"
    """The model that is paid for."""
    online: str = "mu-2400/4"
    """Scores, and learns what the learner learns."""
    reference: str = "mu-2400/4"
    """Scores; trained beforehand or alongside."""


class ReferenceTraining(Section):
    """How a reference is trained where none is given."""

    data: Literal["pool", "holdout", "alongside"] = "pool"
    """The learner's data, the held-out part, or the learner's data while the learner trains."""
    steps: int | None = Field(None, ge=1)
    """Updates beforehand; none: as many as the learner's."""
    batch_multiple: int = Field(10, ge=1)
    """Alongside: uniform examples per step, in sub-batches (paper, section 4.4)."""
    learning_rate_ratio: float = Field(2.0, gt=0)
    """Alongside: learning rate over the learner's (paper, section 4.4)."""


class Optimise(Section):
    """How every model learns."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak of the schedule."""
    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW, on matrices."""
    beta2: float = Field(0.999, gt=0, lt=1)
    """Of AdamW."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the updates with a rising learning rate; a cosine to 0 follows."""
    clip_norm: float = Field(1.0, ge=0)
    """Gradient norm above which gradients are scaled down; 0: never."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """In the learn loss only."""
    micro_batch_size: int = Field(0, ge=0)
    """Examples in one pass, gradients summed; 0: all at once."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Of an average of the learner's weights that is evaluated instead; 0: none."""
    bf16: bool = False
    """bf16 towers by autocast; losses stay fp32."""
    compile: bool = False
    """torch.compile the models; pays on a GPU and for minutes of training."""


class Record(Section):
    """What is written, and when."""

    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between evaluations; none: a twentieth of the run. The last step always counts."""
    evaluate_batch: int = Field(500, ge=1)
    """Examples in one evaluation pass."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Older checkpoints are removed."""
    selection: Literal["all", "chosen", "none"] = "all"
    """Which rows of each super-batch go to selection/."""
    tensorboard: bool = False
    """Write the same numbers for TensorBoard (extra [tensorboard])."""


class ActorSettings(Section):
    """Where super-batches are scored."""

    kind: Literal["inline"] = "inline"
    """In the learner's process, exactly in step."""


class Config(Section):
    """One run, whole."""

    recipe: str = "uniform"
    """Name of the recipe that the settings started from."""
    steps: int = Field(200, ge=1)
    """Updates of the learner."""
    seed: int = Field(0, ge=0)
    """Initial weights, order of the data, and draws."""
    out: str | None = None
    """The run folder; none: runs/<recipe>-seed<seed>."""
    reference: str | None = None
    """A trained reference: .safetensors weights or a finished run folder."""
    score_view: Literal["same", "plain"] = "same"
    """Score the augmented view that is learned, or the image as it is."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; auto: a GPU where there is one."""
    data: Data = Data()
    select: Select = Select()
    models: Models = Models()
    reference_training: ReferenceTraining = ReferenceTraining()
    optimise: Optimise = Optimise()
    record: Record = Record()
    actors: ActorSettings = ActorSettings()

    def changed(self, **sections: object) -> "Config":
        """A copy; a dict changes fields of a section, any other value replaces."""
        update: dict[str, object] = {}
        for name, value in sections.items():
            old = getattr(self, name)
            if isinstance(value, dict) and isinstance(old, Section):
                value = old.model_validate(old.model_dump() | value)
            update[name] = value
        return self.model_validate(self.model_dump() | update)


def uses_reference(config: Config) -> bool:
    """Whether the criterion weighs the losses of a reference."""
    return config.select.criterion in ("easy", "learnability", "rho_loss")


def check(config: Config) -> None:
    """Refuse settings that cannot work together, with a ``ConfigError``."""
    select = config.select
    if select.sub_batch_size > select.super_batch_size:
        raise ConfigError(
            f"--select.sub-batch-size ({select.sub_batch_size}) is larger than "
            f"--select.super-batch-size ({select.super_batch_size}); "
            "the sub-batch is chosen from the super-batch"
        )
    held_out = config.reference_training.data == "holdout" or config.data.part == "holdout"
    if held_out and config.data.holdout_fraction == 0 and config.reference is None:
        raise ConfigError(
            "a held-out reference needs data that the learner never sees, and "
            "--data.holdout-fraction is 0; give it a share, such as 0.5"
        )
    if config.data.label_noise and config.data.truth:
        raise ConfigError(
            f"--data.label-noise {config.data.label_noise} makes its own truth, and "
            f"--data.truth {config.data.truth} names another; leave one out"
        )
    if config.reference and not uses_reference(config):
        raise ConfigError(
            f"criterion {select.criterion} scores without a reference and cannot use "
            f"--reference {config.reference}; leave it out, or take a recipe such as classact"
        )
    if config.reference and config.reference_training.data == "alongside":
        raise ConfigError(
            f"recipe {config.recipe} trains its reference alongside the learner and cannot use "
            f"--reference {config.reference}; recipe classact can"
        )
