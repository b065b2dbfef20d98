"""benchmarks: what foldstream costs on this machine, beside the best that others do here in the same minutes.

    python -m benchmarks [append|read|push|all] [--quick] [--runs 3] [--json FILE]

A case is a function that yields figures. All cases of a benchmark run one after the other, and that several times over,
so that what and what it is compared with meet the same machine; medians are quoted. Rates of different machines and
hours cannot be compared; ratios within a run can. docs/benchmarks.md says what each case does.

    case.py     the words: Figure, Ratio, Case, Bench
    measure.py  runs the cases, takes medians, prints, writes JSON
    machine.py  CPU, memory and what else is going on, from /proc (so: Linux)
    place.py    an embedded Postgres on a real disk, and a fresh database for each case
    append.py   beside it: pgbench.py, one_by_one.py, recorder.py
    read.py     replay.py is the process whose memory is measured
    push.py     viewers.py is the process of the viewers; plain_*.py are the servers to compare with
"""
