"""``make soak``: every fault that the harness knows, and docs/reliability.md with what came of them."""

import argparse
import signal
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "recorder")]

from faults.choice import FAMILIES, everything, sampled  # noqa: E402 - found where the line above looks
from faults.crew import crew  # noqa: E402
from faults.outcome import Outcome  # noqa: E402
from faults.report import write_report  # noqa: E402
from faults.scenarios import SCENARIOS  # noqa: E402
from tqdm import tqdm  # noqa: E402


def main() -> int:
    """Try everything; 1 if anything was not as promised."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, _stop)
    began = time.perf_counter()
    outcomes: list[Outcome] = []
    with crew(asked.workers) as hands:
        tasks = everything(hands.operations(SCENARIOS, outcomes), hands.files(), asked.only)
        bad = len(outcomes)
        for outcome in outcomes:
            tqdm.write(outcome.brief())
        tasks = sampled(tasks, asked.sample, asked.seed) if asked.sample else tasks
        with tqdm(total=len(tasks), unit="fault", smoothing=0.02, dynamic_ncols=True) as bar:
            for outcome in hands.perform(tasks):
                outcomes.append(outcome)
                bad += bool(outcome.problems)
                if outcome.problems:
                    tqdm.write(outcome.brief())
                    if asked.log is not None:
                        with asked.log.open("a", encoding="utf-8") as log:
                            log.write(f"{outcome}\n\n")
                bar.set_postfix(bad=bad, refresh=False)
                bar.update()
    if asked.report is not None:
        write_report(asked.report, outcomes, time.perf_counter() - began, asked.workers)
    tqdm.write(f"{len(outcomes)} faults, {bad} with a consequence that none may have")
    return 1 if bad else 0


def _stop(*_: object) -> None:
    """End in order, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("stopped by SIGTERM")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="Processes that work side by side.")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="A family of faults; may be repeated.")
    parser.add_argument("--sample", type=int, help="So many faults, spread over all.")
    parser.add_argument("--seed", type=int, default=0, help="Of the sample.")
    parser.add_argument("--log", type=Path, help="File to which all of each failure is added, tracebacks included.")
    parser.add_argument("--report", type=Path, help="Page to write.")
    asked = parser.parse_args()
    asked.only = asked.only or FAMILIES
    return asked


if __name__ == "__main__":
    sys.exit(main())
