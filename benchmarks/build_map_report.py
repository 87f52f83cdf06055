"""The tables of build_map.py."""

from typing import Any

from measure import Report, Spread


def report_pair(report: Report, result: dict[str, Any]) -> None:
    """Print the tables of one pair."""
    for part in (_report_stages, _report_matching, _report_memory, _report_processes):
        part(report, result)


def _cells(seconds: Spread, unit: float = 1e3) -> list[str]:
    return [f"{value:,.2f}" for value in seconds.scaled(unit)]


def _report_stages(report: Report, result: dict[str, Any]) -> None:
    """The stages of a build in a warm process."""
    total = result["stages"]["total"].median
    report.table(
        ["stage, warm process", "median ms", "20 %", "80 %", "of total"],
        [
            [name, *_cells(seconds), f"{seconds.median / total:.0%}"]
            for name, seconds in result["stages"].items()
        ],
    )


def _report_matching(report: Report, result: dict[str, Any]) -> None:
    """Matching beside other ways to the same answers."""
    fast, brute = result["matching"]["trie and match"].median, result["brute_force"]
    rows = [
        [name, *_cells(seconds), f"{seconds.median / fast:,.0f} x"]
        for name, seconds in result["matching"].items()
    ]
    seconds = brute["extrapolated_seconds"]
    name = f"brute force, extrapolated from {brute['sample']} tokens"
    rows.append([name, f"{seconds * 1e3:,.0f}", "", "", f"{seconds / fast:,.0f} x"])
    rows += [
        [f"match alone, {n} thread{'s' * (n > 1)}", *_cells(one), f"{one.median / fast:.2f} x"]
        for n, one in result["match_by_threads"].items()
    ]
    report.table(["the same inputs and answers", "median ms", "20 %", "80 %", "ratio"], rows)


def _report_memory(report: Report, result: dict[str, Any]) -> None:
    """Matching beside the estimate from its memory accesses."""
    memory, fast = result["memory"], result["matching"]["trie and match"].median
    report.line(
        f"bytes {memory['src_bytes']:,} + {memory['dst_bytes']:,}, trie nodes "
        f"{memory['trie_nodes']:,}, edges {memory['edges_mb']:.1f} MB, probes {memory['probes']:,}"
    )
    report.line(
        f"{memory['ns_per_probe']:.1f} ns per probe; one dependent random access in such a table "
        f"{memory['ns_per_random_access']:.1f} ns, so one by one the probes would take "
        f"{memory['memory_seconds'] * 1e3:.1f} ms: trie and match take "
        f"{fast / memory['memory_seconds']:.2f} x that\n"
    )


def _report_processes(report: Report, result: dict[str, Any]) -> None:
    """Whole processes beside the least possible ones."""
    report.table(
        ["whole process", "median s", "20 %", "80 %", "peak MB"],
        [
            [name, *_cells(run["seconds"], 1), f"{run['peak_mb']:.0f}"]
            for name, run in result["processes"].items()
        ],
    )
