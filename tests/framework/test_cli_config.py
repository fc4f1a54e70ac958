"""`lightning_cli`: objects from the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Literal, Optional, Union  # noqa: UP035 - as users of 3.10 write them

import pytest

from agentlightning import InMemoryLightningStore, PromptTemplate, Trainer
from agentlightning.algorithm import Baseline
from agentlightning.config import lightning_cli
from agentlightning.execution.client_server import ClientServerExecutionStrategy
from agentlightning.execution.shared_memory import SharedMemoryExecutionStrategy
from agentlightning.types import RolloutConfig

if TYPE_CHECKING:
    from somewhere_else import Unknown


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Settings:
    def __init__(
        self,
        rate: float = 0.5,
        count: int = 3,
        *,
        name: str = "x",
        flag: bool = False,
        maybe: Optional[int] = 1,  # noqa: UP045
        either: Union[int, str] = 0,  # noqa: UP007
        mode: Literal["fast", "slow", 3] = "fast",
        colour: Colour = Colour.RED,
        names: List[str] = [],  # noqa: B006, UP006
        numbers: Sequence[int] | None = (),
        flags: Sequence[bool] = (),
        sizes: tuple[float, ...] = (),
        table: dict[str, int] | None = None,
        config: RolloutConfig | None = None,
        where: Path | None = None,
        untyped=2,  # type: ignore[no-untyped-def]
        anything: Any = None,
        callback: Callable[[], int] | None = None,
        unknown: Unknown | None = None,
    ) -> None:
        """Settings of a test.

        Args:
            rate: How much of it, 100% at most.
            count: How many, which
                may take two lines.
            name: What it is called.
        """
        self.given = dict(locals())


class Base:
    def __init__(self, port: int = 80) -> None:
        """Base.

        Args:
            port: Where it listens.
        """
        self.port = port


class Derived(Base):
    def __init__(self, host: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(command: Sequence[str], *classes: type[Any]) -> Any:
        monkeypatch.setattr(sys, "argv", ["train.py", *command])
        return lightning_cli(*classes)

    return run


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--settings.rate", "0.25"], "rate", 0.25),
        (["--settings.rate", "1e-3"], "rate", 0.001),
        (["--settings.count=-4"], "count", -4),
        (["--settings.name", "none"], "name", "none"),
        (["--settings.flag", "Yes"], "flag", True),
        (["--settings.flag", "0"], "flag", False),
        (["--settings.flag"], "flag", True),
        (["--settings.maybe", "none"], "maybe", None),
        (["--settings.maybe", "NULL"], "maybe", None),
        (["--settings.maybe", "~"], "maybe", None),
        (["--settings.maybe", "nil"], "maybe", None),
        (["--settings.maybe", "7"], "maybe", 7),
        (["--settings.either", "7"], "either", 7),
        (["--settings.either", "seven"], "either", "seven"),
        (["--settings.mode", "slow"], "mode", "slow"),
        (["--settings.mode", "3"], "mode", 3),
        (["--settings.colour", "BLUE"], "colour", Colour.BLUE),
        (["--settings.colour", "b"], "colour", Colour.BLUE),
        (["--settings.names", "a", "b"], "names", ["a", "b"]),
        (["--settings.names"], "names", []),
        (["--settings.numbers", "1", "2"], "numbers", [1, 2]),
        (["--settings.sizes", "0.5", "2"], "sizes", [0.5, 2.0]),
        (["--settings.table", '{"a": 1}'], "table", {"a": 1}),
        (["--settings.table", "none"], "table", None),
        (["--settings.numbers", "none"], "numbers", None),
        (["--settings.flags", "yes", "no"], "flags", [True, False]),
        (["--settings.config", '{"max_attempts": 3}'], "config", RolloutConfig(max_attempts=3)),
        (["--settings.where", "/tmp/x"], "where", Path("/tmp/x")),
        (["--settings.untyped", "5"], "untyped", 5),
        (["--settings.anything", "5"], "anything", "5"),
    ],
)
def test_a_type_hint_says_how_an_option_is_read(
    cli: Callable[..., Any], words: list[str], name: str, value: object
) -> None:
    settings = cli(words, Settings)
    assert settings.given[name] == value
    assert type(settings.given[name]) is type(value)


def test_what_is_not_given_is_left_to_the_constructor(cli: Callable[..., Any]) -> None:
    given = cli([], Settings).given
    assert (given["rate"], given["names"], given["maybe"], given["colour"]) == (0.5, [], 1, Colour.RED)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--settings.count", "many"], "invalid literal for int"),
        (["--settings.flag", "maybe"], "'maybe' is none of yes, true"),
        (["--settings.mode", "medium"], "'medium' is none of fast, slow, 3"),
        (["--settings.colour", "green"], "'green' is none of r, b, RED, BLUE"),
        (["--settings.numbers", "1", "none"], "none stands alone"),
        (["--settings.numbers", "1", "x"], "invalid literal for int"),
        (["--settings.table", "a"], "'a' is not a JSON object"),
        (["--settings.table", '{"a": "b"}'], "is not the JSON wanted"),
        (["--settings.callback", "x"], "unrecognized arguments"),
        (["--settings.unknown", "x"], "unrecognized arguments"),
        (["--settings.cou", "4"], "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_is_explained(
    cli: Callable[..., Any], words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli(words, Settings)
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err


def test_several_classes_give_a_tuple(cli: Callable[..., Any]) -> None:
    settings, derived = cli(
        ["--derived.host", "here", "--derived.port", "1", "--settings.count", "2"], Settings, Derived
    )
    assert (settings.given["count"], derived.host, derived.port) == (2, "here", 1)
    assert cli([]) == ()


def test_a_parameter_without_default_is_required(cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli([], Derived)
    assert "--derived.host" in capsys.readouterr().err


def test_an_optional_parameter_without_default_is_none(cli: Callable[..., Any]) -> None:
    class Needs:
        def __init__(self, limit: int | None) -> None:
            self.limit = limit

    assert cli([], Needs).limit is None


def test_help_says_what_the_docstrings_say(cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(["--help"], Settings, Derived)
    text = " ".join(capsys.readouterr().out.split())
    assert "How much of it, 100% at most. (default: 0.5)" in text
    assert "How many, which may take two lines. (default: 3)" in text
    assert "--derived.port int Where it listens. (default: 80)" in text
    assert "callback" not in text


def test_classes_of_one_name_are_refused(cli: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="must differ in their names: settings, settings"):
        cli([], Settings, type("settings", (), {}))


def test_a_trainer_can_be_configured_whole(cli: Callable[..., Any]) -> None:
    trainer = cli(
        [
            *("--trainer.n-runners", "4"),
            *("--trainer.max-rollouts", "none"),
            *("--trainer.strategy", "shm"),
            *("--trainer.algorithm", '{"type": "agentlightning.algorithm.fast.Baseline", "n_epochs": 2}'),
            *("--trainer.store", "agentlightning.store.memory.InMemoryLightningStore"),
            *("--trainer.adapter", '{"agent_match": "planner"}'),
            *("--trainer.progress", "off"),
            "--trainer.initial-resources",
            '{"prompt": {"resource_type": "prompt_template", "template": "Hi", "engine": "f-string"}}',
        ],
        Trainer,
    )
    assert (trainer.n_runners, trainer.max_rollouts, trainer.progress) == (4, None, False)
    assert isinstance(trainer.strategy, SharedMemoryExecutionStrategy)
    assert trainer.strategy.n_runners == 4
    assert isinstance(trainer.algorithm, Baseline)
    assert trainer.algorithm.n_epochs == 2
    assert isinstance(trainer.store, InMemoryLightningStore)
    assert trainer.adapter.agent_match == "planner"
    assert trainer.initial_resources == {"prompt": PromptTemplate(template="Hi", engine="f-string")}


def test_a_trainer_needs_no_option(cli: Callable[..., Any]) -> None:
    trainer = cli([], Trainer)
    assert isinstance(trainer.strategy, ClientServerExecutionStrategy)
    assert trainer.algorithm is None


def test_a_script_reads_its_own_command_line() -> None:
    code = "from agentlightning import Trainer; from agentlightning.config import lightning_cli;"
    code += "print(lightning_cli(Trainer).n_runners)"
    run = subprocess.run(
        [sys.executable, "-c", code, "--trainer.n-runners", "3"], check=True, capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "3\n"
