"""The look of the status page: one block of CSS, light and dark, from a phone to a wall, nothing loaded from anywhere.

States differ in pattern as well as in colour, so that they can be told apart without it: free is empty, held is full,
draining has stripes, fenced has dots, unhealthy has crosses. All colours are variables: `tests/report/test_contrast.py`
works out the contrast of every two that touch.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --text: #1c2128; --muted: #59636e; --line: #d8dee4;
  --ok: #187434; --ok-soft: #dcf3e2; --warn: #8a5a00; --warn-soft: #fdf0cf; --bad: #c4202b; --bad-soft: #fde5e4;
  --held: #0b62c4; --free: #e3eefb; --free-line: #4a80c0; --drain: #b36200; --fence: #6b747f;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --card: #171c23; --text: #e4e9ef; --muted: #98a3b0; --line: #2e3641;
    --ok: #4cc266; --ok-soft: #14301c; --warn: #e0aa3a; --warn-soft: #35290e; --bad: #ff7169; --bad-soft: #3d1a1b;
    --held: #4b96ea; --free: #16273b; --free-line: #5f8cc2; --drain: #e0a030; --fence: #8a95a2;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main, #away, body > footer { max-width: 1640px; margin: 0 auto; padding: 14px 20px 0; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 8px; }
h2 span { font-weight: 400; }
h3 { font-size: .95rem; margin: 0; display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; }
h3 span { font-weight: 400; }
header > *, header span, h3 span, .verdict > *, .part > * { min-width: 0; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em; }
a { color: var(--held); }
:focus-visible { outline: 2px solid var(--held); outline-offset: 2px; }
.muted { color: var(--muted); }
.small { font-size: .86rem; }
header { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: baseline; margin-bottom: 10px; }
header .facts { display: flex; flex-wrap: wrap; gap: 2px 18px; }
#away {
  position: sticky; top: 8px; z-index: 1; width: calc(100% - 40px); margin-top: 10px; padding: 8px 14px;
  background: var(--warn-soft); border: 2px solid var(--warn); border-radius: 8px;
}
#away[hidden] { display: none; }
.verdict {
  display: grid; grid-template-columns: auto 1fr; gap: 0 14px; align-items: center; margin: 0 0 12px;
  border: 1px solid; border-left-width: 6px; border-radius: 8px; padding: 8px 14px; background: var(--card);
}
.verdict strong { font-size: 1.15rem; }
.verdict p { grid-column: 2; margin: 0; }
.verdict .mark { grid-row: span 2; font-size: 1.8rem; line-height: 1; }
.verdict.ok { border-color: var(--ok); background: var(--ok-soft); } .verdict.ok .mark { color: var(--ok); }
.verdict.warn { border-color: var(--warn); background: var(--warn-soft); } .verdict.warn .mark { color: var(--warn); }
.verdict.bad { border-color: var(--bad); background: var(--bad-soft); } .verdict.bad .mark { color: var(--bad); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin-bottom: 12px;
}
section > p, section > ul { margin: 6px 0; }
section > :last-child { margin-bottom: 0; }
section.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; overflow-wrap: normal; }
caption { text-align: left; color: var(--muted); font-size: .86rem; padding-bottom: 6px; overflow-wrap: anywhere; }
th, td { text-align: left; padding: 5px 14px 5px 0; vertical-align: top; border-top: 1px solid var(--line); }
thead th {
  border-top: 0; color: var(--muted); font-weight: 500; font-size: .82rem; white-space: nowrap; padding-top: 0;
}
tbody th { font-weight: 500; min-width: 6rem; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { min-width: 12rem; overflow-wrap: anywhere; white-space: pre-line; }
.nowrap { white-space: nowrap; }
.tag {
  display: inline-block; padding: 0 8px; border: 1px solid transparent; border-radius: 10px;
  font-size: .82rem; line-height: 1.4; white-space: nowrap;
}
.tag.ok { background: var(--ok-soft); color: var(--ok); }
.tag.warn { background: var(--warn-soft); color: var(--warn); }
.tag.bad { background: var(--bad-soft); color: var(--bad); }
.tag.plain { background: var(--page); color: var(--muted); }
ul, ol { margin: 0; padding-left: 1.3em; }
ul.errors { list-style: none; padding: 0; }
ul.errors li { padding: 4px 0; border-top: 1px solid var(--line); }
ul.errors li:first-child { border-top: 0; padding-top: 0; }
summary { cursor: pointer; }
section > details { margin-top: 8px; }
section > details > div, section > details > ul { margin-top: 8px; }
.heading { display: flex; flex-wrap: wrap; gap: 4px 24px; justify-content: space-between; margin-bottom: 8px; }
.heading h2 { margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .82rem; color: var(--muted); }
.legend span { display: inline-flex; align-items: center; gap: 6px; }
.gpus { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 275px), 1fr)); gap: 8px; }
.gpu { border: 1px solid var(--line); border-radius: 6px; padding: 6px 10px; min-width: 0; }
.gpu.bad { border-color: var(--bad); }
.gpu p, .gpu details { margin: 2px 0 0; }
.mig { border-top: 1px solid var(--line); margin-top: 8px; padding-top: 5px; }
.parts { display: flex; flex-wrap: wrap; gap: 4px 12px; margin: 6px 0 4px; }
.part { display: flex; gap: 5px; align-items: center; }
.part .strip { margin: 0; }
.strip, .bar { display: flex; margin: 5px 0 4px; background: var(--card); forced-color-adjust: none; }
.strip { flex-wrap: wrap; gap: 3px; }
.part .strip, .part .bar { flex: 1 1 auto; }
.bar { height: 18px; gap: 2px; }
.share {
  display: inline-block; height: 18px; border-radius: 3px; flex: none; border: 1px solid transparent;
  forced-color-adjust: none; background-color: var(--card);
}
i.share { width: 18px; }
.bar .share { flex: 0 1 auto; min-width: 5px; }
.share.free { background-color: var(--free); border-color: var(--free-line); }
.share.held { background-color: var(--held); }
.share.draining {
  background-image: repeating-linear-gradient(45deg, var(--drain) 0 4px, transparent 4px 7px);
  border-color: var(--drain);
}
.share.fenced {
  background-image: radial-gradient(circle, var(--fence) 0 1.5px, transparent 1.9px); background-size: 5px 5px;
  border-color: var(--fence); border-style: dashed;
}
.share.unhealthy {
  background-color: var(--bad); background-size: 16px 16px;
  background-image: linear-gradient(45deg, transparent 43%, var(--card) 43% 57%, transparent 57%),
    linear-gradient(135deg, transparent 43%, var(--card) 43% 57%, transparent 57%);
}
body > footer {
  display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .86rem; color: var(--muted); padding: 4px 20px 30px;
}
@media (max-width: 560px) {
  main, body > footer { padding-left: 10px; padding-right: 10px; }
  #away { width: calc(100% - 20px); }
  section { padding: 10px; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, caption, tbody, tr, tbody th, td { display: block; }
  tr { border-top: 1px solid var(--line); padding: 4px 0; }
  tbody th, td, td.num { border: 0; padding: 1px 0; text-align: left; overflow-wrap: anywhere; }
  tbody th { font-weight: 600; }
  td:not(:empty)::before { content: attr(data-label) ": "; color: var(--muted); font-size: .82rem; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  body { font-size: 11px; background: none; }
  body > footer, #away { display: none; }
  .gpu, tr, .verdict { break-inside: avoid; }
  .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
}
""".strip()
