"""The style of the drift report's page."""

STYLE = """
:root { --ground: #f6f6f4; --card: #fff; --ink: #1c2024; --soft: #565f69; --line: #e2e3df; --accent: #1d5fc4; --base: #6f7780;
  --warn: #995000; --warn-soft: #fcf0dd; --bad: #b3261e; --bad-soft: #fbe9e7; --good: #14713f; --swap: #0e7c86; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ground: #101317; --card: #181c22; --ink: #e7eaee; --soft: #a3adb8; --line: #2b323b;
  --accent: #74a9ff; --base: #8f99a5; --warn: #f0b25a; --warn-soft: #35270f; --bad: #ff8a80; --bad-soft: #3c1c1a; --good: #5fcf93;
  --swap: #4fc3cd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 980px; margin: 0 auto; padding: 32px 24px 48px; }
h1, h2, h3, p, ul, ol, figure { margin: 0; padding: 0; } em, i { font-style: normal; } li { list-style: none; }
header h1 { font-size: 26px; letter-spacing: -0.02em; line-height: 1.2; }
.mark { color: var(--accent); font-weight: 700; letter-spacing: -0.01em; } .span, .note, small, footer { color: var(--soft); }
.summary { font-size: 17px; line-height: 1.45; margin: 18px 0 20px; max-width: 46em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; margin-bottom: 26px; }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tiles b { display: block; font-size: 19px; letter-spacing: -0.01em; } .tiles span { color: var(--soft); font-size: 12px; }
section { margin-top: 30px; } h2 { font-size: 16px; margin-bottom: 6px; } .note { margin-bottom: 10px; font-size: 13px; }
.chart, .episode, table { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.chart { padding: 12px; } .chart svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--line); } .tick, .none { fill: var(--soft); font-size: 11px; } .none { text-anchor: middle; font-size: 13px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .line.trial { stroke: var(--accent); }
.line.stable { stroke: var(--base); stroke-dasharray: 5 4; }
.drift rect { fill: var(--warn); opacity: .13; } .drift line { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 3 3; }
.drift circle { fill: var(--warn); } .drift text { fill: var(--card); font-size: 11px; font-weight: 700; text-anchor: middle; }
.swap { stroke: var(--swap); } .decision { fill: var(--good); } .decision.rollback { fill: var(--bad); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 8px; font-size: 12px; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 6px; } .key { width: 18px; height: 0; display: inline-block; }
.key.trial { border-top: 2px solid var(--accent); } .key.stable { border-top: 2px dashed var(--base); }
.key.shade { height: 10px; background: var(--warn); opacity: .3; } .key.swap { width: 0; height: 10px; border-left: 1px solid var(--swap); }
.key.decision { width: 0; border: 5px solid transparent; border-bottom: 9px solid var(--good); border-top: 0; }
.episode { padding: 14px 16px; margin-bottom: 12px; border-left: 4px solid var(--base); break-inside: avoid; }
.episode.critical { border-left-color: var(--bad); } .episode.warning { border-left-color: var(--warn); }
.episode header { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin-bottom: 6px; } h3 { font-size: 15px; }
.number { background: var(--warn); color: var(--card); border-radius: 50%; width: 20px; height: 20px; font-size: 12px; text-align: center; }
.tag { font-size: 11px; padding: 1px 8px; border-radius: 9px; border: 1px solid var(--line); color: var(--soft); }
.tag.critical { background: var(--bad-soft); color: var(--bad); border-color: transparent; }
.tag.warning { background: var(--warn-soft); color: var(--warn); border-color: transparent; }
.moved { margin-left: auto; font-weight: 650; } .two { display: flex; flex-wrap: wrap; gap: 18px; }
.two > div { flex: 1 1 420px; min-width: 0; overflow-wrap: anywhere; }
.causes { margin: 10px 0; } .causes li { display: grid; grid-template-columns: minmax(0, 1fr) 120px minmax(0, 190px); gap: 12px;
  align-items: center; padding: 2px 0; }
.meter { height: 8px; background: var(--line); border-radius: 4px; overflow: hidden; } .meter i { display: block; height: 100%;
  background: var(--accent); }
.did { margin: 6px 0; } table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 13px; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 12px; } th, td { padding: 5px 12px; border-bottom: 1px solid
  var(--line); vertical-align: top; white-space: nowrap; } td:first-child, td:last-child { white-space: normal;
  overflow-wrap: anywhere; } section > table td:first-child, section > table td:last-child { min-width: 9em; }
tbody tr:last-child td { border-bottom: 0; }
.drifting td:nth-child(3) { color: var(--bad); font-weight: 650; } .episode table { margin-top: 8px; }
.hist { width: 260px; } .hist svg { display: block; width: 100%; } .signals .hist { width: 150px; }
.hist .now { fill: var(--accent); opacity: .55; } .hist .then { fill: none; stroke: var(--ink); stroke-width: 1.4; }
.hist .base { stroke: var(--line); } figcaption { display: flex; justify-content: space-between; font-size: 11px; color: var(--soft); }
footer { margin-top: 36px; font-size: 12px; }
@media (max-width: 640px) { main { padding: 20px 14px; } .causes li { grid-template-columns: minmax(0, 1fr) 70px; }
  .causes small { grid-column: 1 / -1; } table { display: block; overflow-x: auto; } }
@media print { :root { --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --accent: #1d5fc4; --warn: #995000;
  --bad: #b3261e; --base: #6f7780; --good: #14713f; --swap: #0e7c86; --warn-soft: #fcf0dd; --bad-soft: #fbe9e7; color-scheme: light; }
  body { font-size: 11px; print-color-adjust: exact; } main { max-width: none; padding: 0; } tr, figure { break-inside: avoid; } }
"""
