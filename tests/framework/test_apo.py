"""APO: prompts really get better, at the cost that was asked for, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import httpx
import pytest
from openai import AsyncOpenAI
from runners import running
from scripted_model import ScriptedModel

from agentlightning import (
    LLM,
    AttemptedRollout,
    InMemoryLightningStore,
    LightningStore,
    LitAgent,
    NamedResources,
    PromptTemplate,
    ProxyLLM,
    Rollout,
    Trainer,
    get_active_tracer,
    rollout,
)
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.algorithm.apo import APO, BeamRound, Candidate
from agentlightning.algorithm.apo.instructions import template_of
from agentlightning.algorithm.apo.placeholders import find_placeholders
from agentlightning.algorithm.apo.trials import Trials
from agentlightning.llm_proxy import LLMProxy

WORDS = ("alpha", "beta", "gamma", "delta")
"""What a good prompt has, in this world: the reward is the share of them that it names."""
SEED = PromptTemplate(template="Answer {question}.", engine="f-string")
RESOURCES: NamedResources = {"llm": LLM(endpoint="http://x/v1", model="m"), "prompt": SEED}
MODELS = ("agent", "critic", "editor")
TRAIN = [f"train {number}" for number in range(6)]
VAL = [f"val {number}" for number in range(8)]


def share_of_words(text: str) -> float:
    return sum(word in text for word in WORDS) / len(WORDS)


@rollout
async def answer(task: str, prompt_template: PromptTemplate) -> float:
    text = prompt_template.format(question=task)
    if task == "val 0":
        raise ValueError("this one always fails")
    tracer = get_active_tracer()
    assert tracer is not None
    tracer.create_span(
        "openai.chat.completion",
        attributes={
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": text,
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": f"I was told: {text}",
        },
    )
    return share_of_words(text)


class Asker(LitAgent[str]):
    """Asks the model behind the gateway, which repeats what it is told."""

    async def rollout_async(self, task: str, resources: NamedResources, rollout: Rollout) -> float:
        llm, prompt = resources["llm"], resources["prompt"]
        assert isinstance(llm, ProxyLLM)
        assert isinstance(prompt, PromptTemplate)
        assert isinstance(rollout, AttemptedRollout)
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        messages = [{"role": "user", "content": prompt.format(question=task)}]
        async with httpx.AsyncClient(verify=False) as client:
            answer = await client.post(f"{url}/chat/completions", json={"model": llm.model, "messages": messages})
        return share_of_words(answer.json()["choices"][0]["message"]["content"])


def improve(model: str, messages: list[dict[str, str]]) -> str:
    """Plays the models: the agent's repeats, the critic names a word that the prompt lacks, the editor adds it."""
    if model == "agent":
        return messages[0]["content"]
    asked = messages[1]["content"]
    template = template_of(asked.partition("\n\n")[0])
    if model == "critic":
        missing = [word for word in WORDS if word not in template]
        return f"It lacks {missing[crc32(asked.encode()) % len(missing)]}." if missing else "It is fine."
    found = re.search(r"It lacks (\w+)\.", asked)
    return f"Here it is:\n<template>\n{template}{' ' + found[1] if found else ''}\n</template>"


@pytest.fixture
def endpoint() -> Iterator[ScriptedModel]:
    with ScriptedModel(improve) as served:
        yield served


@asynccontextmanager
async def client_of(endpoint: ScriptedModel) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0) as client:
        yield client


async def optimise(
    endpoint: ScriptedModel,
    *,
    store: LightningStore | None = None,
    agent: Any = answer,
    train: Any = TRAIN,
    val: Any = VAL,
    resources: NamedResources = RESOURCES,
    **settings: Any,
) -> APO[str]:
    """Runs APO with runners, and returns it."""
    store = store or InMemoryLightningStore()
    given = {"gradient_model": "critic", "apply_edit_model": "editor", "seed": 7, "beam_width": 2, "branch_factor": 2}
    async with client_of(endpoint) as client:
        apo = APO[str](client, **{**given, "gradient_batch_size": 3, "val_batch_size": 4, "beam_rounds": 2, **settings})
        apo.set_store(store)
        apo.set_initial_resources(resources)
        async with running(agent, store, max_concurrency=8):
            await apo.run(train, val)
    return apo


async def test_the_best_prompt_gets_better_round_by_round(endpoint: ScriptedModel) -> None:
    apo = await optimise(endpoint, beam_rounds=4)

    scores = [share_of_words(each.best.prompt.template) for each in apo.history]
    assert scores == sorted(scores)
    assert share_of_words(SEED.template) == 0.0
    assert share_of_words(apo.get_best_prompt().template) == scores[-1] == 1.0
    assert apo.get_best_prompt().template.startswith("Answer {question}.")
    # One validation task of eight always fails, and counts as 0.
    assert apo.get_best_score() == pytest.approx(7 / 8)


async def test_critic_and_editor_may_be_models_behind_the_gateway_that_the_agents_use(endpoint: ScriptedModel) -> None:
    store = InMemoryLightningStore()
    backend = {"api_base": endpoint.base_url, "api_key": "any"}
    models = [{"model_name": name, "litellm_params": {"model": f"openai/{name}", **backend}} for name in MODELS]
    proxy = LLMProxy(model_list=models, store=store)
    await proxy.start()
    try:
        resources: NamedResources = {"llm": proxy.as_resource(model="agent"), "prompt": SEED}
        reached = SimpleNamespace(base_url=proxy.url)
        apo = await optimise(reached, store=store, agent=Asker(), resources=resources, beam_rounds=4)
    finally:
        await proxy.stop()
    assert share_of_words(apo.get_best_prompt().template) == 1.0
    assert apo.get_best_score() == 1.0
    # The agents' calls are spans of their rollouts; those of the algorithm belong to none.
    assert len(endpoint.asked("agent")) == len(await store.query_rollouts())
    for tried in await store.query_rollouts():
        names = [span.name for span in await store.query_spans(tried.rollout_id)]
        assert names.count("openai.chat.completion") == 1


async def test_the_best_prompt_is_the_latest_in_the_store_beside_the_other_resources(endpoint: ScriptedModel) -> None:
    store = InMemoryLightningStore()
    apo = await optimise(endpoint, store=store)

    latest = await store.get_latest_resources()
    assert latest is not None
    assert latest.resources == {"llm": RESOURCES["llm"], "prompt": apo.get_best_prompt()}
    assert list(latest.resources) == ["llm", "prompt"]
    for update in await store.query_resources():
        assert update.resources["llm"] == RESOURCES["llm"]


async def test_beams_branches_and_batches_are_as_wide_as_asked_for(endpoint: ScriptedModel) -> None:
    store = InMemoryLightningStore()
    apo = await optimise(
        endpoint, store=store, beam_width=3, branch_factor=2, gradient_batch_size=4, val_batch_size=5, beam_rounds=2
    )

    edits = 3 * 2 * 2
    assert len(endpoint.asked("critic")) == len(endpoint.asked("editor")) == edits
    assert all(request["temperature"] == 1.0 for request in endpoint.requests)
    assert all(messages[1]["content"].count("<trial ") == 4 for messages in endpoint.asked("critic"))
    assert [each.number for each in apo.history] == [1, 2]
    assert all(1 <= len(each.beam) <= 3 for each in apo.history)
    modes = Counter(rollout.mode for rollout in await store.query_rollouts())
    compared = sum(len(each.scores) for each in apo.history)
    judged = {"v0", *(each.beam[0].version for each in apo.history)}
    assert modes == {"train": edits * 4, "val": compared * 5 + len(judged) * len(VAL)}


async def test_history_tells_where_each_prompt_came_from(endpoint: ScriptedModel) -> None:
    apo = await optimise(endpoint)

    first, second = apo.history
    assert isinstance(first, BeamRound)
    assert isinstance(first.best, Candidate)
    assert "v0" in first.scores
    for each in (first, second):
        assert list(each.scores.values()) == sorted(each.scores.values(), reverse=True)
        assert [candidate.version for candidate in each.beam] == list(each.scores)[:2]
    made = {candidate.version: candidate for each in apo.history for candidate in each.beam}
    best = made[second.best.version]
    assert best.critique is not None
    assert best.critique.startswith("It lacks ")
    assert best.parent in first.scores


async def test_prompts_are_compared_on_the_same_tasks(endpoint: ScriptedModel) -> None:
    store = InMemoryLightningStore()
    await optimise(endpoint, store=store, beam_rounds=1, run_initial_validation=False, val_batch_size=3)

    tried: dict[str, list[Any]] = {}
    for each in await store.query_rollouts():
        if each.mode == "val":
            tried.setdefault((each.metadata or {})["apo_version"], []).append(each.input)
    compared = {tuple(inputs[:3]) for inputs in tried.values()}
    assert len(tried) > 2
    assert len(compared) == 1


async def test_the_same_seed_finds_the_same_prompts(endpoint: ScriptedModel) -> None:
    one, two, other = [await optimise(endpoint, seed=seed, beam_rounds=1) for seed in (3, 3, 4)]
    assert one.history == two.history
    assert one.history != other.history


async def test_critics_see_tasks_conversations_rewards_and_failures(endpoint: ScriptedModel) -> None:
    await optimise(endpoint, train=["val 0", "train 1"], gradient_batch_size=2, beam_rounds=1)

    shown = endpoint.asked("critic")[0][1]["content"]
    assert shown.startswith("<template>\nAnswer {question}.\n</template>")
    assert "Task: train 1" in shown
    assert "[user] Answer train 1.\n[assistant] I was told: Answer train 1." in shown
    assert "reward=0>\nTask: val 0\nIt failed: ValueError: this one always fails\n</trial>" in shown


async def test_editors_see_the_prompt_the_critique_and_the_blanks(endpoint: ScriptedModel) -> None:
    await optimise(endpoint, beam_rounds=1)
    asked = endpoint.asked("editor")[0][1]["content"]
    assert asked.startswith("<template>\nAnswer {question}.\n</template>")
    assert "It has exactly these blanks: question." in asked
    assert "<critique>\nIt lacks " in asked


async def test_long_conversations_are_shown_without_their_middle(endpoint: ScriptedModel) -> None:
    task = "begin" + "x" * 100_000 + "end"
    await optimise(endpoint, train=[task], beam_rounds=1)
    shown = endpoint.asked("critic")[0][1]["content"]
    assert len(shown) < 20_000
    assert "characters left out" in shown
    assert "Task: begin" in shown
    assert "xend\n" in shown


async def test_an_edit_that_breaks_the_blanks_is_sent_back() -> None:
    def careless(model: str, messages: list[dict[str, str]]) -> str:
        if model == "critic" or len(messages) > 2:
            return improve(model, messages)
        return '<template>{"question": alpha}</template>'

    with ScriptedModel(careless) as endpoint:
        apo = await optimise(endpoint, beam_rounds=1, branch_factor=1)
    corrections = [messages for messages in endpoint.asked("editor") if len(messages) == 4]
    assert len(corrections) == 2
    assert corrections[0][2]["content"] == '<template>{"question": alpha}</template>'
    assert "braces that mark none must be doubled" in corrections[0][3]["content"]
    assert share_of_words(apo.get_best_prompt().template) == 0.25


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("no blanks", "lacks the blanks question"),
        ("{question} {more}", "nothing fills the blanks more"),
        ("<template></template>", "it is empty"),
    ],
)
async def test_an_edit_that_stays_useless_is_dropped(bad: str, why: str) -> None:
    with ScriptedModel(lambda model, messages: improve(model, messages) if model == "critic" else bad) as endpoint:
        with pytest.raises(RuntimeError, match=f"none of the 4 edits of this round could be made.*{why}"):
            await optimise(endpoint)
        assert len(endpoint.asked("editor")) == 4 * 3


async def test_an_edit_that_a_model_refuses_costs_that_edit_alone(caplog: pytest.LogCaptureFixture) -> None:
    asked = iter(range(100))

    def flaky(model: str, messages: list[dict[str, str]]) -> str | None:
        return None if model == "critic" and next(asked) == 0 else improve(model, messages)

    with ScriptedModel(flaky) as endpoint:
        apo = await optimise(endpoint)
    assert len([record for record in caplog.records if "is left out" in record.message]) == 1
    assert apo.get_best_score() > 0


async def test_models_that_cannot_be_reached_end_the_search_and_say_why() -> None:
    with (
        ScriptedModel(lambda model, messages: None) as endpoint,
        pytest.raises(RuntimeError, match=r"none of the 4 edits.*no such model"),
    ):
        await optimise(endpoint)


async def test_a_model_that_says_nothing_is_named() -> None:
    with (
        ScriptedModel(lambda model, messages: " ") as endpoint,
        pytest.raises(RuntimeError, match="the model critic answered with no text"),
    ):
        await optimise(endpoint)


@rollout
async def failing(task: str, prompt_template: PromptTemplate) -> None:
    raise LookupError("no database")


@rollout
async def silent(task: str, prompt_template: PromptTemplate) -> None:
    return None


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize(
    ("agent", "why"), [(failing, "The last failure was: LookupError: no database"), (silent, "Return a number")]
)
async def test_without_any_reward_the_search_ends_and_says_why(
    endpoint: ScriptedModel, agent: Any, why: str, initial: bool
) -> None:
    with pytest.raises(RuntimeError, match=f"no rollout has reported a reward so far. {why}"):
        await optimise(endpoint, agent=agent, run_initial_validation=initial)


async def test_without_initial_validation_nothing_is_judged_before_the_first_round(endpoint: ScriptedModel) -> None:
    store = InMemoryLightningStore()
    apo = await optimise(endpoint, store=store, run_initial_validation=False, beam_rounds=1)
    first = (await store.query_rollouts(sort_by="start_time", limit=1))[0]
    assert first.mode == "train"
    assert apo.get_best_score() > 0


async def test_prompts_that_come_up_again_are_not_tried_again() -> None:
    with ScriptedModel(lambda model, messages: "<template>Answer {question}.</template>") as endpoint:
        apo = await optimise(endpoint, agent=constant)
    assert [list(each.scores) for each in apo.history] == [["v0"], ["v0"]]
    assert apo.get_best_prompt() == SEED


@rollout
async def constant(task: str, prompt_template: PromptTemplate) -> float:
    return 0.5


@pytest.mark.parametrize(
    ("resources", "found"),
    [({}, "0 of them"), ({"a": SEED, "b": SEED}, "2 of them: a, b"), ({"llm": RESOURCES["llm"]}, "0 of them")],
)
async def test_there_must_be_one_prompt_to_start_from(
    endpoint: ScriptedModel, resources: NamedResources, found: str
) -> None:
    with pytest.raises(ValueError, match=f"the one PromptTemplate among the trainer's initial_resources.*{found}"):
        await optimise(endpoint, resources=resources)


async def test_a_dataset_that_is_none_is_named(endpoint: ScriptedModel) -> None:
    with pytest.raises(TypeError, match=r"train_dataset must be a list.* and not a generator"):
        await optimise(endpoint, train=(task for task in TRAIN))


@pytest.mark.parametrize("missing", [{"train": None}, {"val": None}, {"train": []}, {"val": []}])
async def test_both_datasets_are_needed(endpoint: ScriptedModel, missing: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs a train_dataset .* and a val_dataset"):
        await optimise(endpoint, **missing)


@pytest.mark.parametrize(
    "bad",
    [
        *({size: 0} for size in ("gradient_batch_size", "val_batch_size", "beam_width", "branch_factor")),
        {"beam_rounds": 0},
        {"rollout_batch_timeout": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        APO(AsyncOpenAI(api_key="any"), **bad)


def test_there_is_no_best_prompt_before_the_search() -> None:
    apo = APO[str](AsyncOpenAI(api_key="any"))
    assert list(apo.history) == []
    with pytest.raises(ValueError, match="no best prompt yet"):
        apo.get_best_prompt()


def make_trials(store: LightningStore, patience: float) -> Trials:
    return Trials(store, TraceToMessages(), RESOURCES, "prompt", patience)


async def serve(store: LightningStore, count: int, before: Callable[[], Any]) -> None:
    """Finishes rollouts one by one."""
    for _ in range(count):
        claimed = await store.dequeue_rollout(wait=20)
        assert claimed is not None
        await before()
        await store.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded")


async def test_rollouts_that_nobody_finishes_are_given_up_and_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryLightningStore()
    trials = make_trials(store, patience=0.2)
    candidate = Candidate("v0", SEED)
    await trials.publish(candidate)

    tried, _ = await asyncio.gather(
        trials.run(candidate, ["a", "b", "c"], "val"), serve(store, 1, before=lambda: asyncio.sleep(0))
    )

    assert [(trial.task, trial.status, trial.score) for trial in tried] == [
        ("a", "succeeded", 0.0),
        ("b", "cancelled", 0.0),
        ("c", "cancelled", 0.0),
    ]
    assert tried[1].failure == "it took too long"
    assert [rollout.status for rollout in await store.query_rollouts()] == ["succeeded", "cancelled", "cancelled"]
    assert "rollout_batch_timeout" in caplog.text


async def test_patience_begins_anew_with_each_rollout_that_finishes() -> None:
    store = InMemoryLightningStore()
    trials = make_trials(store, patience=1.0)
    candidate = Candidate("v0", SEED)
    await trials.publish(candidate)

    tried, _ = await asyncio.gather(
        trials.run(candidate, list(range(4)), "val"), serve(store, 4, before=lambda: asyncio.sleep(0.3))
    )

    assert [trial.status for trial in tried] == ["succeeded"] * 4


async def test_a_rollout_that_is_deleted_is_not_waited_for() -> None:
    store = InMemoryLightningStore()
    trials = make_trials(store, patience=60)
    candidate = Candidate("v0", SEED)
    await trials.publish(candidate)

    running = asyncio.create_task(trials.run(candidate, ["a", "b"], "val"))
    first = await store.dequeue_rollout(wait=20)
    assert first is not None
    await store.delete_rollouts(rollout_ids=[first.rollout_id])
    await serve(store, 1, before=lambda: asyncio.sleep(0))

    assert [trial.failure for trial in await running] == ["it was deleted", ""]


@pytest.mark.parametrize(
    ("template", "engine", "names"),
    [
        ("{a} {b.c} {d[0]:>{width}} {{x}}", "f-string", {"a", "b", "d", "width"}),
        ("plain", "f-string", set()),
        ("{{ a }} {% for x in xs %}{{ x }}{% endfor %} {b}", "jinja", {"a", "xs"}),
        ("<p>{{ a }}</p>", "poml", None),
    ],
)
def test_the_blanks_of_a_template_are_found(template: str, engine: Any, names: set[str] | None) -> None:
    assert find_placeholders(PromptTemplate(template=template, engine=engine)) == names


@pytest.mark.parametrize(("template", "engine"), [('{"a": 1}', "f-string"), ("{", "f-string"), ("{% if", "jinja")])
def test_a_template_that_cannot_be_filled_is_told(template: str, engine: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        find_placeholders(PromptTemplate(template=template, engine=engine))


async def test_a_prompt_that_is_no_template_may_be_edited_freely(caplog: pytest.LogCaptureFixture) -> None:
    prompt = PromptTemplate(template='Answer with {"place": ...}.', engine="f-string")

    @rollout
    async def raw(task: str, prompt_template: PromptTemplate) -> float:
        return share_of_words(prompt_template.template)

    with ScriptedModel(improve) as endpoint:
        apo = await optimise(endpoint, agent=raw, resources={"prompt": prompt}, beam_rounds=1)
    assert apo.get_best_score() == 0.25
    assert "may change the blanks" in caplog.text


@pytest.mark.parametrize(
    ("answer", "template"),
    [
        ("<template>\na\n</template>", "a"),
        ("Sure!\n<template>a <b></template> Done.", "a <b>"),
        ("<template>cut off", "cut off"),
        ("  bare \n", "bare"),
    ],
)
def test_the_template_is_taken_out_of_the_answer(answer: str, template: str) -> None:
    assert template_of(answer) == template


def test_a_trainer_runs_it_with_an_adapter_of_another_kind_too(
    endpoint: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agentlightning")
    # No connection may outlive the loop of the trainer.
    http_client = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))
    apo = APO[str](
        AsyncOpenAI(base_url=endpoint.base_url, api_key="any", max_retries=0, http_client=http_client),
        gradient_model="critic",
        apply_edit_model="editor",
        beam_rounds=1,
        beam_width=2,
        branch_factor=1,
        val_batch_size=4,
    )
    trainer = Trainer(algorithm=apo, n_runners=4, strategy="shm", initial_resources=RESOURCES)
    trainer.fit(answer, TRAIN, val_dataset=VAL)
    assert share_of_words(apo.get_best_prompt().template) == 0.25
    assert "[user] Answer train" in endpoint.asked("critic")[0][1]["content"]
    assert "round 1 of 1" in caplog.text
    assert "after round 1 the best prompt is v" in caplog.text


def test_it_needs_no_openai_to_be_imported() -> None:
    code = "import sys; from agentlightning.algorithm.apo import APO; assert 'openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
