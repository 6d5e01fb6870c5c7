"""Selector: the facade for other people's loops.

Selector         select, learn, pick: three lines in a loop
SelectingLoader  the same as a loader, for loops that nobody may edit
per_example      usual losses, one for each row
Schedule, Ramp   when scores choose, and settings that change with time
AutoOff          when to stop scoring
"""

from superbatch.selector.auto_off import AutoOff
from superbatch.selector.choice import Selection
from superbatch.selector.loader import SelectingLoader
from superbatch.selector.losses import per_example
from superbatch.selector.schedule import Ramp, Schedule
from superbatch.selector.selector import Selector


__all__ = [
    "AutoOff",
    "Ramp",
    "Schedule",
    "SelectingLoader",
    "Selection",
    "Selector",
    "per_example",
]
