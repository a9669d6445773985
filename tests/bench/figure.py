"""Draw what runs gained and lost, as the README's picture: domain and general WER along the steps, an SVG.

    python tests/bench/figure.py "sentence case=runs/sentence" "as they are=runs/upper" --domain accented-dev \\
        --general general-dev --out tests/bench/figures/forgetting.svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path

# the checkout is drawn from, whatever is installed
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from whisper_min import runs

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 300, 52, 46, 44
# dark enough on white and light enough on black; told apart by people who see no red or green
COLOURS = ("#0072b2", "#d55e00", "#009e73")


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    """(step, WER in %) at every evaluation of a set."""
    rows = runs.merge_steps(runs.read_jsonl(run / "metrics.jsonl"))
    key = f"eval/{name}/wer"
    return [(step, 100 * row[key]) for step, row in rows.items() if row.get(key) is not None]


def panel(title: str, curves: dict[str, list[tuple[int, float]]], left: int, width: int, top_wer: float) -> list[str]:
    """One set's curves with axes, from x = left on."""
    last = max(step for points in curves.values() for step, _ in points)
    bottom, right = HEIGHT - BOTTOM, left + width

    def at(step: float, rate: float) -> tuple[float, float]:
        return left + width * step / last, bottom - (bottom - TOP) * rate / top_wer

    made = [f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{escape(title)}</text>']
    for tick in range(0, int(top_wer) + 1, 10):
        y = at(0, tick)[1]
        made.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
        made.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for step in sorted({step for points in curves.values() for step, _ in points}):
        x = at(step, 0)[0]
        made.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{step}</text>')
    for colour, points in zip(COLOURS, curves.values(), strict=False):
        made += line([at(*point) for point in points], colour)
        x, y = at(*points[-1])
        made.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{points[-1][1]:.1f}</text>')
    return made


def line(points: list[tuple[float, float]], colour: str) -> list[str]:
    """A curve through places in the picture, each marked."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    made = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>']
    return made + [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]


def page(body: list[str], labels: Iterable[str]) -> str:
    """The picture around its panels, with a legend of what each colour is."""
    legend = []
    for index, (colour, label) in enumerate(zip(COLOURS, labels, strict=False)):
        x = LEFT + index * 240
        legend.append(f'<line x1="{x}" x2="{x + 22}" y1="{HEIGHT - 8}" y2="{HEIGHT - 8}" stroke="{colour}" '
                      f'stroke-width="2.5"/><text x="{x + 28}" y="{HEIGHT - 4}">{escape(label)}</text>')  # fmt: skip
    style = "text{font:12px system-ui,DejaVu Sans,sans-serif;fill:#57606a}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<style>{style}</style>{''.join([*body, *legend])}</svg>\n"
    )


def draw(labelled: dict[str, Path], domain: str, general: str) -> str:
    """The whole picture."""
    sets = {f"Domain: {domain}, WER %": domain, f"General: {general}, WER %": general}
    width = (WIDTH - 2 * LEFT - 80) // 2
    body: list[str] = []
    everything = [rate for name in sets.values() for run in labelled.values() for _, rate in curve(run, name)]
    top_wer = 10 * (max(everything, default=0) // 10 + 1)  # one scale, so that gain and loss compare by eye
    for index, (title, name) in enumerate(sets.items()):
        curves = {label: curve(run, name) for label, run in labelled.items()}
        missing = [str(labelled[label]) for label, points in curves.items() if not points]
        if missing:
            sys.exit(f"{', '.join(missing)}: no evaluation of {name} in metrics.jsonl; give runs that have it")
        body += panel(title, curves, LEFT + index * (width + 90), width, top_wer)
    return page(body, labelled)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="LABEL=RUN, up to three")
    parser.add_argument("--domain", required=True)
    parser.add_argument("--general", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    labelled = {label: Path(run) for label, _, run in (word.rpartition("=") for word in options.runs)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(draw(labelled, options.domain, options.general), encoding="utf-8")


if __name__ == "__main__":
    main()
