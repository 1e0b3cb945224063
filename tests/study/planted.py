"""A study with planted results: records of the project's own writer, without training."""

import numpy as np
import yaml
from simulated_records import write_answers, write_run

from hpc_jepa.config import loading
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.study.grid import expand_study

CLIPS, CLASSES, STEPS = 2000, 8, 2


class PlantedStudy:
    """``study.yaml`` below ``folder``, and chosen results of its cells."""

    def __init__(self, folder, variants, seeds, benchmarks=("motion",), **more):
        self.folder, self.runs, self.path = folder, folder / "runs", folder / "study.yaml"
        self.labels = np.arange(CLIPS) % CLASSES
        shards = str(folder / "no-shards")
        regime = {"regime": "tiny", "data": {"sources": {"none": {"shards": shards}}}, "schedule": {"steps": STEPS}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(regime))
        probes = {"linear": {"kind": "logistic"}, "knn": {"kind": "knn"}}
        protocol = {"train": shards, "test": shards, "clip": {}, "probes": probes, "probe_seeds": [0]}
        for name in benchmarks:
            benchmark = {"name": name, "title": name, "classes": CLASSES, "protocols": {"standard": protocol}}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(benchmark, sort_keys=False))
        self.content = {
            "study": "demo",
            "regimes": [str(folder / "tiny.yaml")],
            "variants": list(variants),
            "seeds": list(seeds),
            "evaluations": [{"benchmark": str(folder / f"{name}.yaml"), "weights": ["target"]} for name in benchmarks],
            **more,
        }
        self.write()

    def write(self, **changes):
        """Write the study again, with changed keys; None removes one."""
        self.content = {key: x for key, x in {**self.content, **changes}.items() if x is not None}
        self.path.write_text(yaml.safe_dump(self.content))
        return self.path

    @property
    def config(self):
        return loading.read_config(StudyConfig, [self.path])

    @property
    def cells(self):
        return expand_study(self.config, self.runs)

    def plant(self, cells=None, gain=None, seed_spread=0.01):
        """Write records of cells: about half of the clips are right, ``gain``: variant -> more of them.

        Seeds move all variants of a seed together, and each variant by ``seed_spread``.
        """
        for cell in self.cells if cells is None else cells:
            config = cell.config
            common = np.random.default_rng(config.seed)
            own = np.random.default_rng([config.seed, *config.variant.encode()])
            share = 0.5 + 0.02 * common.standard_normal() + seed_spread * own.standard_normal()
            share += (gain or {}).get(config.variant, 0.0)
            right = np.random.default_rng(0).permutation(CLIPS) < round(share * CLIPS)
            for evaluation in cell.evaluations:
                self.record(cell, evaluation, right)

    def record(self, cell, evaluation, right):
        """Write one record in which the clips ``right`` are correct; the second probe says the opposite."""
        step = evaluation.step
        write_run(cell.config, *(() if step is None else ("interrupted", step)))
        answers = {("target", "linear"): right, ("target", "knn"): ~right}
        fingerprint = evaluation.benchmark.protocols[evaluation.protocol].fingerprint()
        name = evaluation.benchmark.name
        return write_answers(
            cell.config, name, evaluation.protocol, answers, step=step, protocol_fingerprint=fingerprint
        )
