"""What a search found: a table for the terminal, files, and the same in MLflow with the best model registered."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ecgmoe.evaluation.report import RESEARCH_ONLY, markdown_rows
from ecgmoe.pipeline.store import Store
from ecgmoe.training import tracking
from ecgmoe.training.tracking import ParentRun
from ecgmoe.tuning.page import Part, render
from ecgmoe.tuning.search_plots import lambda_by_task, learning_curves, parallel_coordinates
from ecgmoe.tuning.space import LAMBDA, Space
from ecgmoe.tuning.tried import Tried

REPORT = "report"


def trial_rows(tried: Sequence[Tried], winner: Tried, epochs: int) -> list[tuple[str, ...]]:
    """The head and one row per trial, the best first; the winner's score in bold."""
    options = list(winner.values)
    rows: list[tuple[str, ...]] = [("run", "score", "epochs", *options, "how it ended")]
    for each in sorted(tried, key=lambda trial: (trial.score is None, -(trial.score or 0.0))):
        score = "" if each.score is None else f"{each.score:.4f}"
        how = f"failed: {each.failure}" if each.failure else "" if each.epochs >= epochs else "stopped early"
        shown = [f"{value:.4g}" if isinstance(value, float) else json.dumps(value) for value in each.values.values()]
        rows.append((each.run, f"**{score}**" if each.run == winner.run else score, str(each.epochs), *shown, how))
    return rows


def write_report(
    store: Store,
    title: str,
    notes: Sequence[str],
    tried: Sequence[Tried],
    winner: Tried,
    *,
    space: Space,
    epochs: int,
    facts: Mapping[str, Any],
    winner_rows: Sequence[tuple[str, ...]],
    winner_text: str,
    parent: ParentRun,
) -> dict[str, Any]:
    """Write report/, log it to the search's MLflow run, and print it.

    Args:
        store: folder of the search.
        title: of the report.
        notes: what a reader must not overlook.
        tried: all trials.
        winner: of them.
        space: that was searched.
        epochs: of a whole training.
        facts: more for report/search.json.
        winner_rows: table of the retrained winner; empty without one.
        winner_text: what that table is.
        parent: MLflow run of the search.

    Returns:
        The content of report/search.json.
    """
    rows = trial_rows(tried, winner, epochs)
    curves = learning_curves(tried, winner)
    parts = [
        Part(
            heading="Trials", text="Score: the best validation of a run, 0 for a constant, 1 for perfection.", rows=rows
        ),
        Part(
            heading="Options side by side",
            picture=parallel_coordinates(tried, winner, space),
            caption="One line per trial, the winner in orange.",
        ),
        Part(heading="Learning curves", picture=curves, caption="Validation score by epoch, the winner in orange."),
    ]
    if LAMBDA in space:
        parts.append(
            Part(
                heading="Lambda and each task",
                picture=lambda_by_task(tried, winner, space[LAMBDA]),
                caption="Validation figures at the best epoch of each trial. Other options vary too.",
            )
        )
    if winner_rows:
        parts.append(Part(heading="The winner, trained anew", text=winner_text, rows=winner_rows))
    table = io.StringIO()
    csv.writer(table).writerows([[cell.strip("*") for cell in row] for row in rows])
    found = {
        "title": title,
        "notes": list(notes),
        "winner": {"run": winner.run, "values": winner.values, "score": winner.score, "epochs": winner.epochs},
        "trials": [asdict(each) for each in tried],
        **facts,
    }
    text = [f"# {title}", *notes, markdown_rows(rows)]
    if winner_rows:
        text += [winner_text, markdown_rows(winner_rows)]
    files = {
        "trials.md": "\n\n".join(text) + "\n",
        "trials.csv": table.getvalue(),
        "learning_curves.svg": curves,
        "search.html": render(title, [*notes, RESEARCH_ONLY], parts),
        "search.json": json.dumps(found, indent=2) + "\n",
    }
    for name, content in files.items():
        store.write_text(f"{REPORT}/{name}", content)
    tracker = tracking.Tracker(parent.uri, parent.run_id)
    tracker.log({"search/best_score": winner.score, "search/trials": float(len(tried))}, 0)
    for name, content in files.items():
        tracker.text(content, f"{REPORT}/{name}")
    tracker.finish()
    print("\n" + files["trials.md"] + f"\nreport {store.path(REPORT)}/search.html", flush=True)
    return found
