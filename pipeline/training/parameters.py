"""How the parameters of methods refuse a value: by its name, the value, and what is allowed."""

from __future__ import annotations

import math


def require(name: str, holds: bool, *, of: object, allowed: str) -> None:
    """Raise ValueError unless what is asked of the parameter `name`, a field `of` some parameters, `holds`."""
    if not holds:
        raise ValueError(f"{name} is {getattr(of, name)!r}; allowed: {allowed}")


def check_probability(name: str, value: float) -> None:
    """Refuse a value of parameter `name` that is no probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; allowed: 0 to 1")


def check_weight(name: str, value: float) -> None:
    """Refuse a negative value of parameter `name`."""
    if not value >= 0:
        raise ValueError(f"{name} is {value}; allowed: 0 and above")


def check_interval(name: str, values: tuple[float, float], *, most: float = math.inf) -> None:
    """Refuse a range of parameter `name` unless it is two numbers, 0 < low ≤ high ≤ `most`."""
    if len(values) != 2 or not 0 < values[0] <= values[1] <= most:
        raise ValueError(f"{name} is {list(values)}; allowed: two numbers, 0 < low <= high <= {most}")
