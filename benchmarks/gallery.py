"""The gallery: one page that holds everything, without anything from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from .chapters import CHAPTERS, Chapter
from .report import Outcome, Picture, Report
from .scatter import plot_of
from .sections import SECTIONS

STYLE = Path(__file__).with_suffix(".css")
TITLE = "VDiT Attention"
LEAD = (
    "See, measure and change the attention of video diffusion transformers, in ComfyUI. Everything "
    "on this page was made by one run of the real ComfyUI server with this pack in it."
)
LABEL = "Toy results: a tiny model that knows coloured shapes and nothing else"
MEASURED = "measured"  # the id of the numbers


def render(report: Report) -> str:
    """The page as HTML."""
    outcomes = {outcome.workflow: outcome for outcome in report.outcomes}
    shown = [c for c in CHAPTERS if c.workflow in outcomes and outcomes[c.workflow].pictures]
    chapters = [_chapter(c, outcomes[c.workflow]) for c in shown]
    numbers = _numbers(report.checks)
    body = [_header(report), _contents(shown), "<main>", *chapters, numbers, "</main>"]
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
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    text = f"{mantissa} · 10<sup>{int(exponent)}</sup>" if exponent else mantissa
    return text.replace("-", "−")


def _header(report: Report) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in report.summary().items()
    )
    return (
        f'<header><div class="label">{LABEL}</div><h1>{TITLE}</h1><p>{LEAD}</p>'
        f'<div class="tiles">{tiles}</div>{_alarms(report)}</header>\n'
    )


def _contents(chapters: Sequence[Chapter]) -> str:
    """Where everything is on a long page."""
    places = {chapter.workflow: chapter.heading for chapter in chapters} | {MEASURED: "Measured"}
    links = (f'<a href="#{place}">{escape(heading)}</a>' for place, heading in places.items())
    return f"<nav>{''.join(links)}</nav>\n"


def _alarms(report: Report) -> str:
    """What failed, where nobody can overlook it."""
    return "".join(
        f'<div class="alarm"><span class="bad">Failed: {escape(failure.what)}</span>'
        f"<pre>{escape(failure.message)}</pre></div>"
        for failure in report.failures
    )


def _chapter(chapter: Chapter, outcome: Outcome) -> str:
    videos = [p for p in outcome.pictures if p.kind == "image/webp"]
    sheets = [p for p in outcome.pictures if p.kind != "image/webp"]
    shown = {"videos": _figures("videos", videos), "sheets": _figures("sheets", sheets)}
    first = shown.pop(chapter.first)
    (rest,) = shown.values()
    if rest:
        rest = f"<details><summary>{escape(chapter.more)}</summary>{rest}</details>"
    return (
        f'<section id="{chapter.workflow}"><h2>{escape(chapter.heading)}</h2>'
        f"<p>{escape(chapter.text)}</p>{first}{rest}"
        f'<p class="note">workflows/{outcome.workflow}.json</p></section>\n'
    )


def _figures(kind: str, pictures: Sequence[Picture]) -> str:
    few = " few" if len(pictures) < 3 else ""
    inner = "".join(map(_figure, pictures))
    return f'<div class="{kind}{few}">{inner}</div>' if pictures else ""


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    title = escape(picture.title)
    mark = ' class="edit"' if picture.title.startswith("Edited") else ""
    image = f'<img alt="{title}" src="data:{picture.kind};base64,{data}">'
    return f"<figure{mark}>{image}<figcaption>{title}</figcaption></figure>"


def _numbers(checks: Sequence[dict[str, Any]]) -> str:
    told = {section.study: section for section in SECTIONS}
    groups = dict.fromkeys([*told, *(check["group"] for check in checks)])
    parts = [f'<section id="{MEASURED}"><h2>Measured</h2>']
    parts.append('<p>All of it stands in <a href="report.json">report.json')
    parts.append("</a>, ready to be read by a program.</p>")
    for group in groups:
        members = [check for check in checks if check["group"] == group]
        if not members:
            continue
        heading = told[group].heading if group in told else group
        text = f"<p>{escape(told[group].text)}</p>" if group in told else ""
        axes = told[group].plot if group in told else None
        plot = plot_of(members, *axes) if axes else ""
        parts.append(f"<h3>{escape(heading)}</h3>{text}{plot}{table(members)}")
    return "".join([*parts, "</section>\n"])


def table(checks: Sequence[dict[str, Any]]) -> str:
    """The checks of one group; those named “row: column” as a grid, if they fill one."""
    pairs = [check for check in checks if ": " in check["name"]]
    grid = _grid(pairs)
    rest = [check for check in checks if check not in pairs] if grid else checks
    parts = [grid, _list(rest)] if grid and rest else [grid or _list(rest)]
    return "".join(f'<div class="scroll"><table>{part}</table></div>' for part in parts)


def _list(checks: Sequence[dict[str, Any]]) -> str:
    limited = any(check["limit"] is not None for check in checks)
    shared = checks[0]["note"] if len(checks) > 1 and len({c["note"] for c in checks}) == 1 else ""
    note = f'<div class="note">{escape(shared)}</div>'
    head = f"<th>{note}</th><th>measured</th><th></th>" + "<th>limit</th><th></th>" * limited
    rows = "".join(
        _row(check | {"note": "" if shared else check["note"]}, limited) for check in checks
    )
    return f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"


def _row(check: dict[str, Any], limited: bool) -> str:
    note = f'<div class="note">{escape(check["note"])}</div>' if check["note"] else ""
    limit = f"<td>{_limit(check)}</td><td>{_mark(check)}</td>" if limited else ""
    return (
        f"<tr><th>{escape(check['name'])}{note}</th><td>{_value(check)}</td>"
        f'<td class="unit">{escape(check["unit"])}</td>{limit}</tr>'
    )


def _grid(checks: Sequence[dict[str, Any]]) -> str:
    """Rows and columns of a full grid, or nothing where the names do not make one."""
    cells = {tuple(check["name"].rsplit(": ", 1)): check for check in checks}
    rows, columns = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    full = len(rows) * len(columns) == len(cells) == len(checks)
    if not full or len(rows) < 2 or len(columns) < 2:
        return ""
    heads = "".join(f"<th>{_column_head(c, [cells[r, c] for r in rows])}</th>" for c in columns)
    lines = [
        f"<tr><th>{escape(row)}</th>{''.join(_cell(cells[row, c]) for c in columns)}</tr>"
        for row in rows
    ]
    return f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _column_head(name: str, cells: Sequence[dict[str, Any]]) -> str:
    """A column's name, with the unit and the limit that all its cells share."""
    limits = {_limit(cell) for cell in cells}
    parts = [cells[0]["unit"], limits.pop() if len(limits) == 1 else ""]
    return f'{escape(name)}<div class="note">{"<br>".join(filter(None, parts))}</div>'


def _cell(check: dict[str, Any]) -> str:
    title = f' title="{escape(check["note"])}"' if check["note"] else ""
    return f"<td{title}>{_value(check)} {_mark(check)}</td>"


def _value(check: dict[str, Any]) -> str:
    """The number and, where it is known, its spread."""
    spread = check["spread"]
    beside = "" if spread is None else f'<span class="unit"> ± {spread:.2g}</span>'
    return number(check["value"]) + beside


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
