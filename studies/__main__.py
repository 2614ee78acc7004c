"""`python -m studies`: prepare, train, measure and report. The same command continues an interrupted study."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.arms import CLAIMS, SEEDS, corpora_of
from studies.corpora import prepare
from studies.report import write_report
from studies.results import gather, measure_latency, restore
from studies.run import run_all


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument("--packed", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument(
        "--scenes",
        type=Path,
        default=Path("data/scenes"),
        help="folder of the generated scenes; with depth for that claim",
    )
    parser.add_argument(
        "--sound-scenes", type=Path, default=Path("data/sound_scenes"), help="folder of the generated scenes with sound"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="corpora, runs and results of the study")
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS), metavar="CLAIM")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="number of concurrent runs, with one thread each")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the compute of every arm")
    parser.add_argument("--page", type=Path, default=Path("docs/study.md"), help="page with the tables and plots")
    parser.add_argument("--known", type=Path, help="study.json of an earlier study, whose runs are reused")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report the runs that are finished")
    args = parser.parse_args()
    if args.known:
        print(f"{restore(args.known, args.out)} runs known from {args.known}")
    if not args.report_only:
        sources = {"scenes": args.scenes, "sound_scenes": args.sound_scenes}
        prepare(args.packed, sources, args.out / "corpora", corpora_of(args.claims))
        run_all(args.out, args.claims, args.seeds, args.jobs, args.scale)
        if "resolution" in args.claims:
            measure_latency(args.out)
    write_report(gather(args.out), args.page, args.page.parent / "images")


if __name__ == "__main__":
    main()
