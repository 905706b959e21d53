"""Owns the page of `zeroq samples --html`: one file that opens anywhere, with its samples and filters inside it.

The samples stand in the page as JSON that is not run, and reach the screen as text only (`textContent`), so a response
that is HTML is shown and does nothing. No network, no library.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.errors import UserError
from common.lifecycle import write_atomic
from launcher.samples import Found

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
form { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ddd; padding: .6rem 0; display: flex;
  flex-wrap: wrap; gap: .6rem 1rem; align-items: end; }
label { display: flex; flex-direction: column; font-size: .8rem; color: #555; }
input, select { font: inherit; width: 8rem; } input[name=words] { width: 16rem; }
details { border-bottom: 1px solid #e4e4e4; padding: .4rem 0; } summary { cursor: pointer; }
summary b { font-variant-numeric: tabular-nums; } .facts { color: #555; font-size: .85rem; }
pre { background: #f6f6f6; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; }
.pass { color: #176f2c; } .fail, .error, .timeout { color: #a3241d; }
"""

_SCRIPT = """
const samples = JSON.parse(document.getElementById('samples').textContent);
const form = document.querySelector('form'), list = document.getElementById('list');
const count = document.getElementById('count'), atOnce = 200;
const short = value => typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(3) : String(value);
function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
for (const key of ['stage', 'outcome', 'suite']) {
  const values = [...new Set(samples.map(sample => sample[key]).filter(Boolean))].sort();
  for (const value of values) form[key].append(element('option', value));
  if (!values.length) form[key].parentElement.hidden = true;
}
function wanted(sample) {
  const below = (value, name) => form[name].value !== '' && (value === null || value < Number(form[name].value));
  const above = (value, name) => form[name].value !== '' && (value === null || value > Number(form[name].value));
  for (const key of ['stage', 'outcome', 'suite']) if (form[key].value && sample[key] !== form[key].value) return false;
  if (below(sample.step, 'first') || above(sample.step, 'last')) return false;
  if (below(sample.reward, 'low') || above(sample.reward, 'high')) return false;
  const words = form.words.value.toLowerCase();
  return !words || (sample.prompt + '\\n' + sample.text).toLowerCase().includes(words);
}
function drawn(sample) {
  const box = document.createElement('details'), head = document.createElement('summary');
  head.append(element('b', sample.reward === null ? '-' : short(sample.reward)), ' ',
    element('span', sample.outcome || '', sample.outcome || ''), ' ' + sample.id);
  box.append(head);
  box.addEventListener('toggle', () => {
    if (box.childElementCount > 1) return;
    const facts = Object.entries(sample).filter(([key, value]) => value !== null && value !== '' &&
      !['id', 'prompt', 'text', 'rewards'].includes(key)).concat(Object.entries(sample.rewards));
    box.append(element('div', facts.map(([key, value]) => key + '=' + short(value)).join('  '), 'facts'),
      element('pre', sample.prompt), element('pre', sample.text));
  });
  return box;
}
function show() {
  const chosen = samples.filter(wanted);
  list.replaceChildren(...chosen.slice(0, atOnce).map(drawn));
  count.textContent = chosen.length + ' of ' + samples.length +
    (chosen.length > atOnce ? '; the first ' + atOnce + ' are listed' : '');
}
form.addEventListener('input', show);
form.addEventListener('submit', event => event.preventDefault());
show();
"""

_FIELDS: Sequence[tuple[str, str]] = (
    ("first step", '<input name="first" type="number">'),
    ("last step", '<input name="last" type="number">'),
    ("reward from", '<input name="low" type="number" step="any">'),
    ("to", '<input name="high" type="number" step="any">'),
    ("text contains", '<input name="words" type="search">'),
)


def render_page(title: str, found: Found) -> str:
    """The page as HTML."""
    name = html.escape(title)
    chosen = "".join(
        f'<label>{key}<select name="{key}"><option value="">all</option></select></label>'
        for key in ("stage", "outcome", "suite")
    )
    fields = chosen + "".join(f"<label>{text}{control}</label>" for text, control in _FIELDS)
    # `<` is written as an escape: nothing in the data can end the script element it stands in.
    data = json.dumps([asdict(sample) for sample in found.samples], ensure_ascii=False).replace("<", "\\u003c")
    said = f"{len(found.samples):,} of {found.num_matching:,} samples that were asked for"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}: samples</title><style>{_STYLE}</style>'
        f"<h1>{name}: samples</h1><p>{said}.</p><form>{fields}<span id='count'></span></form><div id='list'></div>"
        f'<script type="application/json" id="samples">{data}</script><script>{_SCRIPT}</script></html>\n'
    )


def write_page(path: Path, title: str, found: Found) -> Path:
    """Write the page; returns its path. UserError when the place cannot be written to."""
    try:
        write_atomic(path, render_page(title, found))
    except OSError as error:
        raise UserError(f"--html {path}: cannot be written: {error.strerror or error}") from None
    return path
