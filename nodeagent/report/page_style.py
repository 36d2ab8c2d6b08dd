"""The look of the status page: one block of CSS, light and dark, from a phone to a wall, nothing loaded from anywhere.

States differ in pattern as well as in colour, so that they can be told apart without it.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --text: #1c2128; --muted: #59636e; --line: #d8dee4;
  --ok: #1a7f37; --ok-soft: #dcf3e2; --warn: #8a5a00; --warn-soft: #fdf0cf; --bad: #c4202b; --bad-soft: #fde5e4;
  --held: #0b62c4; --free: #e3eefb; --free-line: #8fb8e8; --drain: #d98a00; --fence: #8c96a1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --card: #171c23; --text: #e4e9ef; --muted: #98a3b0; --line: #2e3641;
    --ok: #4cc266; --ok-soft: #14301c; --warn: #e0aa3a; --warn-soft: #35290e; --bad: #ff7169; --bad-soft: #3d1a1b;
    --held: #4b96ea; --free: #16273b; --free-line: #39608c; --drain: #e0a030; --fence: #707b88;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 20px 20px 40px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 10px; }
h3 { font-size: .95rem; margin: 0; display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; }
h3 span { font-weight: 400; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88em; }
a { color: var(--held); }
.muted { color: var(--muted); }
.small { font-size: .86rem; }
header { margin-bottom: 16px; }
header .facts { display: flex; flex-wrap: wrap; gap: 2px 18px; margin-top: 6px; }
.verdict {
  display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; align-items: center; margin: 0 0 16px;
  border: 1px solid; border-left-width: 6px; border-radius: 8px; padding: 12px 16px; background: var(--card);
}
.verdict strong { font-size: 1.2rem; }
.verdict p { grid-column: 2; margin: 0; overflow-wrap: anywhere; }
.verdict .mark { grid-row: span 2; font-size: 1.8rem; line-height: 1; }
.verdict.ok { border-color: var(--ok); background: var(--ok-soft); } .verdict.ok .mark { color: var(--ok); }
.verdict.warn { border-color: var(--warn); background: var(--warn-soft); } .verdict.warn .mark { color: var(--warn); }
.verdict.bad { border-color: var(--bad); background: var(--bad-soft); } .verdict.bad .mark { color: var(--bad); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px; margin-bottom: 16px;
}
section > :last-child { margin-bottom: 0; }
section.bad { border-color: var(--bad); }
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 16px;
}
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 5px 14px 5px 0; vertical-align: top; border-top: 1px solid var(--line); }
thead th {
  border-top: 0; color: var(--muted); font-weight: 500; font-size: .82rem; white-space: nowrap; padding-top: 0;
}
tbody th { font-weight: 500; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { min-width: 12rem; overflow-wrap: anywhere; white-space: pre-line; }
.nowrap { white-space: nowrap; }
.tag {
  display: inline-block; padding: 0 8px; border-radius: 10px; font-size: .82rem; line-height: 1.5; white-space: nowrap;
}
.tag.ok { background: var(--ok-soft); color: var(--ok); }
.tag.warn { background: var(--warn-soft); color: var(--warn); }
.tag.bad { background: var(--bad-soft); color: var(--bad); }
.tag.plain { background: var(--page); color: var(--muted); }
ul, ol { margin: 0; padding-left: 1.3em; }
ul.errors { list-style: none; padding: 0; }
ul.errors li { padding: 8px 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
ul.errors li:first-child { border-top: 0; padding-top: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 14px; font-size: .86rem; color: var(--muted); }
.legend span { display: inline-flex; align-items: center; gap: 6px; }
.gpus { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 275px), 1fr)); gap: 12px; }
.gpu { border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px; min-width: 0; }
.gpu.bad { border-color: var(--bad); }
.gpu p { margin: 3px 0 0; overflow-wrap: anywhere; }
.mig { border-top: 1px solid var(--line); margin-top: 8px; padding-top: 5px; }
.parts { display: flex; flex-wrap: wrap; gap: 4px 12px; margin: 6px 0 4px; }
.part { display: flex; gap: 5px; align-items: center; }
.part .strip { margin: 0; }
.part .strip, .part .bar { flex: 1 1 auto; }
.strip { display: flex; flex-wrap: wrap; gap: 3px; margin: 8px 0 6px; }
.bar { display: flex; height: 18px; margin: 8px 0 6px; border-radius: 3px; overflow: hidden; gap: 1px; }
.bar i { min-width: 3px; height: 100%; border-radius: 0; }
i.share {
  display: inline-block; width: 18px; height: 18px; border-radius: 3px; flex: none; border: 1px solid transparent;
}
.bar i.share { flex: 1 1 0; width: auto; }
i.free { background: var(--free); border-color: var(--free-line); }
i.held { background: var(--held); }
i.draining { background: repeating-linear-gradient(45deg, var(--drain) 0 4px, var(--held) 4px 7px); }
i.fenced {
  background: repeating-linear-gradient(135deg, transparent 0 3px, var(--fence) 3px 5px); border-color: var(--fence);
}
i.unhealthy {
  background: linear-gradient(45deg, transparent 43%, var(--card) 43% 57%, transparent 57%),
    linear-gradient(135deg, transparent 43%, var(--card) 43% 57%, transparent 57%), var(--bad);
}
footer { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .86rem; color: var(--muted); }
@media (max-width: 560px) { main { padding: 12px 12px 24px; } section { padding: 12px; } }
""".strip()
