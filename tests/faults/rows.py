"""The fault matrix: what is promised under each fault, on which layer the fault is real, and the test of the promise.

``docs/faults.md`` has the same rows; ``tests/faults/test_rows.py`` compares them.
"""

from typing import NamedTuple

SHIM = "preloaded shim"
NAMESPACE = "namespaces"
SIGNAL = "signals"
STRACE = "strace"
PLANTED = "exception planted in the thread"
DISK = "real file system"


class Row(NamedTuple):
    """``test``: file below ``tests/`` and function."""

    name: str
    promise: str
    layer: str
    test: str


FILES, PROCESSES = "faults/test_file_system.py", "faults/test_processes.py"
THREADS, SIGNALS, DAMAGE = "faults/test_threads.py", "faults/test_signals.py", "checkpoint/test_damage.py"

ROWS = (
    Row(
        "ESTALE, EIO, ENOSPC or EDQUOT on the heartbeat",
        "The next heartbeat tries again; the run goes on.",
        SHIM,
        f"{FILES}::test_heartbeats_go_on",
    ),
    Row(
        "ESTALE from the kernel under a fresh process",
        "As above, for a process that was not prepared for the test.",
        STRACE,
        f"{FILES}::test_injected_errors_of_a_fresh_process",
    ),
    Row(
        "ESTALE or EIO for a moment, on shards, metrics, checkpoints, state or lease",
        "The operation is repeated; losses and weights are those of an undisturbed run, to the bit.",
        SHIM,
        f"{FILES}::test_one_transient_error_on_each_file_changes_nothing",
    ),
    Row(
        "Full disk or quota under `metrics.jsonl`",
        "The run stops with state `failed` and names the file; the same command resumes, and no step is missing.",
        SHIM,
        f"{FILES}::test_a_full_disk_under_the_metrics_stops_the_run_which_then_resumes",
    ),
    Row(
        "ENOSPC, EDQUOT, EIO or ESTALE during a save, for good",
        "The run stops; the checkpoint before is intact, nothing half-written is left, the same command resumes.",
        SHIM,
        f"{FILES}::test_a_failed_save_keeps_the_checkpoint_before",
    ),
    Row(
        "Full disk during a save",
        "As above.",
        "small file system",
        f"{DAMAGE}::test_a_disk_that_fills_up_fails_only_the_save",
    ),
    Row(
        "Read errors on the newest checkpoint",
        "Reads are repeated. If they keep failing, the run does not start: nothing is called damaged or renamed.",
        SHIM,
        f"{FILES}::test_an_unreadable_checkpoint_is_not_damaged",
    ),
    Row(
        "Flipped bits in a checkpoint",
        "The checkpoint is quarantined and the one before is used.",
        DISK,
        f"{DAMAGE}::test_every_flipped_bit_is_detected",
    ),
    Row(
        "Read errors on manifest or shards, for good",
        "The run stops with exit code 3 and names the file; no clip is replaced by another one.",
        SHIM,
        f"{FILES}::test_unreadable_shards_end_the_run_without_a_trace_in_the_results",
    ),
    Row(
        "EBUSY on a retired checkpoint; no symbolic links",
        "The run goes on, and so does every later start.",
        SHIM,
        f"{FILES}::test_what_cannot_be_removed_or_linked_does_not_stop_the_run",
    ),
    Row(
        "Immutable checkpoint",
        "As above.",
        DISK,
        f"{DAMAGE}::test_checkpoints_that_cannot_be_removed_do_not_stop_the_run",
    ),
    Row(
        "Checkpoint archived and linked back",
        "Only the link is removed; the archive keeps its files.",
        DISK,
        f"{DAMAGE}::test_an_archived_checkpoint_that_is_linked_back_is_only_unlinked",
    ),
    Row(
        "Full disk under TensorBoard events",
        "One warning; the run goes on, `metrics.jsonl` has everything.",
        SHIM,
        f"{FILES}::test_tensorboard_events_are_optional",
    ),
    Row(
        "A tracker that raises, is killed, hangs or cannot write",
        "One warning; the run goes on, `metrics.jsonl` has everything, the next start sends what is missing.",
        "real processes",
        "trackers/test_processes.py::test_a_tracker_that_fails_is_disabled_with_one_warning",
    ),
    Row(
        "Full disk during `report`",
        "Exit code 1; the old report is unchanged.",
        SHIM,
        f"{FILES}::test_a_report_cut_by_a_full_disk_leaves_the_old_one",
    ),
    Row(
        "Scratch copy torn by a power cut",
        "Size and checksum are compared, and the tar is copied again.",
        DISK,
        "data/test_storage.py::test_a_copy_torn_by_a_power_cut_is_copied_again",
    ),
    Row(
        "`/dev/shm` of 4 KiB",
        "A training process needs none of it.",
        NAMESPACE,
        f"{FILES}::test_a_small_dev_shm_suffices",
    ),
    Row(
        "Files of a run that may not be read",
        "`report` names them and shows the other runs; other commands end with one line that names the file.",
        "dropped privileges",
        f"{FILES}::test_files_that_may_not_be_read_are_named",
    ),
    Row(
        "Clocks of two nodes an hour apart, no file locks between them",
        "A live run is not taken over; a dead one is, after 30 s without a heartbeat.",
        f"{SHIM}, {NAMESPACE}",
        f"{PROCESSES}::test_a_live_run_of_a_node_with_another_clock_is_respected_and_a_dead_one_taken_over",
    ),
    Row(
        "Process id of a dead run given to another process",
        "The lease is taken over at once; the other process gets no signal.",
        NAMESPACE,
        f"{PROCESSES}::test_a_reused_process_id_is_neither_waited_for_nor_signalled",
    ),
    Row(
        "SIGKILL of `evaluate` during extraction",
        "The next `evaluate` removes the features.",
        SIGNAL,
        f"{PROCESSES}::test_features_of_a_killed_evaluation_are_removed_by_the_next",
    ),
    Row(
        "`verify`, `evaluate`, `study status` and `report` beside a training run",
        "No false damage, no traceback; an evaluation opens the newest checkpoint when its own is removed.",
        "real processes",
        f"{PROCESSES}::test_readers_beside_a_training_run_see_no_damage",
    ),
    Row(
        "Two `evaluate` on one benchmark",
        "The results of both are kept.",
        "real processes",
        "evaluation/test_evaluator.py::test_results_of_two_commands_at_the_same_time_are_all_kept",
    ),
    Row(
        "USR1, USR2 or TERM before Python runs, during imports",
        "Exit code 130, or killed by the signal (138, 140: the job is requeued); the run folder stays whole.",
        SIGNAL,
        f"{SIGNALS}::test_signals_at_growing_delays_of_a_fresh_process",
    ),
    Row(
        "USR1, USR2 or TERM while a run is built and in its first steps",
        "As above.",
        SIGNAL,
        f"{SIGNALS}::test_signals_at_growing_delays_while_a_run_is_built",
    ),
    Row(
        "SIGKILL of a run at any time",
        "The same command ends with the results of an undisturbed run.",
        SIGNAL,
        "training/test_killed_runs.py::test_a_run_killed_at_random_steps_ends_as_an_undisturbed_one",
    ),
    Row(
        "SIGKILL of one rank",
        "The others stop with one line; the same command resumes.",
        SIGNAL,
        "training/test_killed_runs.py::test_when_one_rank_of_two_is_killed_the_other_fails_with_one_line",
    ),
    Row(
        "Error in a thread of a run: heartbeat, save, read, decode, batch",
        "The run stops with state `failed` and the error.",
        PLANTED,
        f"{THREADS}::test_an_error_in_a_thread_of_a_run",
    ),
    Row(
        "Error in any other thread",
        "It is raised where the result is needed.",
        PLANTED,
        f"{THREADS}::test_every_module_with_threads_has_a_test",
    ),
)
