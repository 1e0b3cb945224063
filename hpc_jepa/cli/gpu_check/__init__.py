"""The check of a GPU machine: ``make gpu-check``, and its short form ``hpc-jepa doctor --gpu``.

    part.py            what a part is, and what it reports
    parts.py           the list of all parts
    runner.py          one process per part, stopped at its time limit
    worker.py          the inside of such a process
    check_report.py    the result as JSON and as a Markdown page
    check.py           the whole check

Parts, by theme: environment.py, decoding.py, kernels.py, zero_stages.py, speed.py, training_run.py, processes.py. With
``rehearse`` every part runs small on the CPU, under stand-ins where it needs a GPU.
"""
