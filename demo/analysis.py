"""The questions, each asked of Dask and of pandas.

Where the two can share the code they do not need each other's answer to be right: the functions
take a frame of either kind. The days are summed up by two different ways.

No question shares a task with another (``frame`` sees to that), so that a task that ran twice is a
defect and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd

from demo.data import Tables

ORIGINS = ("EWR", "JFK", "LGA")
QUARTERS = {"winter": (1, 2, 3), "spring": (4, 5, 6), "summer": (7, 8, 9), "autumn": (10, 11, 12)}
DAY_PAUSE_S = 0.25  # what the task waits for: a service, a disk. It makes the demo long enough


@dataclass(frozen=True, slots=True)
class Question:
    """One question with two ways to its answer."""

    title: str
    dask: Callable[[Any, Any, Any], Any]
    pandas: Callable[[Tables], pd.DataFrame]


def questions() -> list[Question]:
    """Mean delay by carrier and hour for each airport, and delay by weather and maker."""
    asked: list[Question] = []
    for origin, (quarter, months) in zip((*ORIGINS, None), QUARTERS.items(), strict=True):
        asked += [_by_carrier_and_hour(origin), _by_weather_and_maker(quarter, months)]
    return asked


def day_report(month: pd.DataFrame, day: int) -> dict[str, float]:
    """One day of a month's flights in figures."""
    time.sleep(DAY_PAUSE_S)
    flights = month[month["day"] == day]
    return {
        "flights": float(len(flights)),
        "cancelled": float(flights["dep_delay"].isna().sum()),
        "mean_delay": float(flights["dep_delay"].mean()),
        "late_share": float((flights["arr_delay"] > 15).mean()),
    }


def all_days(tables: Tables) -> pd.DataFrame:
    """What ``day_report`` says of each day, computed in one go."""
    flights = tables.flights
    flights = flights.assign(
        cancelled=flights["dep_delay"].isna(), late=flights["arr_delay"].gt(15)
    )
    days = flights.groupby(["month", "day"])
    return pd.DataFrame(
        {
            "flights": days.size().astype(float),
            "cancelled": days["cancelled"].sum().astype(float),
            "mean_delay": days["dep_delay"].mean(),
            "late_share": days["late"].mean(),
        }
    )


def destination_report(months: list[pd.DataFrame], destination: str) -> float:
    """Mean time in the air to one airport, in minutes."""
    return float(pd.concat([m.loc[m["dest"] == destination, "air_time"] for m in months]).mean())


def all_destinations(tables: Tables) -> pd.Series[float]:
    """What ``destination_report`` says of each destination."""
    return tables.flights.groupby("dest")["air_time"].mean()


def _by_carrier_and_hour(origin: str | None) -> Question:
    def ask(flights: Any) -> Any:
        of_origin = flights[flights["origin"] == origin] if origin else flights
        return of_origin.groupby(["carrier", "hour"])[["dep_delay", "arr_delay"]].mean()

    return Question(
        f"delay by carrier and hour, {origin or 'all airports'}",
        lambda flights, weather, planes: ask(flights),
        lambda tables: ask(tables.flights),
    )


def _by_weather_and_maker(quarter: str, months: tuple[int, ...]) -> Question:
    def ask(flights: Any, weather: Any, planes: Any, **how: Any) -> Any:
        flights = flights[flights["month"].isin(months)]
        weather = weather[weather["month"].isin(months)].drop(columns=["month"])
        joined = flights.merge(weather, on=["origin", "time_hour"], how="inner", **how)
        joined = joined.merge(planes, on="tailnum", how="inner", **how)
        joined = joined.assign(fog=joined["visib"] < 3, rain=joined["precip"] > 0)
        by = joined.groupby(["manufacturer", "fog", "rain"])
        return by.agg({"dep_delay": "mean", "seats": "sum"})

    return Question(
        f"delay by weather and maker of the plane, {quarter}",
        # Small tables would be broadcast; here they are to cross the network between the workers.
        lambda *frames: ask(*frames, shuffle_method="p2p", broadcast=False),
        lambda tables: ask(tables.flights, tables.weather, tables.planes),
    )


def frame(directory: Path, question: int, example: pd.DataFrame) -> Any:
    """A table that ``data.write_parquet`` wrote, with tasks of its own for each question."""
    parts = [str(path) for path in sorted(directory.glob("*.parquet"))]
    return dd.from_map(read_part, parts, question=question, meta=example.head(0))


def read_part(path: str, question: int | None = None) -> pd.DataFrame:
    """One file of a table."""
    return pd.read_parquet(path)
