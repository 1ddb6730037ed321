"""How the pages look. Colours are told apart by people who see no red and green, too: blue is the
leader's, orange what nobody knows, dark red what is wrong."""

from __future__ import annotations

STYLE = """
:root {
  --page: #ffffff; --text: #1d2430; --soft: #5c6675; --line: #e3e7ec; --axis: #9aa4b1;
  --ok: #5b8c5a; --ok-faint: #5b8c5a99; --fail: #b3261e; --info: #d98200; --leader: #1f5fbf;
  --follower: #b9cbe6; --candidate: #7c5cc4; --absent: #eceff3; --fault: #d9820026;
  --fault-edge: #d98200; --box: #f6f8fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181f; --text: #e4e8ee; --soft: #9aa4b1; --line: #2a313c; --axis: #5c6675;
    --ok: #7fb77e; --ok-faint: #7fb77e99; --fail: #ff6b62; --info: #ffb04d; --leader: #6aa2f7;
    --follower: #34486b; --candidate: #a98ff0; --absent: #1d232c; --fault: #ffb04d22;
    --fault-edge: #ffb04d; --box: #1b212a;
  }
}
svg { font: 12px system-ui, sans-serif; width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); }
.label { fill: var(--text); font-weight: 500; }
.note { fill: var(--fault-edge); font-size: 11px; }
.term { fill: var(--page); font-size: 11px; font-weight: 600; }
.grid { stroke: var(--line); } .axis { stroke: var(--axis); }
.fault { fill: var(--fault); } .fault-bar { fill: var(--fault-edge); }
.ok { fill: var(--ok); } .fail { fill: var(--fail); } .info { fill: var(--info); }
.ok-points, .fail-points, .info-points { fill: none; stroke-width: 3; stroke-linecap: round; }
.ok-points { stroke: var(--ok-faint); } .fail-points { stroke: var(--fail); }
.info-points { stroke: var(--info); }
.ok-spans { stroke: var(--ok-faint); fill: none; stroke-width: 1; }
.rate { fill: none; stroke: var(--leader); stroke-width: 1.6; }
.p50 { fill: none; stroke: var(--ok); stroke-width: 1.6; }
.p99 { fill: none; stroke: var(--fail); stroke-width: 1.2; stroke-dasharray: 4 3; }
.leader { fill: var(--leader); } .follower { fill: var(--follower); }
.learner { fill: var(--follower); opacity: .6; }
.candidate, .pre-candidate { fill: var(--candidate); }
.absent { fill: var(--absent); }
:root { --phase-0: #c9ccd3; --phase-1: #7c5cc4; --phase-2: #1f5fbf; --phase-3: #4f9fd0;
  --phase-4: #8fc3b5; --phase-5: #5b8c5a; }
.phase-0 { fill: var(--phase-0); }
.phase-1 { fill: var(--phase-1); }
.phase-2 { fill: var(--phase-2); }
.phase-3 { fill: var(--phase-3); }
.phase-4 { fill: var(--phase-4); }
.phase-5 { fill: var(--phase-5); }
"""

PAGE_STYLE = (
    STYLE
    + """
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page);
  margin: 0 auto; max-width: 1200px; padding: 20px 24px 60px; }
h1 { font-size: 22px; margin: 4px 0 2px; } h2 { font-size: 16px; margin: 30px 0 4px; }
p { margin: 4px 0 8px; } .soft { color: var(--soft); } code { font: 13px ui-monospace, monospace; }
pre { background: var(--box); padding: 10px 12px; border-radius: 6px; overflow-x: auto;
  font: 13px ui-monospace, monospace; margin: 6px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; margin-top: 6px; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td.number, th.number { text-align: right; }
a { color: var(--leader); }
.badge { display: inline-block; padding: 2px 12px; border-radius: 12px; color: var(--page);
  font-weight: 600; }
.badge.valid { background: var(--ok); } .badge.violation { background: var(--fail); }
.badge.unknown { background: var(--info); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 4px; }
.tile { background: var(--box); border-radius: 8px; padding: 8px 14px; min-width: 104px; }
.tile b { display: block; font-size: 20px; font-weight: 600; }
.tile span { color: var(--soft); font-size: 13px; }
.legend { color: var(--soft); font-size: 13px; margin: 2px 0 4px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin: 0 5px 0 14px; vertical-align: -1px; }
.legend i:first-child { margin-left: 0; }
.key-ok { background: var(--ok); } .key-fail { background: var(--fail); }
.key-info { background: var(--info); } .key-leader { background: var(--leader); }
.key-follower { background: var(--follower); } .key-candidate { background: var(--candidate); }
.key-absent { background: var(--absent); outline: 1px solid var(--axis); }
.key-phase.phase-0 { background: var(--phase-0); }
.key-phase.phase-1 { background: var(--phase-1); }
.key-phase.phase-2 { background: var(--phase-2); }
.key-phase.phase-3 { background: var(--phase-3); }
.key-phase.phase-4 { background: var(--phase-4); }
.key-phase.phase-5 { background: var(--phase-5); }
.key-fault { background: var(--fault); outline: 1px solid var(--fault-edge); }
.cell { display: inline-block; padding: 1px 9px; border-radius: 10px; margin: 1px;
  color: var(--page); font-size: 13px; font-weight: 600; text-decoration: none; }
.cell.valid { background: var(--ok); } .cell.violation { background: var(--fail); }
.cell.unknown { background: var(--info); } .cell.none { color: var(--soft); font-weight: 400; }
.wide { overflow-x: auto; }
"""
)
