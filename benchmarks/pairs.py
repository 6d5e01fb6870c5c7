"""What runs on pairs of images and captions came to: recalls, costs, and who was chosen.

    python benchmarks/pairs.py RUNS_OF_SEED_0 RUNS_OF_SEED_1 ... --out results.json

Each folder is what ``superbatch compare`` wrote. Besides recall and cost it gives, where captions
were moved, the share of matching pairs among the chosen, and how well the reference's act loss and
the score tell a matching pair from a moved one (area under the ROC curve, over all scored).
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from superbatch.config import Config
from superbatch.problems import problem_of


def areas(run: Path) -> dict[str, float]:
    """How well each column of ``selection/`` ranks matching pairs above moved ones."""
    config = Config.model_validate(json.loads((run / "config.json").read_text()))
    if not config.data.caption_noise or config.select.criterion == "uniform":
        return {}
    examples: Any = problem_of(config.changed(data={"memory_gb": 0.0})).examples
    parts = sorted((run / "selection").glob("*.parquet"))
    rows = pa.concat_tables([pq.read_table(part) for part in parts])
    ids = rows["id"].to_numpy()  # ids number the pairs, so they are rows as well
    matches = examples.caption_of[ids] == examples.image_ids[ids]
    wanted = {"score": rows["score"].to_numpy()}
    if "loss/reference" in rows.column_names:
        wanted["reference"] = -rows["loss/reference"].to_numpy()
    return {
        f"auc_{name}": float(roc_auc_score(matches[np.isfinite(values)], values))
        for name, values in wanted.items()
    }


def result(run: Path) -> dict[str, Any]:
    """One run, flat."""
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = {
        key: [line[key] for line in lines if "val/mean_recall" in line]
        for key in ("step", "flops/full", "seconds", "val/mean_recall")
    }
    phases = dict(summary["seconds"]["by_phase"])
    phases.pop("evaluation", None)
    return {
        "recipe": summary["recipe"],
        "seed": summary["seed"],
        **summary["val"],
        "flops_paper": summary["flops"]["paper"],
        "flops_full": summary["flops"]["full"],
        "seconds": sum(phases.values()),
        **{k: v for k, v in summary["selection"].items() if k.startswith("clean_share")},
        **areas(run),
        "curve": curve,
    }


def shown(results: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over seeds, a recipe a line."""
    by_recipe = defaultdict(list)
    for one in results:
        by_recipe[one["recipe"]].append(one)
    names = [name for name in results[0] if name not in ("recipe", "seed", "curve")]
    names += ["clean_share", "auc_reference", "auc_score"]
    for name in dict.fromkeys(names):
        print(name)
        for recipe, runs in by_recipe.items():
            values = [run[name] for run in runs if name in run]
            if values:
                spread = stdev(values) if len(values) > 1 else float("nan")
                print(f"  {recipe:14} {fmean(values):.4g} +- {spread:.2g} of {len(values)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    runs = [path.parent for folder in given.folders for path in folder.glob("*-seed*/summary.json")]
    found = [result(run) for run in sorted(runs)]
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    shown(found)
