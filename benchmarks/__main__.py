"""`python -m benchmarks`: choose, run, print one line a figure, and write them down."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import append, fold, grow, machine, push, read
from benchmarks.measure import Line, busiest, measure
from eventstore.errors import FoldstreamError
from foldstream.serve import sigterm_is_exit

BENCHES = {module.BENCH.name: module.BENCH for module in (append, read, fold, push, grow)}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything chosen was measured."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="What foldstream costs, beside what others cost."
    )
    parser.add_argument("bench", nargs="?", choices=[*BENCHES, "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: proves that it works, measures nothing")
    parser.add_argument("--runs", type=int, default=0, help="how often each case is run (3; 1 with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    args = parser.parse_args(argv)
    if not machine.PROC.joinpath("stat").exists():
        parser.error("the benchmarks read /proc: they need Linux")
    chosen = list(BENCHES.values()) if args.bench == "all" else [BENCHES[args.bench]]
    lines: list[Line] = []
    try:
        with sigterm_is_exit():
            for bench in chosen:
                print(f"# {bench.name}: {bench.conditions}", flush=True)
                found = measure(bench, runs=args.runs or (1 if args.quick else 3), quick=args.quick)
                print(*found, f"# {busiest(found)}", sep="\n", flush=True)
                lines.extend(found)
    except FoldstreamError as error:
        print(f"benchmarks: {error.detail}\n{error.fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if args.json:
            args.json.write_text(json.dumps([line.as_json() for line in lines], indent=1) + "\n")
    print("# " + ", ".join(machine.describe().values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
