"""`edge receive` at the pace of the run in `EDGE_CHAOS`; `EDGE_CHAOS_MUTANT` plants a fault (mutants.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge.cli.main import main
from tests.chaos.mutants import plant
from tests.chaos.pace import speed_up
from tests.chaos.world import World

if __name__ == "__main__":
    world = World.load(Path(os.environ["EDGE_CHAOS"]))
    speed_up(world.pace, world.utc_minus_boot_s)
    plant(os.environ.get("EDGE_CHAOS_MUTANT", ""))
    sys.exit(main(sys.argv[1:]))
