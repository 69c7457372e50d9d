"""When this version was made: what a device's clock can never rightly be before.

A constant and no time of a file: a device with a wrong clock stamps what it installs with that, and a wheel carries
whatever its builder chose. `make lock`, which comes with each release, renews it.
"""

from __future__ import annotations

BUILT_UTC_S = 1795824000.0  # 2026-11-28, 00:00
