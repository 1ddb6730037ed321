"""Takes safeguards away from the processes of a target, before they start.

By ``PYTHONPATH`` and one variable of their environment, which daemons hand on to their engines.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from chaos.controls.catalogue import Control, of
from chaos.targets.base import Target

PRELOAD = Path(__file__).parent / "preload"
VARIABLE = "DASK_HA_CHAOS_EDITS"
SAID = "chaos: a safeguard is taken away in"


def install(target: Target, names: Sequence[str]) -> None:
    """For the peers; ``for_clients`` has what is for clients."""
    controls = [control for control in of(names) if control.side == "peers"]
    if controls:
        for peer in target.peers:
            change(target.environment(peer), controls)


def for_clients(names: Sequence[str], inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What their environment is to have."""
    controls = [control for control in of(names) if control.side == "clients"]
    environment = {name: inherited[name] for name in ("PYTHONPATH",) if name in inherited}
    if controls:
        change(environment, controls)
        return environment
    return {}


def change(environment: MutableMapping[str, str], controls: Sequence[Control]) -> None:
    edits: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for control in controls:
        for edit in control.edits:
            edits[edit.module].append((edit.before, edit.after))
    paths = [str(PRELOAD), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment[VARIABLE] = json.dumps(edits)
