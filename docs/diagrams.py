"""Draw the diagrams of ``architecture.md``: ``python docs/diagrams.py`` writes ``docs/images/*.svg``.

A test checks that every name is defined in the file given beside it, and that the drawings are up to date.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

IMAGES = Path(__file__).parent / "images"
WIDTH, TOP, ROW, BOX = 980, 14, 62, 330
STYLE = """<style>
  text { font: 13px system-ui, sans-serif; fill: #24292f } .name { font-weight: 600 }
  .path { font: 11px ui-monospace, monospace; fill: #57606a } .floor { fill: #57606a }
  rect { fill: #eef4fb; stroke: #9db8d6 } .page { fill: #ffffff; stroke: none }
  line, path { stroke: #57606a; fill: none }
</style>"""
ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" style="fill:#57606a"/></marker></defs>'
)


class Stage(NamedTuple):
    """One box: a name defined in a file (below ``hpc_jepa/``, or from the root), and what happens there."""

    name: str
    file: str
    text: str

    @property
    def path(self) -> str:
        """The file from the root of the checkout."""
        return self.file if self.file.startswith("slurm/") else f"hpc_jepa/{self.file}"


CLIP = (
    Stage(
        "ClipSampler", "data/clip_sampler.py", "Seed and step -> sample, start, crop and flip of each clip: ClipDraws"
    ),
    Stage("ShardFolder", "data/shards/shard_folder.py", "Reads one sample from a tar by its byte range: StoredVideo"),
    Stage("Prefetcher", "data/prefetch.py", "Reads samples some steps ahead, in threads"),
    Stage("plan_clip", "data/clip.py", "Frames to read, and the crop window: ClipPlan"),
    Stage("decode_clip", "data/clip.py", "PyAV decodes: uint8 [F, h, w, 3]. On a GPU, DALI decodes"),
    Stage(
        "ClipPipeline",
        "data/dali_pipeline.py",
        "DALI crops, resizes, flips, normalises: ClipBatch, pixels [B, C, F, H, W]",
    ),
    Stage("MaskSampler", "masking/mask_sampler.py", "Context and target token indices of each mask group: TokenMasks"),
    Stage(
        "BatchPrefetcher",
        "training/batches.py",
        "Clips and masks of the next step, while the current one trains: TrainBatch",
    ),
    Stage("VideoJEPA", "models/video_jepa.py", "Student, predictor and EMA target -> Latents"),
    Stage("ObjectiveSet", "objectives/composition.py", "Each objective: Latents -> named scalar terms"),
    Stage("weighted_sum", "objectives/composition.py", "Loss = sum of terms times their coefficients of this step"),
    Stage("NonFiniteGuard", "training/nonfinite.py", "Marks a non-finite loss on the device, without a host sync"),
    Stage("optimizer_step", "training/engine.py", "DeepSpeed ZeRO; a marked step changes nothing and is counted"),
    Stage("TargetEMA", "training/ema.py", "Target <- momentum * target + (1 - momentum) * student"),
    Stage("MetricsLogger", "training/metrics.py", "Copies metrics asynchronously, writes metrics.jsonl one step later"),
)
KEY = (
    Stage("split_overrides", "cli/console.py", "Command line -> YAML files, key=value overrides"),
    Stage("find_config", "config/loading.py", "File by path or name; the working directory wins over the package"),
    Stage(
        "merge_files",
        "config/loading.py",
        "extends: first, then files left to right, then overrides; keeps file:line per key",
    ),
    Stage("rename_keys", "config/renamed_keys.py", "Keys of older releases -> present names, with one warning"),
    Stage("read_config", "config/loading.py", "Errors with file, line, key and the nearest valid key"),
    Stage("RunConfig", "config/run.py", "The typed, frozen configuration of a run"),
    Stage(
        "validate_objectives",
        "objectives/registry.py",
        "Typed options of each objective, and what it requires of the run",
    ),
    Stage(
        "fingerprint",
        "config/fingerprint.py",
        "Hash of the settings that differ from the defaults and decide the outcome",
    ),
    Stage(
        "refuse_other_config",
        "runs/acquire.py",
        "A run folder keeps its configuration; checkpoint.accept names exceptions",
    ),
    Stage("build_run", "training/build.py", "Each part gets its own section: loader, masks, engine, checkpoints, ..."),
    Stage("dump_config", "config/loading.py", "RUN/config.yaml; also stored in every checkpoint and evaluation record"),
)
SIGNAL = (
    Stage(
        "SlurmSubmitter",
        "study/slurm_submitter.py",
        "sbatch --signal=USR2@warning --requeue: Slurm signals before the time limit",
    ),
    Stage("run_in_job", "study/task.py", "Runs in the job; forwards USR1, USR2 and TERM to the command"),
    Stage(
        "install_stop_handler",
        "training/shutdown.py",
        "hpc-jepa handles stop signals from its first line, before importing torch",
    ),
    Stage("StopSignal", "training/shutdown.py", "During training a signal only sets a flag: saving needs all ranks"),
    Stage(
        "_on_any_rank", "training/loop.py", "After each step all ranks exchange the flag over gloo and agree to stop"
    ),
    Stage("CheckpointWriter", "checkpoint/writer.py", "Copies the state, writes and hashes it in a thread"),
    Stage("commit_checkpoint", "checkpoint/layout.py", "Manifest last, fsync, one atomic rename"),
    Stage("RunState", "runs/state.py", "state.json: interrupted, at this step, by this signal"),
    Stage("EXIT_INTERRUPTED", "errors.py", "Exit code 130"),
    Stage("requeue", "slurm/after_srun.sh", "130: scontrol requeue, the job waits in the queue under the same id"),
    Stage("supersedes", "runs/lease.py", "The new start takes over the lease of its earlier start"),
    Stage("record_start", "runs/restarts.py", "Counts starts; three without progress end the job with an error"),
    Stage("latest_valid", "checkpoint/layout.py", "Verifies checksums, resumes from the newest valid checkpoint"),
)
RECORD = (
    Stage("EvaluationContext", "evaluation/context.py", "Run, benchmark and protocol of one evaluation"),
    Stage(
        "load_run_encoders", "evaluation/run_encoders.py", "Target, student and randomly initialised encoder of the run"
    ),
    Stage("FeatureExtraction", "evaluation/extraction.py", "Frozen features of every clip, in files: FrozenFeatures"),
    Stage("fit_probe", "evaluation/probes/fit.py", "Hyperparameters chosen on held-out training clips, three seeds"),
    Stage("TaskResult", "evaluation/record.py", "Accuracy with interval, and the prediction for every test clip"),
    Stage(
        "write_record", "evaluation/record.py", "RUN/eval/<benchmark>.<protocol>.json, predictions in .npz beside it"
    ),
    Stage("find_runs", "report/run_report.py", "All runs of a study with their records: RunReport"),
    Stage(
        "check_comparable",
        "report/predictions.py",
        "Same benchmark, protocol and data, or an error that names both files",
    ),
    Stage(
        "collect_evidence", "report/study_evidence.py", "Scores and differences with intervals, by regime and semantics"
    ),
    Stage(
        "evaluate_claim",
        "report/verdicts.py",
        "A claim's predicate on this evidence: supported, contradicted, undecided",
    ),
    Stage("audit_claims", "report/audit.py", "All claims for one source: runs, or the published results"),
    Stage("render_page", "report/page.py", "index.html; export_tables.py writes CSV, Markdown and LaTeX"),
)
WALKS = {"walk_clip": CLIP, "walk_key": KEY, "walk_signal": SIGNAL, "walk_record": RECORD}

FLOORS = (
    ("5  commands", "cli   tools/"),
    ("4  studies", "study   report"),
    ("3  workflows", "training   evaluation   profiling"),
    ("2  parts", "objectives   models   masking   data   checkpoint   runs   trackers"),
    ("1  operations", "kernels (Triton on CUDA, PyTorch elsewhere)"),
    ("0  basics", "config   io   types   devices   distributed   errors"),
)


def svg(height: int, body: list[str]) -> str:
    """A whole drawing."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    page = f'<rect class="page" width="{WIDTH}" height="{height}"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', STYLE, ARROW, page, *body, "</svg>", ""])


def draw_walk(stages: tuple[Stage, ...]) -> str:
    """Boxes below each other, connected by arrows, with a line of text beside each."""
    body = []
    for number, stage in enumerate(stages):
        top, middle = TOP + number * ROW, TOP + number * ROW + 21
        body += [
            f'<rect x="14" y="{top}" width="{BOX}" height="42" rx="6"/>',
            f'<text class="name" x="26" y="{top + 18}">{escape(stage.name)}</text>',
            f'<text class="path" x="26" y="{top + 34}">{escape(stage.path)}</text>',
            f'<text x="{BOX + 34}" y="{middle + 4}">{escape(stage.text)}</text>',
        ]
        if number + 1 < len(stages):
            body.append(f'<line x1="180" y1="{top + 42}" x2="180" y2="{top + ROW - 1}" marker-end="url(#arrow)"/>')
    return svg(TOP + len(stages) * ROW, body)


def draw_floors() -> str:
    """Packages by floor; an arrow shows that imports go down."""
    body = []
    for number, (floor, packages) in enumerate(FLOORS):
        top = TOP + number * 48
        body += [
            f'<text class="floor" x="14" y="{top + 24}">{escape(floor)}</text>',
            f'<rect x="150" y="{top}" width="680" height="38" rx="6"/>',
            f'<text class="name" x="166" y="{top + 24}" xml:space="preserve">{escape(packages)}</text>',
        ]
    bottom = TOP + len(FLOORS) * 48
    body.append(f'<line x1="856" y1="{TOP}" x2="856" y2="{bottom - 12}" marker-end="url(#arrow)"/>')
    body.append(f'<text class="floor" transform="translate(880 {bottom - 90}) rotate(-90)">imports</text>')
    return svg(bottom + 4, body)


def drawings() -> dict[str, str]:
    """Every drawing by file name."""
    walks = {f"{name}.svg": draw_walk(stages) for name, stages in WALKS.items()}
    return {"floors.svg": draw_floors(), **walks}


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for file_name, drawing in drawings().items():
        (IMAGES / file_name).write_text(drawing, encoding="utf-8")
