"""Table and plot of an ablation, compared with the paper's numbers."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

from albef.ablation.variants import COLUMNS, VARIANTS
from albef.io import write_file

Results = dict[str, dict[str, list[float]]]


def cell(values: list[float]) -> str:
    """Format mean and standard deviation over seeds."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def table(results: Results) -> str:
    """Return the table in Markdown, with the paper's numbers in parentheses."""
    columns = [c for c in COLUMNS if c in next(iter(results.values()))]
    lines = [
        "| Objectives | " + " | ".join(COLUMNS[c] for c in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for variant in VARIANTS:
        paper = dict(zip(COLUMNS, variant.paper, strict=True))
        cells = [f"{cell(results[variant.name][c])} ({paper[c]:.2f})" for c in columns]
        lines.append(f"| {variant.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """Plot measured and published gains over the first row, by column."""
    from matplotlib.figure import Figure

    columns = [c for c in COLUMNS if c in next(iter(results.values()))]
    figure = Figure(figsize=(3.4 * len(columns), 3.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    positions = range(len(VARIANTS))
    for axes, column in zip(panels, columns, strict=True):
        index = list(COLUMNS).index(column)
        measured = [results[v.name][column] for v in VARIANTS]
        base, paper = mean(measured[0]), VARIANTS[0].paper[index]
        spread = [stdev(values) if len(values) > 1 else 0.0 for values in measured]
        gains = [mean(values) - base for values in measured]
        axes.errorbar(positions, gains, yerr=spread, marker="o", capsize=3, label="measured")
        axes.plot(positions, [v.paper[index] - paper for v in VARIANTS], marker="s", linestyle="--", label="paper, 4M")
        axes.axhline(0, color="gray", linewidth=0.8)
        labels = [str(i + 1) for i in positions]
        axes.set(title=COLUMNS[column].replace(", ", "\n", 1), xticks=positions, xticklabels=labels)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="points over row 1", xlabel="row of the table")
    panels[0].legend()
    figure.savefig(path, metadata={"Software": None})


def write(results: Results, out: Path) -> None:
    """Write ``table.md`` and ``ablation.png``."""
    seeds = len(next(iter(next(iter(results.values())).values())))
    text = f"Percent on the test splits: mean ± standard deviation over {seeds} seeds (number of the paper).\n\n"
    write_file(out / "table.md", text + table(results) + "\n")
    plot(results, out / "ablation.png")
