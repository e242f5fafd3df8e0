"""The tables of `tandem bench serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tandem_cli.serving_bench.measure import Effort, Figures
from tandem_trainer.studies.report import Cell, StudyTable

Row = tuple[Cell, ...]


def facts(base: str, effort: Effort) -> str:
    load = os.getloadavg()[0]
    return (
        f"grown from {base}; {os.cpu_count()} cores, load {load:.1f}; {effort.calls} calls of each kind in turns, "
        f"{effort.runs} runs of {effort.seconds:g} s of each load. Ratios and CPU hold on a busy machine, times do not."
    )


def tables(found: Sequence[Figures]) -> list[StudyTable]:
    return [
        StudyTable(
            "one request at a time, kernels and pipelines and gRPC in turns; ms; ratio to the line above",
            ("items, users, how", "p50", "p95", "p99", "p99.9", "CPU", "p50 ratio", "CPU ratio"),
            tuple(row for figures in found for kind in ("warm", "cold") for row in _compared(figures, kind)),
        ),
        StudyTable(
            "CPU of one warm request by part, us (parts besides engines hold messages, without gRPC)",
            ("part", *(f"{figures.items:,}" for figures in found)),
            tuple(_parts(found)),
        ),
        StudyTable(
            "load of warm users; ms",
            ("items, arrivals", "per s", "p50", "p95", "p99", "p99.9", "wrong", "stolen CPU %"),
            tuple(row for figures in found for row in _loads(figures)),
        ),
        StudyTable(
            "saturation, servers in turns",
            ("items, server", "per s", "per CPU s", "CPU ms", "wrong", "stolen %", "ours over it", "its CPU over ours"),
            tuple(row for figures in found for row in _saturations(figures)),
        ),
        StudyTable(
            "processes",
            ("items", "start s", "reload s", "memory: resident / proportional MiB"),
            tuple(_process(figures) for figures in found),
        ),
        StudyTable(
            "indexes chosen at the least recall; us of one search at export",
            ("items, index", "kind", "breadth", "recall@300", "timed"),
            tuple(row for figures in found for row in _indexes(figures)),
        ),
    ]


def _compared(figures: Figures, kind: str) -> list[Row]:
    rows: list[Row] = []
    above = None
    for name in ("kernels", "in process", "over gRPC"):
        each = figures.values[kind][name]
        ratios = (each["p50"] / above["p50"], each["cpu"] / above["cpu"]) if above else (None, None)
        times = (each["p50"], each["p95"], each["p99"], each["p99.9"], each["cpu"])
        rows.append((f"{figures.items:,} {kind} {name}", *(round(t, 3) for t in times), *ratios))
        above = each
    return rows


def _parts(found: Sequence[Figures]) -> list[Row]:
    names = dict.fromkeys(name for figures in found for name in figures.values["parts_us"])
    return [
        (name, *(round(figures.values["parts_us"].get(name, 0.0), 1) for figures in found)) for name in sorted(names)
    ]


def _loads(figures: Figures) -> list[Row]:
    return [
        (
            f"{figures.items:,} at {share:g} of saturation",
            round(each["rate"], 1),
            *(round(each[name], 2) for name in ("p50", "p95", "p99", "p99.9")),
            each["wrong"] + each["degraded"],
            round(100 * each["stolen"], 2),
        )
        for share, each in figures.values["load"].items()
    ]


def _saturations(figures: Figures) -> list[Row]:
    return [
        (
            f"{figures.items:,} {name} ({each['client']})",
            round(each["per second"], 1),
            round(each["per second and core"], 1),
            ", ".join(f"{role} {cpu:.2f}" for role, cpu in each["cpu by process"].items()),
            each["wrong"],
            round(100 * each["stolen"], 2),
            *(
                (None, None)
                if name == "ours"
                else (round(each["ours over it"], 2), round(each["its CPU over ours"], 2))
            ),
        )
        for name, each in figures.values["saturation"].items()
    ]


def _process(figures: Figures) -> Row:
    memory = ", ".join(f"{role} {u['rss']:.0f} / {u['pss']:.0f}" for role, u in figures.values["memory"].items())
    return (f"{figures.items:,}", round(figures.values["start_s"], 1), round(figures.values["reload_s"], 1), memory)


def _indexes(figures: Figures) -> list[Row]:
    return [
        (
            f"{figures.items:,} {name}",
            info["kind"],
            info.get("probes") or info.get("ef"),
            info["recall"],
            ", ".join(f"{kind} {us:.0f}" for kind, us in info["microseconds"].items()),
        )
        for name, info in figures.values["indexes"].items()
    ]
