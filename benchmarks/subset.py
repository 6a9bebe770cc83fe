"""etude's lazy greedy facility location against apricot's and submodlib's: the same similarities, the same picks.

    python benchmarks/subset.py [--json] [--repeats N] [--only n2000]

Prints each peer's time over etude's, the median over repeats of runs in turn (above 1, etude is faster); one thread. nN_K: K of N items,
made to lie in clusters. All choose from one float64 matrix, whose making is not timed. apricot compiles anew in every fit (about 2.5
seconds), which is in its time: compare it at the largest size. The subsets' values may differ by 1e-4 of them (submodlib computes in
float32; equal gains are told apart by each in its own way); more ends the benchmark with an error.

`pip install apricot-select submodlib-py` (0.6.1 and 0.0.3 work on Python 3.11). They are not in the extra `bench`: apricot needs
nose, and both need numba, for this file alone. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

from etude.data.submodular import FacilityLocation, cosine_similarities, lazy_greedy

CASES = {"n1000_50": (1000, 50), "n2000_200": (2000, 200), "n4000_400": (4000, 400)}
NEAR = 1e-4
Choice = tuple[float, list[int]]


def ours(similarities: np.ndarray, budget: int) -> Choice:
    started = time.perf_counter()
    found = lazy_greedy(FacilityLocation(similarities), budget)
    return time.perf_counter() - started, found.items.tolist()


def apricots(similarities: np.ndarray, budget: int) -> Choice:
    from apricot import FacilityLocationSelection

    selector = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy")
    started = time.perf_counter()
    selector.fit(similarities)
    return time.perf_counter() - started, [int(i) for i in selector.ranking]


def submodlibs(similarities: np.ndarray, budget: int) -> Choice:
    import submodlib

    started = time.perf_counter()
    function = submodlib.FacilityLocationFunction(n=len(similarities), mode="dense", sijs=similarities, separate_rep=False)
    found = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
    return time.perf_counter() - started, [int(i) for i, _ in found]


PEERS: dict[str, Callable[[np.ndarray, int], Choice]] = {"apricot": apricots, "submodlib": submodlibs}


def value(similarities: np.ndarray, items: list[int]) -> float:
    """f of a subset."""
    return float(similarities[items].max(0).sum())


def measure(count: int, budget: int, repeats: int) -> dict[str, dict[str, Any]]:
    """{peer: its ratio, both times, picks equal from the first on}. Raises SystemExit where the subsets are not as good as each other."""
    rng = np.random.default_rng(0)
    similarities = cosine_similarities(rng.standard_normal((30, 32))[rng.integers(30, size=count)] + rng.standard_normal((count, 32)))
    results: dict[str, dict[str, Any]] = {}
    for name, choose in PEERS.items():
        if find_spec(name) is None:
            continue
        pairs = []
        for _ in range(repeats):
            (peer_seconds, theirs), (seconds, mine) = choose(similarities, budget), ours(similarities, budget)
            pairs.append((peer_seconds, seconds))
        if abs(value(similarities, theirs) / value(similarities, mine) - 1) > NEAR:
            raise SystemExit(f"{name} reaches {value(similarities, theirs):.6f}, etude {value(similarities, mine):.6f}")
        same = next((i for i, (a, b) in enumerate(zip(theirs, mine, strict=True)) if a != b), budget)
        results[name] = {
            "ratio": round(statistics.median(p / s for p, s in pairs), 3),
            "seconds": round(statistics.median(s for _, s in pairs), 4),
            "peer_seconds": round(statistics.median(p for p, _ in pairs), 4),
            "same_picks": same,
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="names that begin with this")
    arguments = parser.parse_args()
    if not any(map(find_spec, PEERS)):
        raise SystemExit("no peer is installed: pip install apricot-select submodlib-py")
    results: dict[str, dict[str, Any]] = {}
    for case, (count, budget) in CASES.items():
        if not case.startswith(arguments.only):
            continue
        for peer, row in measure(count, budget, arguments.repeats).items():
            results[f"{case}_{peer}"] = row
            if not arguments.json:
                told = f"{row['seconds']:.3f} s against {row['peer_seconds']:.3f} s, first {row['same_picks']} of {budget} picks the same"
                print(f"{case:10} {peer:10} {row['ratio']:.2f}x  {told}", flush=True)
    if arguments.json:
        print(json.dumps({"ratios": {n: r["ratio"] for n, r in results.items()}, "details": results}))


if __name__ == "__main__":
    main()
