"""Numbers for people: three digits and a metric prefix."""

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def si(value: float | int, unit: str = "") -> str:
    """``1.23e15`` of ``"FLOPs"`` is ``1.23 PFLOPs``."""
    power = 0
    while abs(value) >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {PREFIXES[power]}{unit}".strip()
