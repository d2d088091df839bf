"""Run `python -m benchmarks`. README.md in this directory describes it."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from . import adapters, chart, check, goals, report
from .harness import Sample, compare, say
from .scenarios import SCENARIOS


def main() -> int:
    """Run the chosen scenarios, and return 1 if `--check` finds a limit exceeded."""
    options = arguments()
    if options.check:
        scales, options.rival, options.repetitions = check.SCALES, check.RIVALS, check.REPETITIONS
    else:
        scales = dict.fromkeys(options.scenario, options.scale)
    rivals, skipped = adapters.find()
    if options.rival:
        if unknown := set(options.rival) - {rival.name for rival in rivals}:
            sys.exit(f"unknown or not installed: {', '.join(sorted(unknown))}; see --help")
        rivals = [rival for rival in rivals if rival.name in options.rival]
    facts = report.surroundings(rivals) | {
        "seed": options.seed,
        "repetitions": options.repetitions,
        "scale": scales,
        "skipped": skipped,
    }
    say(f"seed {options.seed}\n")
    order = random.Random(options.seed)

    samples: list[Sample] = []
    found: dict[str, report.Runs] = {}
    text = [report.heading(facts)]
    print(text[0], flush=True)
    for name, scale in scales.items():
        scenario = SCENARIOS[name]
        own = compare(scenario, rivals, options.repetitions, scale, order, options.watchdog)
        samples += own
        if own:
            found[name] = runs = report.Runs(own, rivals)
            text.append(report.table(scenario, report.rows(scenario, runs), runs, own[0].items))
            print(text[-1], flush=True)

    if options.check:
        lines, is_good = check.check(found)
        print("\n".join(lines))
        return 0 if is_good else 1
    text.append(goals.table(found))
    print(text[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(facts, samples), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text("\n".join(text))
    if options.svg:
        chart.draw(found, options.svg)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare batchify with what you would use instead.",
        epilog="\n".join(f"{one.name:5} {one.about}" for one in SCENARIOS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="S",
        help="the scenarios to run, listed below (default: all)")  # fmt: skip
    add("--rival", nargs="+", metavar="NAME", help="run only these rows")
    add("--repetitions", type=int, default=9, help="default: %(default)s")
    add("--scale", type=float, default=1.0, help="multiply the number of items (default: 1)")
    add(
        "--seed",
        type=int,
        default=random.randrange(1 << 32),
        help="repeat the order of a run, which prints it",
    )
    add(
        "--watchdog",
        type=float,
        default=120.0,
        help="abort a run that takes longer, in seconds (default: %(default)g)",
    )
    add("--json", type=Path, help="write every sample to this file")
    add("--markdown", type=Path, help="write the tables to this file")
    add("--svg", type=Path, help="draw the chart into this file")
    add("--check", action="store_true", help="run briefly and exit with 1 if a limit is exceeded")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
