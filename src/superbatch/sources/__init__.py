"""Sources: examples at random access, and one endless uniform stream of them.

The position in the stream determines everything. A run's data are the *draws* 0, 1, 2, ... without
end; draw ``d`` belongs to epoch ``d // len(pool)``, its example stands at ``d % len(pool)`` of that
epoch's keyed permutation of the pool, and its augmentation is a pure function of (seed, ``d``). So
any example of any step can be read again from its draw alone, by anyone, and resuming is
arithmetic: nothing is shuffled, nothing is remembered but a count.

    open_examples    a path -> `Examples`: rows with stable ids, read in any order
    open_pairs       tar shards -> `PairExamples`: the same for images with captions
    split_rows       rows -> pool, holdout, evaluation: no example in two of them
    split_pairs      the same of pairs: no image in two of them
    Stream           pool -> batches with ids and draws, resumable, sharded by rank
    augmentation     a batch -> the same examples as this draw sees them
    duplicates       a batch of pairs -> which have an id, an image or a text once more
"""

from superbatch.sources.catalogue import Catalogue, catalogue_of
from superbatch.sources.duplicates import duplicates, without_duplicates
from superbatch.sources.examples import ArrayExamples, EncodedExamples, Examples
from superbatch.sources.open import open_examples
from superbatch.sources.pairs import PairExamples, open_pairs, split_pairs
from superbatch.sources.permutation import permuted, random_bits
from superbatch.sources.splits import Splits, split_rows
from superbatch.sources.stream import Readable, Stream
from superbatch.sources.views import augmentation, plain


__all__ = [
    "ArrayExamples",
    "Catalogue",
    "EncodedExamples",
    "Examples",
    "PairExamples",
    "Readable",
    "Splits",
    "Stream",
    "augmentation",
    "catalogue_of",
    "duplicates",
    "open_examples",
    "open_pairs",
    "permuted",
    "plain",
    "random_bits",
    "split_pairs",
    "split_rows",
    "without_duplicates",
]
