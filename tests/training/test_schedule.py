"""Schedules at the points one can compute by hand."""

from __future__ import annotations

import math

import pytest

from pipeline.training.schedule import poly, sigmoid_ramp


def test_poly_falls_from_one_to_nothing() -> None:
    factors = [poly(step, 100, power=0.9) for step in (0, 50, 99, 100)]
    assert factors == pytest.approx([1.0, 0.5**0.9, 0.01**0.9, 0.0])


def test_the_sigmoid_ramp_rises_from_e_to_the_minus_five_to_one_and_stays() -> None:
    assert [sigmoid_ramp(x) for x in (0.0, 0.5, 1.0, 3.0)] == pytest.approx([math.exp(-5), math.exp(-1.25), 1.0, 1.0])
