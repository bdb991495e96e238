"""Run benchmarks by name; by default those that take minutes and need nothing else."""

import argparse
import importlib
from pathlib import Path

DEFAULT = ("store", "train")
NAMES = (*DEFAULT, "extract", "search", "composite", "self_training", "tune", "tuning_emodb", "alignment")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, to see that it runs")
    parser.add_argument("--dir", type=Path, default=None, help="where to work; the system's temp by default")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    for name in options.names or DEFAULT:
        importlib.import_module(f"benchmarks.{name}").run(quick=options.quick, folder=options.dir)


if __name__ == "__main__":
    main()
