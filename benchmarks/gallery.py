"""The gallery: one page that holds everything, without anything from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report import Outcome, Picture, Report
from .story import CHAPTERS, SECTIONS

STYLE = Path(__file__).with_suffix(".css")
TITLE = "VDiT Attention"
LEAD = (
    "See, measure and change the attention of video diffusion transformers, in ComfyUI. Everything "
    "on this page was made by one run of the real ComfyUI server with this pack in it."
)
LABEL = "Toy results: a tiny model that knows coloured shapes and nothing else"


def render(report: Report) -> str:
    """The page as HTML."""
    outcomes = {outcome.workflow: outcome for outcome in report.outcomes}
    chapters = [_chapter(c.heading, c.text, outcomes.get(c.workflow)) for c in CHAPTERS]
    body = [_header(report), "<main>", *chapters, _numbers(report.checks), "</main>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}: gallery</title>\n<style>\n{STYLE.read_text('utf-8')}</style>\n</head>\n"
        f"<body>\n{''.join(body)}{_footer(report)}</body>\n</html>\n"
    )


def number(value: float | None) -> str:
    """A number for people: three significant digits, whole numbers whole."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    mantissa, _, exponent = f"{value:.3g}".replace("-", "−").partition("e")
    return mantissa if not exponent else f"{mantissa} · 10<sup>{exponent.lstrip('+0')}</sup>"


def _header(report: Report) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in report.summary().items()
    )
    return (
        f'<header><div class="label">{LABEL}</div><h1>{TITLE}</h1><p>{LEAD}</p>'
        f'<div class="tiles">{tiles}</div>{_alarms(report)}</header>\n'
    )


def _alarms(report: Report) -> str:
    """What failed, where nobody can overlook it."""
    return "".join(
        f'<div class="alarm"><span class="bad">Failed: {escape(failure.what)}</span>'
        f"<pre>{escape(failure.message)}</pre></div>"
        for failure in report.failures
    )


def _chapter(heading: str, text: str, outcome: Outcome | None) -> str:
    if outcome is None or not outcome.pictures:
        return ""
    videos = [p for p in outcome.pictures if p.kind == "image/webp"]
    sheets = [p for p in outcome.pictures if p.kind != "image/webp"]
    few = " few" if len(videos) < 3 else ""
    parts = [f"<section><h2>{escape(heading)}</h2><p>{escape(text)}</p>"]
    if videos:
        parts.append(f'<div class="videos{few}">{"".join(map(_figure, videos))}</div>')
    if sheets:
        parts.append(f'<div class="sheets">{"".join(map(_figure, sheets))}</div>')
    return "".join([*parts, f'<p class="note">workflows/{outcome.workflow}.json</p></section>\n'])


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    title = escape(picture.title)
    mark = ' class="edit"' if picture.title.startswith("Edited") else ""
    image = f'<img alt="{title}" src="data:{picture.kind};base64,{data}">'
    return f"<figure{mark}>{image}<figcaption>{title}</figcaption></figure>"


def _numbers(checks: Sequence[dict[str, Any]]) -> str:
    told = {section.study: section for section in SECTIONS}
    groups = dict.fromkeys([*told, *(check["group"] for check in checks)])
    parts = ['<section><h2>Measured</h2><p>All of it stands in <a href="report.json">report.json']
    parts.append("</a>, ready to be read by a program.</p>")
    for group in groups:
        members = [check for check in checks if check["group"] == group]
        if not members:
            continue
        heading = told[group].heading if group in told else group
        text = f"<p>{escape(told[group].text)}</p>" if group in told else ""
        parts.append(f"<h3>{escape(heading)}</h3>{text}{table(members)}")
    return "".join([*parts, "</section>\n"])


def table(checks: Sequence[dict[str, Any]]) -> str:
    """The checks of one group; as a grid where their names are “row: column” throughout."""
    rows = _grid(checks) or _list(checks)
    return f'<div class="scroll"><table>{rows}</table></div>'


def _list(checks: Sequence[dict[str, Any]]) -> str:
    head = "<thead><tr><th></th><th>measured</th><th></th><th>limit</th><th></th></tr></thead>"
    return head + "<tbody>" + "".join(map(_row, checks)) + "</tbody>"


def _row(check: dict[str, Any]) -> str:
    note = f'<div class="note">{escape(check["note"])}</div>' if check["note"] else ""
    limit, mark = _limit(check), _mark(check)
    return (
        f"<tr><th>{escape(check['name'])}{note}</th><td>{number(check['value'])}</td>"
        f'<td class="unit">{escape(check["unit"])}</td><td>{limit}</td><td>{mark}</td></tr>'
    )


def _grid(checks: Sequence[dict[str, Any]]) -> str:
    """Rows and columns of a full grid, or nothing where the names do not make one."""
    cells = {tuple(check["name"].rsplit(": ", 1)): check for check in checks}
    if any(len(key) != 2 for key in cells):
        return ""
    rows, columns = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    full = len(rows) * len(columns) == len(cells) == len(checks)
    if not full or len(rows) < 2 or len(columns) < 2:
        return ""
    units = [cells[rows[0], column]["unit"] for column in columns]
    head = "".join(
        f'<th>{escape(column)}<div class="note">{escape(unit)}</div></th>'
        for column, unit in zip(columns, units, strict=True)
    )
    lines = [
        f"<tr><th>{escape(row)}</th>{''.join(_cell(cells[row, c]) for c in columns)}</tr>"
        for row in rows
    ]
    return f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _cell(check: dict[str, Any]) -> str:
    limit = f'<div class="note">{_limit(check)}</div>' if check["limit"] is not None else ""
    return f"<td>{number(check['value'])} {_mark(check)}{limit}</td>"


def _limit(check: dict[str, Any]) -> str:
    return "" if check["limit"] is None else f"{check['bound']} {number(check['limit'])}"


def _mark(check: dict[str, Any]) -> str:
    if not check["ok"]:
        return '<span class="bad">✗</span>'
    return "" if check["limit"] is None else '<span class="good">✓</span>'


def _footer(report: Report) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts.items()
    )
    return f"<footer><dl>{facts}</dl></footer>\n"
