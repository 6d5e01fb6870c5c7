"""Configuration: what a run is, as values. Parsed at the edge; ``build`` turns it into objects."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from superbatch.errors import RunError


class Section(BaseModel):
    """Frozen, strict, and documented by its fields' docstrings. Numbers are finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Data(Section):
    """What is trained on, and what it is evaluated on."""

    path: str = "digits"
    """"digits", a .parquet file, a folder of images by class, an .npz, or a hub name; of pairs, tar
    shards: a file, a folder, a pattern such as "part-{000..127}.tar", or a URL; of texts, a .tsv,
    .csv (both also gzipped) or .parquet file, or a hub name."""
    label: str = "label"
    """The column to learn. In a .tsv or .csv without a header columns are numbered from 0."""
    image: str = "image"
    """The column with images."""
    text: str = "text"
    """The column with texts."""
    vocabulary: str | None = None
    """Of texts: a file with BERT's vocabulary, one word-piece a line (vocab.txt). Texts are read
    in lower case unless it has a piece with a capital letter."""
    truth: str | None = None
    """A column with the true labels, only to report how many of the chosen are clean."""
    label_noise: float = Field(0.0, ge=0, lt=1)
    """Share of labels replaced by another class, for experiments; the truth is then known."""
    caption_noise: float = Field(0.0, ge=0, lt=1)
    """Share of captions moved to another image, for experiments; what matches is then known."""
    context: int = Field(32, ge=4)
    """Tokens of a caption or a text; longer ones are cut."""
    deduplicate: bool = False
    """Leave pairs with the same image or caption as an earlier one out of each super-batch."""
    subset: str | None = None
    """A list of ids to train on, no others: .txt or .parquet (superbatch subset makes one)."""
    order: str | None = None
    """A foundation curriculum: learn in this order, score nothing (superbatch order makes one)."""
    eval_path: str | None = None
    """Where to evaluate; none: on a part of --data.path that is never trained on."""
    eval_label: str = "label"
    """The label column of --data.eval-path."""
    evaluation_fraction: float = Field(0.2, ge=0, lt=1)
    """That part's share, where there is no --data.eval-path."""
    holdout_fraction: float = Field(0.0, ge=0, lt=1)
    """Share kept from the learner for a held-out reference."""
    part: Literal["pool", "holdout", "first_half", "second_half"] = "pool"
    """Which part is trained on; the reference of a held-out recipe trains on the holdout, those of
    a recipe without one on halves of the pool."""
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

    criterion: Literal[
        "uniform",
        "hard",
        "hard_learner",
        "easy",
        "learnability",
        "rho_loss",
        "grad_norm",
        "grad_norm_is",
        "grad_norm_full",
        "entropy",
        "conditional_entropy",
        "bald",
        "loss_minus_conditional_entropy",
        "selective_backprop",
        "infobatch",
    ] = "uniform"
    """Which losses, or other measures, make the score: docs/methods has a card for each."""
    super_batch_size: int = Field(128, ge=1)
    """B, examples scored in a step."""
    sub_batch_size: int = Field(64, ge=1)
    """b, examples learned from in a step."""
    temperature: float = Field(1.0, ge=0)
    """Of the softmax that is drawn from; 0 takes the highest scores."""
    importance_exponent: float = Field(0.0, ge=0, le=1)
    """Of the weights that undo the selection in the learn loss: 1 wholly, 0 not (the paper)."""
    bank_super_batches: int = Field(1, ge=1)
    """Capacity of the memory bank; 1 is Algorithm 1, more is replay."""
    max_times_sampled: int = Field(1, ge=1)
    """How often an example may be drawn from the bank."""
    bank_examples: int | None = Field(None, ge=1)
    """Capacity in examples instead, of however many super-batches."""
    bank_removal: Literal["oldest", "lowest"] = "oldest"
    """What makes room in a full bank: the examples that came first, or the lowest scores."""
    bank_minimum: int = Field(1, ge=1)
    """Examples that must have come before the first is drawn."""
    samples_per_insert: float | None = Field(None, gt=0)
    """How often an example that comes is drawn on average; none: a super-batch is scored for every
    sub-batch. Above 1/rho super-batches are scored less often than every step."""
    bank_error_buffer: float | None = Field(None, gt=0)
    """By how many examples draws may be off from that; none: the least that cannot deadlock."""
    max_staleness: int | None = Field(None, ge=0)
    """Scores older than so many steps are not drawn by; none: however old."""
    when_stale: Literal["drop", "rescore"] = "drop"
    """Examples with older scores leave the bank, or are scored again."""
    keep_examples: bool = True
    """Keep pixels in the bank; no: ids only, and what is drawn is read again."""
    joint: bool = False
    """Choose pairs that are learnable together (JEST), not each for itself."""
    chunks: int = Field(16, ge=1)
    """Joint: the sub-batch is drawn in so many parts; they must divide it."""
    first_chunk: Literal["softmax", "uniform"] = "softmax"
    """Joint: how the first part is drawn, when nothing is chosen yet."""


class Contrastive(Section):
    """What image-text models learn by, and are scored by."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Learn loss: CLIP's, or SigLIP's with a learnable temperature and bias."""
    act: Literal["dot", "contrastive", "sigmoid_diagonal"] = "dot"
    """Act loss: minus the similarity (paper, eq. 7), the loss within the super-batch, or the
    sigmoid loss of the pair alone."""
    score_scale: float = Field(20.0, gt=0)
    """What similarities are multiplied by in act loss "dot": those of a batch differ by about
    0.05, so that at 1 and temperature 1 the choice would be almost uniform."""
    score_patch: int | None = Field(None, ge=1)
    """Score at this coarser patch with the same weights, and learn at both (Flexi-JEST)."""


class Models(Section):
    """Sizes are L, B, S, Ti and our mu-100 ... mu-2400, with a patch: "S/16"; or any timm name.

    Of pairs: the same for both towers, or "S/16+mu-600" with the text tower's own; or
    "open_clip:NAME", an open_clip configuration (.json), or a folder with one and weights.

    Of texts: "bert-tiny", mini, small, medium, base; "bert-DEPTH/WIDTH"; or a BERT configuration
    (config.json). Where none is named, bert-mini learns and bert-tiny scores."""

    learner: str = "mu-300/4"
    """The model that is paid for: "S/16" (ViT: L, B, S, Ti or mu-N), "conv-8/2", or timm's name."""
    online: str = "mu-2400/4"
    """Scores, and learns what the learner learns."""
    reference: str = "mu-2400/4"
    """Scores; trained beforehand or alongside."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of what each layer, and the head, is shown that dropout hides while they learn. Models
    of texts have BERT's 0.1 where this is 0."""


class ReferenceTraining(Section):
    """How a reference is trained where none is given."""

    data: Literal["pool", "holdout", "alongside", "halves", "past"] = "pool"
    """The learner's data, the held-out part, the learner's data while the learner trains, or halves
    of it for two references, each of which scores the other's; past: none is trained, it is a slow
    average of the model that it is held against."""
    steps: int | None = Field(None, ge=1)
    """Updates beforehand; none: as many as the learner's."""
    learning_rate: float | None = Field(None, gt=0)
    """Beforehand: a small model often learns best at a higher one; none: the learner's."""
    batch_multiple: int = Field(10, ge=1)
    """Alongside: uniform examples per step, in sub-batches (paper, section 4.4)."""
    past_decay: float = Field(0.99, ge=0, lt=1)
    """Past: weight of the past in the average, at each step."""
    learning_rate_ratio: float = Field(2.0, gt=0)
    """Alongside: learning rate over the learner's (paper, section 4.4)."""
    ahead: int | None = Field(None, ge=0)
    """Alongside: updates that it may be ahead of the learner, in a process or on a host of its own;
    0: it learns in the learner's process; none: 2 where actors score elsewhere."""


class Optimise(Section):
    """How every model learns."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak of the schedule."""
    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW, on matrices."""
    beta2: float = Field(0.999, gt=0, lt=1)
    """Of AdamW."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the updates with a rising learning rate; a cosine to 0 follows, which the last
    update has: it changes no weight."""
    clip_norm: float = Field(1.0, ge=0)
    """Gradient norm above which gradients are scaled down; 0: never."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """In the learn loss only."""
    micro_batch_size: int = Field(0, ge=0)
    """Examples in one pass, gradients summed; 0: all at once, of those that are scored on a CPU as
    many as fit its caches."""
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

    kind: Literal["inline", "process", "ray"] = "inline"
    """In the learner's process, exactly in step; or, while it learns, in processes beside it, or on
    a Ray cluster."""
    count: int = Field(1, ge=1)
    """Processes that score; each opens the data by itself."""
    count_max: int | None = Field(None, ge=1)
    """Processes are added, up to so many, while the learner would wait; none: always the count."""
    max_staleness: int | None = Field(None, ge=0)
    """Updates that the weights which score may be behind; 0: in step; none: 2 for each actor."""
    timeout: float = Field(300.0, gt=0)
    """Seconds for a super-batch, after which an actor is taken to hang and replaced."""
    threads: int = Field(1, ge=1)
    """Threads that each actor computes in."""
    cores: tuple[int, ...] = ()
    """Cores that actors keep to; none: any."""
    device: str | None = None
    """Where actors score; none: --device."""


class Ranks(Section):
    """Several learners in step, one a device: started by torchrun (torchrun --nproc-per-node 4 -m
    superbatch train), or by Ray Train."""

    kind: Literal["ddp", "fsdp"] = "ddp"
    """The learner is whole on every rank, or cut into shards (FSDP2); other models are whole."""
    selection: Literal["global", "local"] = "global"
    """Choose from the whole super-batch what all ranks learn, or each rank from its own part."""
    timeout_seconds: float = Field(600.0, gt=0)
    """A rank that waits longer for the others ends."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts ranks: torchrun, or nobody; or Ray Train, on the cluster of --ray.address."""
    count: int = Field(1, ge=1)
    """Ranks that Ray Train starts."""
    cpus: float = Field(1.0, ge=0)
    """Cores that each rank of Ray Train takes up, and threads that it computes in."""
    gpus: int = Field(0, ge=0, le=1)
    """GPUs that each rank of Ray Train takes up."""
    resource: str | None = None
    """A custom resource that hosts with ranks of Ray Train must have; none: any host."""
    restarts: int = Field(0, ge=0)
    """Times that Ray Train starts all ranks again where one was lost; they go on from the newest
    checkpoint."""


class RaySettings(Section):
    """The cluster of --actors.kind ray and --ranks.launcher ray (extra [ray])."""

    address: str | None = None
    """"auto" or HOST:PORT of a cluster; none: a Ray of this host alone, for as long as the run."""
    cpus: float = Field(1.0, ge=0)
    """Cores that each actor takes up."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that each actor takes up, also a part of one."""
    resource: str | None = None
    """A custom resource that hosts with actors must have, such as "actors"; none: any host."""


class Config(Section):
    """One run, whole."""

    recipe: str = "uniform"
    """Name of the recipe that the settings started from."""
    task: Literal["classification", "image_text", "text"] = "classification"
    """What is learned: labels of images, which caption belongs to which image, labels of texts."""
    steps: int = Field(200, ge=1)
    """Updates of the learner."""
    seed: int = Field(0, ge=0)
    """Initial weights, order of the data, and draws."""
    out: str | None = None
    """The run folder; none: runs/<recipe>-seed<seed>."""
    reference: str | None = None
    """A trained reference: .safetensors weights, a finished run folder, or a table of its losses
    (superbatch score makes one)."""
    reference_missing: str | None = None
    """The checkpoint that a table given as --reference was made with, to score what it lacks; none:
    that is an error."""
    reference_data: str | None = None
    """Other data to train the reference on, such as a small curated set; read as --data.path is,
    without the noise that experiments add."""
    score_view: Literal["same", "plain"] = "same"
    """Score the augmented view that is learned, or the image as it is."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; auto: a GPU where there is one."""
    data: Data = Data()
    select: Select = Select()
    contrastive: Contrastive = Contrastive()
    models: Models = Models()
    reference_training: ReferenceTraining = ReferenceTraining()
    optimise: Optimise = Optimise()
    record: Record = Record()
    actors: ActorSettings = ActorSettings()
    ranks: Ranks = Ranks()
    ray: RaySettings = RaySettings()

    def changed(self, **sections: object) -> "Config":
        """A copy; a dict changes fields of a section, any other value replaces."""
        update: dict[str, object] = {}
        for name, value in sections.items():
            old = getattr(self, name)
            if isinstance(value, dict) and isinstance(old, Section):
                value = old.model_validate(old.model_dump() | value)
            update[name] = value
        return self.model_validate(self.model_dump() | update)


def config_of_run(values: Any, folder: Path) -> Config:
    """``values`` of the run in ``folder``. Raises ``RunError`` where they are no configuration."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise RunError(
            f"{folder / 'config.json'} is not what a run wrote: {wrong_values(error)}; restore it, "
            "or start a new run"
        ) from error


def in_file(title: str, path: Sequence[str]) -> str:
    """A field as a file names it."""
    return ".".join(path) or "the whole"


def wrong_values(
    error: ValidationError, name: Callable[[str, Sequence[str]], str] = in_file
) -> str:
    """Each bad value as a clause; ``name`` names a field by its model's title and path there."""
    return "; ".join(
        f"{name(error.title, [str(part) for part in one['loc']])}: {one['msg']} "
        f"(it is {one['input']!r})"
        for one in error.errors()
    )
